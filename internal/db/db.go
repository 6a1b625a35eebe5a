// Package db is the control database: one SQLite file by default, PostgreSQL by DSN, behind one type.
//
// Words: a Tx is a transaction that carries its own now; a Doorbell wakes loops after a commit and carries no data.
// Migrations are plain SQL in one folder, written so that both engines take them: TEXT, BIGINT, DOUBLE PRECISION and
// BOOLEAN only; times are BIGINT microseconds since 1970 in UTC (see Time); bytes and JSON are TEXT (see Bytes, JSON).
//
// Invariant: what one Tx does is whole or not at all; Tx run one at a time on both engines, so what a Tx has read
// stays true until it commits; a database newer than the binary is not opened.
package db

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/pressly/goose/v3"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewer is returned by Open for a database that a newer binary has migrated.
var ErrNewer = errors.New("the database was migrated by a newer holdfast")

// ErrNested is returned by Tx when it is called with the context of another Tx, which it would wait for for ever.
var ErrNested = errors.New("a transaction was begun inside another one")

// inTx marks the context of a running Tx.
type inTx struct{}

// DB is the control database.
type DB struct {
	*bun.DB
	Engine   string // "sqlite" or "postgres"
	Doorbell *Doorbell
	now      func() time.Time
	turn     chan struct{} // SQLite: held by the one transaction that runs; nil on PostgreSQL
}

// Tx is one transaction. Now is the same moment for everything in it.
type Tx struct {
	bun.Tx
	Now time.Time
}

// Open opens and migrates the database that dsn names: a path or "sqlite:PATH" is a SQLite file,
// "postgres://..." a PostgreSQL database. It returns ErrNewer when the binary is too old for it.
func Open(ctx context.Context, dsn string) (*DB, error) {
	d, goose, err := dial(dsn)
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, d.DB.DB, goose); err != nil {
		return nil, errors.Join(fmt.Errorf("migrate %s database: %w", d.Engine, err), d.Close())
	}
	return d, nil
}

func dial(dsn string) (*DB, goose.Dialect, error) {
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		conn, err := sql.Open("pgx", dsn)
		if err != nil {
			return nil, "", fmt.Errorf("open postgres database: %w", err)
		}
		conn.SetMaxOpenConns(16)
		return &DB{DB: bun.NewDB(conn, pgdialect.New()), Engine: "postgres", Doorbell: newDoorbell(), now: time.Now}, goose.DialectPostgres, nil
	}
	path := strings.TrimPrefix(dsn, "sqlite:")
	query := url.Values{"_txlock": {"immediate"}, "_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"}}
	conn, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+query.Encode())
	if err != nil {
		return nil, "", fmt.Errorf("open sqlite database %s: %w", path, err)
	}
	conn.SetMaxOpenConns(8)
	return &DB{DB: bun.NewDB(conn, sqlitedialect.New()), Engine: "sqlite", Doorbell: newDoorbell(), now: time.Now, turn: make(chan struct{}, 1)}, goose.DialectSQLite3, nil
}

func migrate(ctx context.Context, conn *sql.DB, dialect goose.Dialect) error {
	folder, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(dialect, conn, folder)
	if err != nil {
		return err
	}
	have, err := provider.GetDBVersion(ctx)
	if err != nil {
		return err
	}
	sources := provider.ListSources()
	if know := sources[len(sources)-1].Version; have > know {
		return fmt.Errorf("%w: it is at version %d, this binary knows %d", ErrNewer, have, know)
	}
	_, err = provider.Up(ctx)
	return err
}

// Tx runs do in one transaction and rings the doorbell once it is committed.
func (d *DB) Tx(ctx context.Context, do func(ctx context.Context, tx Tx) error) error {
	if ctx.Value(inTx{}) != nil {
		return ErrNested
	}
	leave, err := d.queue(ctx)
	if err != nil {
		return err
	}
	defer leave()
	err = d.RunInTx(context.WithValue(ctx, inTx{}, true), nil, func(ctx context.Context, tx bun.Tx) error {
		if err := d.lockOut(ctx, tx); err != nil {
			return fmt.Errorf("wait for the other transactions: %w", err)
		}
		return do(ctx, Tx{Tx: tx, Now: d.Now()})
	})
	if err == nil {
		d.Doorbell.Ring()
	}
	return err
}

// queue waits for the turn of this process's transactions on SQLite. SQLite itself lets those who come second sleep
// and look again, which costs milliseconds each time and is fair to nobody.
func (d *DB) queue(ctx context.Context) (leave func(), err error) {
	if d.turn == nil {
		return func() {}, nil
	}
	select {
	case d.turn <- struct{}{}:
		return func() { <-d.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// lockOut makes PostgreSQL do what SQLite's immediate transactions do: one writing transaction at a time, over all
// servers on that database. The control plane writes hundreds of rows a second at most, and code that is right
// under one rule needs no second proof under another.
func (d *DB) lockOut(ctx context.Context, tx bun.Tx) error {
	if d.Engine != "postgres" {
		return nil
	}
	_, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock(7233174417)")
	return err
}

// Now is the moment that a transaction begun now would carry: UTC, in microseconds.
func (d *DB) Now() time.Time { return d.now().UTC().Truncate(time.Microsecond) }

// SetClock replaces the clock that Tx.Now comes from; for tests that own time.
func (d *DB) SetClock(now func() time.Time) { d.now = now }
