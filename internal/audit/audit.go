// Package audit is what was done, by whom: an append-only log that shows tampering.
//
// Words: a Record is one deed; the log is a Merkle tree over the records (golang.org/x/mod/sumdb/tlog, the construction
// of RFC 6962); a head is the tree's size and hash, signed by the server's audit key after each record. A head kept
// elsewhere proves later that nothing before it was changed, even by who holds the database and the key.
//
// Invariant: a record is written in the transaction of its deed, so there is no deed without its record and no record
// without its deed; a record never holds a secret.
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"holdfast/internal/access"
	"holdfast/internal/db"
)

// Record is one deed.
type Record struct {
	Seq    int64           `json:"seq"` // from 0, without gaps
	At     time.Time       `json:"at"`
	Actor  string          `json:"actor"`
	Verb   string          `json:"verb"`   // "apply plan", "create token"
	Object string          `json:"object"` // "instance/acme", "token/ci"
	Detail json.RawMessage `json:"detail,omitempty"`
}

// Entry is a deed as its doer tells it; the actor comes from the context and the time from the transaction.
type Entry struct {
	Verb   string
	Object string
	Detail any // encoded as JSON; nil = none
}

// Log appends and verifies records.
type Log struct {
	signer   note.Signer
	verifier note.Verifier
}

// New makes the log that signs its heads with the keys' audit signer.
func New(keys *access.Keys) (*Log, error) {
	verifier, err := note.NewVerifier(keys.AuditVerifierKey())
	if err != nil {
		return nil, fmt.Errorf("parse the audit verifier key: %w", err)
	}
	return &Log{keys.AuditSigner(), verifier}, nil
}

// Append writes one record and signs the new head, in the deed's own transaction.
func (l *Log) Append(ctx context.Context, tx db.Tx, entry Entry) error {
	record, err := newRecord(access.From(ctx), tx.Now, entry)
	if err != nil {
		return fmt.Errorf("record %q of %s: %w", entry.Verb, entry.Object, err)
	}
	if record.Seq, err = countRecords(ctx, tx); err != nil {
		return err
	}
	hashes, err := tlog.StoredHashes(record.Seq, record.leaf(), storedHashes{ctx, tx})
	if err != nil {
		return fmt.Errorf("hash audit record %d: %w", record.Seq, err)
	}
	if err := insertRecord(ctx, tx, record); err != nil {
		return err
	}
	if err := insertHashes(ctx, tx, tlog.StoredHashIndex(0, record.Seq), hashes); err != nil {
		return err
	}
	return l.signHead(ctx, tx, record.Seq+1)
}

func newRecord(actor access.Actor, at time.Time, entry Entry) (Record, error) {
	if actor.Name == "" {
		return Record{}, errors.New("the context names no actor")
	}
	record := Record{At: at, Actor: actor.Name, Verb: entry.Verb, Object: entry.Object}
	if entry.Detail == nil {
		return record, nil
	}
	detail, err := json.Marshal(entry.Detail)
	record.Detail = detail
	return record, err
}

// leaf is the record's canonical bytes. It must never change: old records are hashed from it.
func (r Record) leaf() []byte {
	fields := []string{strconv.FormatInt(r.Seq, 10), strconv.FormatInt(r.At.UnixMicro(), 10), r.Actor, r.Verb, r.Object, string(r.Detail)}
	for i, field := range fields {
		fields[i] = strconv.Quote(field) // quoted, so that no field can run into the next
	}
	return []byte(strings.Join(fields, " "))
}

func (l *Log) signHead(ctx context.Context, tx db.Tx, size int64) error {
	root, err := tlog.TreeHash(size, storedHashes{ctx, tx})
	if err != nil {
		return fmt.Errorf("hash the audit log: %w", err)
	}
	signed, err := note.Sign(&note.Note{Text: headText(size, root)}, l.signer)
	if err != nil {
		return fmt.Errorf("sign the audit log's head: %w", err)
	}
	return insertHead(ctx, tx, size, string(signed))
}

const headTitle = "holdfast audit log"

func headText(size int64, root tlog.Hash) string {
	return fmt.Sprintf("%s\n%d\n%s\n", headTitle, size, root)
}

// openHead verifies a signed head and reads it.
func (l *Log) openHead(signed string) (size int64, root tlog.Hash, err error) {
	opened, err := note.Open([]byte(signed), note.VerifierList(l.verifier))
	if err != nil {
		return 0, root, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != headTitle {
		return 0, root, errors.New("it is not a head of an audit log")
	}
	if size, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return 0, root, err
	}
	root, err = tlog.ParseHash(lines[2])
	return size, root, err
}
