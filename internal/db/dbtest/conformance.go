package dbtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/db"
)

// Run is the conformance suite of the control database. dsn names a new empty database at each call.
func Run(t *testing.T, dsn func(t testing.TB) string) {
	t.Run("a failed transaction leaves nothing", func(t *testing.T) { rollsBack(t, open(t, dsn(t))) })
	t.Run("a cancelled transaction leaves nothing", func(t *testing.T) { rollsBackOnCancel(t, open(t, dsn(t))) })
	t.Run("transactions run one at a time", func(t *testing.T) { oneAtATime(t, open(t, dsn(t))) })
	t.Run("a transaction inside another is refused", func(t *testing.T) { refusesNesting(t, open(t, dsn(t))) })
	t.Run("now is one moment", func(t *testing.T) { oneNow(t, open(t, dsn(t))) })
	t.Run("the doorbell rings after a commit only", func(t *testing.T) { ringsOnCommit(t, open(t, dsn(t))) })
	t.Run("values come back as they went", func(t *testing.T) { roundTrips(t, open(t, dsn(t))) })
	t.Run("a database opens again with its rows", func(t *testing.T) { reopens(t, dsn(t)) })
	t.Run("a newer database is refused", func(t *testing.T) { refusesNewer(t, dsn(t)) })
}

func rollsBack(t *testing.T, d *db.DB) {
	boom := errors.New("boom")
	err := d.Tx(t.Context(), func(ctx context.Context, tx db.Tx) error {
		set(ctx, t, tx, "a", "1")
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatalf("got %v, want the error of the transaction", err)
	}
	if n := count(t, d); n != 0 {
		t.Fatalf("%d rows after a rollback, want none", n)
	}
}

func rollsBackOnCancel(t *testing.T, d *db.DB) {
	ctx, cancel := context.WithCancel(t.Context())
	err := d.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		set(ctx, t, tx, "a", "1")
		cancel()
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
	if n := count(t, d); n != 0 {
		t.Fatalf("%d rows after a cancelled transaction, want none", n)
	}
}

// oneAtATime reads and then writes in many transactions at once: were they to overlap, increments would be lost.
func oneAtATime(t *testing.T, d *db.DB) {
	const writers, rounds = 8, 10
	if err := d.Tx(t.Context(), func(ctx context.Context, tx db.Tx) error { set(ctx, t, tx, "n", "0"); return nil }); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range rounds {
				if err := d.Tx(t.Context(), increment); err != nil {
					t.Errorf("increment: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if got, want := get(t, d, "n"), fmt.Sprint(writers*rounds); got != want {
		t.Fatalf("counter is %s, want %s", got, want)
	}
}

func increment(ctx context.Context, tx db.Tx) error {
	var n int
	if err := tx.NewRaw("SELECT CAST(value AS BIGINT) FROM settings WHERE name = 'n'").Scan(ctx, &n); err != nil {
		return err
	}
	_, err := tx.NewRaw("UPDATE settings SET value = ? WHERE name = 'n'", fmt.Sprint(n+1)).Exec(ctx)
	return err
}

func refusesNesting(t *testing.T, d *db.DB) {
	err := d.Tx(t.Context(), func(ctx context.Context, _ db.Tx) error {
		return d.Tx(ctx, func(context.Context, db.Tx) error { return nil })
	})
	if !errors.Is(err, db.ErrNested) {
		t.Fatalf("got %v, want ErrNested", err)
	}
}

func oneNow(t *testing.T, d *db.DB) {
	at := time.Date(2026, 11, 3, 4, 5, 6, 7891, time.FixedZone("away", 3600))
	d.SetClock(func() time.Time { return at })
	var now time.Time
	if err := d.Tx(t.Context(), func(_ context.Context, tx db.Tx) error { now = tx.Now; return nil }); err != nil {
		t.Fatal(err)
	}
	if want := at.UTC().Truncate(time.Microsecond); now != want {
		t.Fatalf("now is %s, want %s", now, want)
	}
}

func ringsOnCommit(t *testing.T, d *db.DB) {
	ring := d.Doorbell.Wait()
	_ = d.Tx(t.Context(), func(context.Context, db.Tx) error { return errors.New("no") }) // its error is what rollsBack tests
	select {
	case <-ring:
		t.Fatal("the doorbell rang after a rollback")
	default:
	}
	if err := d.Tx(t.Context(), func(context.Context, db.Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ring:
	default:
		t.Fatal("the doorbell did not ring after a commit")
	}
}

// sample is one row of every type that a portable table may use.
type sample struct {
	Text  string            `bun:"text"`
	Whole int64             `bun:"whole"`
	Part  float64           `bun:"part"`
	Truth bool              `bun:"truth"`
	At    db.Time           `bun:"at"`
	Never db.Time           `bun:"never"`
	Raw   db.Bytes          `bun:"raw"`
	Doc   db.JSON[[]string] `bun:"doc"`
}

func roundTrips(t *testing.T, d *db.DB) {
	must(t, d, `CREATE TABLE sample (text TEXT NOT NULL, whole BIGINT NOT NULL, part DOUBLE PRECISION NOT NULL,
		truth BOOLEAN NOT NULL, at BIGINT NOT NULL, never BIGINT NOT NULL, raw TEXT NOT NULL, doc TEXT NOT NULL)`)
	want := sample{
		Text: "Zürich – \"quoted\" 'twice' ? 🛟" + strings.Repeat("x", 1<<20), Whole: 1<<62 + 1, Part: 0.1, Truth: true,
		At:  db.At(time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)),
		Raw: db.Bytes{0, 255, 10}, Doc: db.Of([]string{"a", "ü"}),
	}
	if _, err := d.NewInsert().Model(&want).ModelTableExpr("sample").Exec(t.Context()); err != nil {
		t.Fatalf("insert: %v", err)
	}
	var got sample
	if err := d.NewSelect().Model(&got).ModelTableExpr("sample AS sample").Scan(t.Context()); err != nil {
		t.Fatalf("select: %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("the row changed (-went +came):\n%s", diff)
	}
}

func reopens(t *testing.T, dsn string) {
	first := open(t, dsn)
	must(t, first, "INSERT INTO settings (name, value, changed_at) VALUES ('kept', 'yes', 1)")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if got := get(t, open(t, dsn), "kept"); got != "yes" {
		t.Fatalf("got %q after opening again, want yes", got)
	}
}

func refusesNewer(t *testing.T, dsn string) {
	d := open(t, dsn)
	must(t, d, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, TRUE)")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := db.Open(t.Context(), dsn)
	if !errors.Is(err, db.ErrNewer) {
		t.Fatalf("got %v, want ErrNewer", err)
	}
	if want := "migrated by a newer holdfast: it is at version 99999, this binary knows "; !strings.Contains(err.Error(), want) {
		t.Fatalf("got %q, want it to contain %q", err, want)
	}
}

func set(ctx context.Context, t *testing.T, tx db.Tx, name, value string) {
	t.Helper()
	_, err := tx.NewRaw(`INSERT INTO settings (name, value, changed_at) VALUES (?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value, db.At(tx.Now)).Exec(ctx)
	if err != nil {
		t.Fatalf("set %s: %v", name, err)
	}
}

func get(t *testing.T, d *db.DB, name string) string {
	t.Helper()
	var value string
	if err := d.NewRaw("SELECT value FROM settings WHERE name = ?", name).Scan(t.Context(), &value); err != nil {
		t.Fatalf("get %s: %v", name, err)
	}
	return value
}

func count(t *testing.T, d *db.DB) (n int) {
	t.Helper()
	if err := d.NewRaw("SELECT count(*) FROM settings").Scan(t.Context(), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func must(t *testing.T, d *db.DB, statement string) {
	t.Helper()
	if _, err := d.NewRaw(statement).Exec(t.Context()); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}
