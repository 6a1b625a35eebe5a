package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sort"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"holdfast/internal/db"
	"holdfast/internal/problem"
)

// Verified is what a whole log was found to be.
type Verified struct {
	Records int64  `json:"records"`
	Root    string `json:"root"`
	Head    string `json:"head"` // the signed head; keep it elsewhere
}

// Verify reads the whole log and proves that each record is what it was when it was written. Kept is a signed head
// from earlier, kept elsewhere; "" for none. The first record that does not hold is named in a problem of kind Corrupt.
func (l *Log) Verify(ctx context.Context, tx db.Tx, kept string) (Verified, error) {
	signed, err := selectLastHead(ctx, tx)
	if errors.Is(err, sql.ErrNoRows) {
		signed, err = "", nil
	}
	if err != nil {
		return Verified{}, fmt.Errorf("read the audit log's head: %w", err)
	}
	size, err := l.checkRecords(ctx, tx, signed)
	if err != nil {
		return Verified{}, err
	}
	if kept != "" {
		if err := l.checkKept(ctx, tx, size, kept); err != nil {
			return Verified{}, err
		}
	}
	root, err := tlog.TreeHash(size, storedHashes{ctx, tx})
	return Verified{size, root.String(), signed}, err
}

// checkRecords walks the records beside their hashes and returns how many there are.
func (l *Log) checkRecords(ctx context.Context, tx db.Tx, signed string) (int64, error) {
	if signed == "" {
		n, err := countRecords(ctx, tx)
		if err != nil || n == 0 {
			return 0, err
		}
		return 0, corrupt("audit log has %d records and no signed head", n)
	}
	size, root, err := l.openHead(signed)
	if err != nil {
		return 0, corrupt("newest head of the audit log does not hold: %s", err)
	}
	tree := &computed{}
	next := int64(0)
	err = eachRecord(ctx, tx, func(r Record, leaf *tlog.Hash) error {
		defer func() { next++ }()
		return checkRecord(r, leaf, next, tree)
	})
	if err != nil {
		return 0, err
	}
	if next < size {
		return 0, corrupt("audit record %d is missing: the signed head counts %d records", next, size)
	}
	if next > size {
		return 0, corrupt("audit record %d was added behind the log's back: the signed head counts %d records", size, size)
	}
	if have, err := tlog.TreeHash(size, tree); err != nil || have != root {
		return 0, errors.Join(err, l.nameForged(ctx, tx, tree, size))
	}
	return size, checkStored(ctx, tx, tree)
}

func checkRecord(r Record, leaf *tlog.Hash, next int64, tree *computed) error {
	if r.Seq != next {
		return corrupt("audit record %d is missing", next)
	}
	have := tlog.RecordHash(r.leaf())
	if leaf == nil || *leaf != have {
		return corrupt("audit record %d was changed: it now says that %s did %q to %s at %s", r.Seq, r.Actor, r.Verb, r.Object, r.At.Format(time.RFC3339))
	}
	return tree.add(r.Seq, have)
}

// nameForged finds the first record that was changed together with all hashes: from there on no signed head holds.
func (l *Log) nameForged(ctx context.Context, tx db.Tx, tree *computed, size int64) error {
	first := sort.Search(int(size), func(i int) bool { return !l.headHolds(ctx, tx, tree, int64(i)+1) })
	return corrupt("audit record %d was changed, and the hashes with it: the head signed after it does not hold", first)
}

func (l *Log) headHolds(ctx context.Context, tx db.Tx, tree *computed, size int64) bool {
	signed, err := selectHead(ctx, tx, size)
	if err != nil {
		return false
	}
	said, root, err := l.openHead(signed)
	if err != nil || said != size {
		return false
	}
	have, err := tlog.TreeHash(size, tree)
	return err == nil && have == root
}

// checkStored compares the stored hashes with those computed from the records.
func checkStored(ctx context.Context, tx db.Tx, tree *computed) error {
	return eachHash(ctx, tx, func(at int64, stored tlog.Hash) error {
		if at >= int64(len(tree.hashes)) || tree.hashes[at] != stored {
			return corrupt("hash %d of the audit log was changed; the records themselves hold", at)
		}
		return nil
	})
}

func (l *Log) checkKept(ctx context.Context, tx db.Tx, size int64, kept string) error {
	then, root, err := l.openHead(kept)
	if err != nil {
		return problem.Wrap(err, problem.Invalid, "holdfast audit head", "kept head cannot be read")
	}
	if then > size {
		return corrupt("audit log has %d records, the kept head counts %d: records were removed", size, then)
	}
	have, err := tlog.TreeHash(then, storedHashes{ctx, tx})
	if err != nil {
		return err
	}
	if have != root {
		return corrupt("audit log is not the one whose head was kept: among its first %d records some were changed", then)
	}
	return nil
}

func corrupt(format string, args ...any) error {
	return problem.New(problem.Corrupt, "compare with a backup of the control database; treat the server as broken into until it is explained", format, args...)
}

// computed is the tree over the records as they are now, in memory.
type computed struct{ hashes []tlog.Hash }

func (c *computed) add(seq int64, leaf tlog.Hash) error {
	more, err := tlog.StoredHashesForRecordHash(seq, leaf, c)
	c.hashes = append(c.hashes, more...)
	return err
}

// ReadHashes implements tlog.HashReader.
func (c *computed) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		if at >= int64(len(c.hashes)) {
			return nil, fmt.Errorf("hash %d is beyond the tree", at)
		}
		out[i] = c.hashes[at]
	}
	return out, nil
}
