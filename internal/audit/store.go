package audit

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/uptrace/bun"
	"golang.org/x/mod/sumdb/tlog"

	"holdfast/internal/db"
)

// countRecords reads the newest number, not every row: it stands in the way of each deed.
func countRecords(ctx context.Context, tx db.Tx) (n int64, err error) {
	if err := tx.NewRaw("SELECT coalesce(max(seq) + 1, 0) FROM audit_records").Scan(ctx, &n); err != nil {
		return 0, fmt.Errorf("count audit records: %w", err)
	}
	return n, nil
}

func insertRecord(ctx context.Context, tx db.Tx, r Record) error {
	_, err := tx.NewRaw("INSERT INTO audit_records (seq, at, actor, verb, object, detail) VALUES (?, ?, ?, ?, ?, ?)",
		r.Seq, db.At(r.At), r.Actor, r.Verb, r.Object, string(r.Detail)).Exec(ctx)
	if err != nil {
		return fmt.Errorf("write audit record %d: %w", r.Seq, err)
	}
	return nil
}

func insertHashes(ctx context.Context, tx db.Tx, from int64, hashes []tlog.Hash) error {
	for i, hash := range hashes {
		if _, err := tx.NewRaw("INSERT INTO audit_hashes (at, hash) VALUES (?, ?)", from+int64(i), hash.String()).Exec(ctx); err != nil {
			return fmt.Errorf("write audit hash %d: %w", from+int64(i), err)
		}
	}
	return nil
}

func insertHead(ctx context.Context, tx db.Tx, size int64, signed string) error {
	if _, err := tx.NewRaw("INSERT INTO audit_heads (size, signed) VALUES (?, ?)", size, signed).Exec(ctx); err != nil {
		return fmt.Errorf("write audit head %d: %w", size, err)
	}
	return nil
}

func selectLastHead(ctx context.Context, conn bun.IDB) (signed string, err error) {
	err = conn.NewRaw("SELECT signed FROM audit_heads ORDER BY size DESC LIMIT 1").Scan(ctx, &signed)
	return signed, err
}

func selectHead(ctx context.Context, conn bun.IDB, size int64) (signed string, err error) {
	err = conn.NewRaw("SELECT signed FROM audit_heads WHERE size = ?", size).Scan(ctx, &signed)
	return signed, err
}

// storedHashes reads the tree's hashes from the database.
type storedHashes struct {
	ctx  context.Context // of the transaction, and lives as long
	conn bun.IDB
}

// ReadHashes implements tlog.HashReader.
func (s storedHashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	if len(indexes) == 0 {
		return nil, nil
	}
	var rows []struct {
		At   int64
		Hash string
	}
	if err := s.conn.NewRaw("SELECT at, hash FROM audit_hashes WHERE at IN (?)", bun.List(indexes)).Scan(s.ctx, &rows); err != nil {
		return nil, fmt.Errorf("read audit hashes: %w", err)
	}
	found := make(map[int64]string, len(rows))
	for _, row := range rows {
		found[row.At] = row.Hash
	}
	out := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		hash, err := tlog.ParseHash(found[at])
		if err != nil {
			return nil, corrupt("hash %d of the audit log cannot be read", at)
		}
		out[i] = hash
	}
	return out, nil
}

// eachRecord visits every record in order, with its stored hash; nil when that is missing or no hash.
func eachRecord(ctx context.Context, tx db.Tx, visit func(r Record, leaf *tlog.Hash) error) error {
	const page = 1000
	for from := int64(0); ; {
		records, err := selectRecords(ctx, tx, "WHERE seq >= ? ORDER BY seq LIMIT ?", from, page)
		if err != nil {
			return err
		}
		leaves, err := leavesOf(ctx, tx, records)
		if err != nil {
			return err
		}
		for _, r := range records {
			if err := visit(r, leaves[r.Seq]); err != nil {
				return err
			}
			from = r.Seq + 1
		}
		if len(records) < page {
			return nil
		}
	}
}

func leavesOf(ctx context.Context, tx db.Tx, records []Record) (map[int64]*tlog.Hash, error) {
	seqAt := map[int64]int64{}
	var indexes []int64
	for _, r := range records {
		at := tlog.StoredHashIndex(0, r.Seq)
		seqAt[at], indexes = r.Seq, append(indexes, at)
	}
	if len(indexes) == 0 {
		return nil, nil
	}
	rows, err := tx.QueryContext(ctx, tx.NewSelect().TableExpr("audit_hashes").Column("at", "hash").Where("at IN (?)", bun.List(indexes)).String())
	if err != nil {
		return nil, fmt.Errorf("read audit hashes: %w", err)
	}
	leaves := map[int64]*tlog.Hash{}
	return leaves, scanHashes(rows, func(at int64, hash tlog.Hash) error { leaves[seqAt[at]] = &hash; return nil })
}

func eachHash(ctx context.Context, tx db.Tx, visit func(at int64, hash tlog.Hash) error) error {
	rows, err := tx.QueryContext(ctx, "SELECT at, hash FROM audit_hashes ORDER BY at")
	if err != nil {
		return fmt.Errorf("read audit hashes: %w", err)
	}
	return scanHashes(rows, visit)
}

// scanHashes visits every row; a hash that cannot be parsed is visited as the zero hash, which no tree holds.
func scanHashes(rows *sql.Rows, visit func(at int64, hash tlog.Hash) error) error {
	defer rows.Close()
	for rows.Next() {
		var at int64
		var text string
		if err := rows.Scan(&at, &text); err != nil {
			return fmt.Errorf("read audit hashes: %w", err)
		}
		hash, _ := tlog.ParseHash(text)
		if err := visit(at, hash); err != nil {
			return err
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

// Filter narrows List. Zero fields do not narrow.
type Filter struct {
	Before int64  // records with a lower sequence number than this; 0 = from the newest
	Object string // records of exactly this object
	Actor  string
	Limit  int // 0 = 100
}

// List lists records, newest first.
func List(ctx context.Context, conn bun.IDB, f Filter) ([]Record, error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	return selectRecords(ctx, conn, `WHERE (? = 0 OR seq < ?) AND (? = '' OR object = ?) AND (? = '' OR actor = ?)
		ORDER BY seq DESC LIMIT ?`, f.Before, f.Before, f.Object, f.Object, f.Actor, f.Actor, f.Limit)
}

// Head is the newest signed head; "" for an empty log.
func Head(ctx context.Context, conn bun.IDB) (string, error) {
	signed, err := selectLastHead(ctx, conn)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return signed, err
}

func selectRecords(ctx context.Context, conn bun.IDB, rest string, args ...any) ([]Record, error) {
	var rows []struct {
		Seq    int64
		At     db.Time
		Actor  string
		Verb   string
		Object string
		Detail string
	}
	if err := conn.NewRaw("SELECT seq, at, actor, verb, object, detail FROM audit_records "+rest, args...).Scan(ctx, &rows); err != nil {
		return nil, fmt.Errorf("read audit records: %w", err)
	}
	records := make([]Record, len(rows))
	for i, r := range rows {
		records[i] = Record{r.Seq, r.At.Time, r.Actor, r.Verb, r.Object, json.RawMessage(r.Detail)}
		if r.Detail == "" {
			records[i].Detail = nil
		}
	}
	return records, nil
}
