package db_test

import (
	"context"
	"errors"
	"testing"

	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
)

func TestTxRollsBackWhole(t *testing.T) {
	d := dbtest.Open(t)
	ctx := context.Background()
	boom := errors.New("boom")
	err := d.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		if _, err := tx.NewRaw("INSERT INTO settings (name, value, changed_at) VALUES (?, ?, ?)", "a", "1", db.At(tx.Now)).Exec(ctx); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatalf("got %v, want the error of the transaction", err)
	}
	var n int
	if err := d.NewRaw("SELECT count(*) FROM settings").Scan(ctx, &n); err != nil || n != 0 {
		t.Fatalf("rows after rollback: %d, %v", n, err)
	}
}
