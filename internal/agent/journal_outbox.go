package agent

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"holdfast/internal/link"
	"holdfast/internal/step"
)

// entry is a report on its way into the outbox. It takes the place of an unsent one with the same name in replaces.
type entry struct {
	replaces string
	report   link.Report
}

// spool writes one report at the end of the outbox.
func spool(ctx context.Context, tx *sql.Tx, replaces string, report link.Report) error {
	if replaces != "" {
		if _, err := tx.ExecContext(ctx, "DELETE FROM outbox WHERE replaces = ?", replaces); err != nil {
			return err
		}
	}
	body, err := encode(report)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO outbox (replaces, result, body) VALUES (?, ?, ?)",
		sql.NullString{String: replaces, Valid: replaces != ""}, report.Result != nil, body)
	return err
}

// spoolUpdate spools a word about an order. It takes the place of unsent progress of the same order: only the newest
// progress is worth sending, and none is worth sending after the end.
func spoolUpdate(ctx context.Context, tx *sql.Tx, update step.Update, now time.Time) error {
	progress := "progress " + update.OrderID
	if !update.State.Final() {
		return spool(ctx, tx, progress, link.Report{At: now, Update: &update})
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM outbox WHERE replaces = ?", progress); err != nil {
		return err
	}
	return spool(ctx, tx, "", link.Report{At: now, Update: &update})
}

// Spool writes reports at the end of the outbox, all or none.
func (j *Journal) Spool(ctx context.Context, entries []entry) error {
	return j.tx(ctx, "spool", func(tx *sql.Tx) error {
		for _, e := range entries {
			if err := spool(ctx, tx, e.replaces, e.report); err != nil {
				return err
			}
		}
		return nil
	})
}

// Progress spools a word about an order that still runs, and keeps it as the order's last word; it does nothing once
// the order has ended, so that progress never overtakes the end.
func (j *Journal) Progress(ctx context.Context, update step.Update) error {
	return j.lazyTx(ctx, "progress", func(tx *sql.Tx) error {
		last, err := encode(update)
		if err != nil {
			return err
		}
		done, err := tx.ExecContext(ctx, "UPDATE orders SET last = ? WHERE id = ? AND state = ?", last, update.OrderID, stateTaken)
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return err
		}
		return spoolUpdate(ctx, tx, update, update.At)
	})
}

// batchBytes bounds one batch, well below what the link takes.
const batchBytes = 1 << 20

// Unsent gives the oldest reports that are not acknowledged, at most limit and about a megabyte.
func (j *Journal) Unsent(ctx context.Context, limit int) ([]link.Report, error) {
	rows, err := j.db.QueryContext(ctx, "SELECT seq, body FROM outbox ORDER BY seq LIMIT ?", limit)
	if err != nil {
		return nil, fmt.Errorf("read reports from journal: %w", err)
	}
	defer func() { _ = rows.Close() }() // reading only; rows.Err tells what matters
	var all []link.Report
	for size := 0; size < batchBytes && rows.Next(); {
		var seq int64
		var body string
		if err := rows.Scan(&seq, &body); err != nil {
			return nil, fmt.Errorf("read reports from journal: %w", err)
		}
		var report link.Report
		if err := json.Unmarshal([]byte(body), &report); err != nil {
			return nil, fmt.Errorf("read report %d from journal: %w", seq, err)
		}
		report.Seq = seq
		size += len(body)
		all = append(all, report)
	}
	return all, rows.Err()
}

// Acknowledged drops the reports that the server has committed. Should that be forgotten, they are sent once more, and
// the server knows them by their numbers.
func (j *Journal) Acknowledged(ctx context.Context, through int64) error {
	return j.lazyTx(ctx, "acknowledge", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM outbox WHERE seq <= ?", through)
		return err
	})
}

// KeepResults is how many answers to checks wait for the server at most: days of them, and less than a gigabyte.
const KeepResults = 1_000_000

// Thin drops the oldest waiting results beyond keep, and tells in their place how many there were. Orders' ends and
// events are never dropped.
func (j *Journal) Thin(ctx context.Context, keep int, now time.Time) (dropped int64, err error) {
	err = j.tx(ctx, "thin", func(tx *sql.Tx) error {
		done, err := tx.ExecContext(ctx, `DELETE FROM outbox WHERE result = 1 AND seq <=
			(SELECT seq FROM outbox WHERE result = 1 ORDER BY seq DESC LIMIT 1 OFFSET ?)`, keep)
		if err != nil {
			return err
		}
		if dropped, err = done.RowsAffected(); err != nil || dropped == 0 {
			return err
		}
		return spool(ctx, tx, "", link.Report{At: now, Event: &link.Event{Kind: "results_dropped", At: now,
			Note: fmt.Sprintf("%d results were dropped: the server was away for too long", dropped)}})
	})
	return dropped, err
}

// Agree settles the numbering with the server, before anything is sent over a new connection: through is how far the
// server has this node's reports. A journal that has never sent anything, or has never written that number, is a new
// or an older one, and the server knows those numbers as other reports: every unsent report then moves behind through.
func (j *Journal) Agree(ctx context.Context, through int64) (moved bool, err error) {
	err = j.tx(ctx, "agree", func(tx *sql.Tx) error {
		agreed, err := getMeta(ctx, tx, "agreed")
		if err != nil {
			return err
		}
		var last int64
		if err := tx.QueryRowContext(ctx, "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'outbox'").Scan(&last); err != nil {
			return err
		}
		if moved = through > last || agreed == "" && through > 0; !moved {
			return setMeta(ctx, tx, "agreed", "yes")
		}
		return errors.Join(shift(ctx, tx, through, last+through), setMeta(ctx, tx, "agreed", "yes"))
	})
	return moved, err
}

// shift adds by to every number, over negative ones so that none meets another on the way, and sets the counter.
func shift(ctx context.Context, tx *sql.Tx, by, last int64) error {
	if _, err := tx.ExecContext(ctx, "UPDATE outbox SET seq = -(seq + ?)", by); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "UPDATE outbox SET seq = -seq"); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM sqlite_sequence WHERE name = 'outbox'"); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO sqlite_sequence (name, seq) VALUES ('outbox', ?)", last)
	return err
}

// LastSeq is the number of the newest report ever written.
func (j *Journal) LastSeq(ctx context.Context) (seq int64, err error) {
	err = j.db.QueryRowContext(ctx, "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'outbox'").Scan(&seq)
	return seq, err
}
