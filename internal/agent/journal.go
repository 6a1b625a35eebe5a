package agent

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"
	sqlitelib "modernc.org/sqlite/lib"

	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// Journal is the node's own memory: orders taken, how they ended, reports not yet acknowledged, settings and epochs.
// Every method is one transaction, so that a crash lies before it or after it and never inside.
type Journal struct {
	path  string
	db    *sql.DB
	fault func(point string) error // tests crash here: asked before and after every transaction
}

// journalSchema is version 1. A later version appends statements; see migrateJournal.
const journalSchema = `
CREATE TABLE meta     (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE orders   (id TEXT PRIMARY KEY, nonce TEXT UNIQUE, payload TEXT, state TEXT NOT NULL, last TEXT, taken_at INTEGER NOT NULL) STRICT;
CREATE TABLE outbox   (seq INTEGER PRIMARY KEY AUTOINCREMENT, replaces TEXT, result INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE INDEX outbox_replaces ON outbox (replaces) WHERE replaces IS NOT NULL;
CREATE INDEX outbox_results  ON outbox (seq) WHERE result = 1;
CREATE TABLE settings (kind TEXT PRIMARY KEY, generation INTEGER NOT NULL, boot_id TEXT NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE epochs   (instance TEXT PRIMARY KEY, epoch INTEGER NOT NULL) STRICT;
`

const journalVersion = 1

// OpenJournal opens the journal of a data directory, or starts one. A journal that is damaged is moved aside, never
// repaired in place: moved is then where it went, and the node begins as after a lost boot, fenced.
func OpenJournal(ctx context.Context, dir string) (j *Journal, moved string, err error) {
	path := filepath.Join(dir, "journal.db")
	j, err = openJournal(ctx, path)
	if !damaged(err) {
		return j, "", err
	}
	moved = fmt.Sprintf("%s.damaged-%s", path, time.Now().UTC().Format("20060102T150405"))
	if err := moveAside(path, moved); err != nil {
		return nil, "", err
	}
	j, err = openJournal(ctx, path)
	return j, moved, err
}

func openJournal(ctx context.Context, path string) (*Journal, error) {
	query := url.Values{"_txlock": {"immediate"}, "_pragma": {
		"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "cache_size(-512)",
	}}
	if err := private(path); err != nil {
		return nil, err
	}
	conn, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+query.Encode())
	if err != nil {
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	conn.SetMaxOpenConns(1) // one writer, and about a megabyte less than a pool
	j := &Journal{path: path, db: conn, fault: func(string) error { return nil }}
	if err := j.prepare(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return j, nil
}

// private makes the file before SQLite does, so that it and what SQLite puts beside it are its owner's alone.
func private(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	return file.Close()
}

// prepare checks the file and brings it to this version.
func (j *Journal) prepare(ctx context.Context) error {
	var verdict string
	if err := j.db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return fmt.Errorf("check journal %s: %w", j.path, err)
	}
	if verdict != "ok" {
		return fmt.Errorf("check journal %s: %w: %s", j.path, errDamaged, verdict)
	}
	var version int
	if err := j.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("read version of journal %s: %w", j.path, err)
	}
	if version > journalVersion {
		return problem.New(problem.Conflict, "start the newer holdfast agent",
			"journal %s was not opened: it is at version %d, this binary knows %d", j.path, version, journalVersion)
	}
	if version == journalVersion {
		return nil
	}
	return j.tx(ctx, "create", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, journalSchema+fmt.Sprintf("PRAGMA user_version = %d", journalVersion))
		return err
	})
}

var errDamaged = errors.New("the file is damaged") //nolint:gochecknoglobals // a sentinel, never assigned again

// damaged tells whether err says that the journal's bytes are not what they were.
func damaged(err error) bool {
	if errors.Is(err, errDamaged) {
		return true
	}
	engine, ok := errors.AsType[*sqlite.Error](err)
	return ok && (engine.Code()&0xff == sqlitelib.SQLITE_CORRUPT || engine.Code()&0xff == sqlitelib.SQLITE_NOTADB)
}

// Broken tells whether err means that this journal must not be written again by this process: damage, or a disk that
// did not take what it was given. Trying again and trusting the answer would be how acknowledged work is lost.
func Broken(err error) bool {
	engine, ok := errors.AsType[*sqlite.Error](err)
	return damaged(err) || ok && engine.Code()&0xff == sqlitelib.SQLITE_IOERR
}

func moveAside(path, to string) error {
	for _, part := range []string{"", "-wal", "-shm"} {
		if err := os.Rename(path+part, to+part); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("move damaged journal aside: %w", err)
		}
	}
	return nil
}

// Close closes the file.
func (j *Journal) Close() error { return j.db.Close() }

// tx runs do in one transaction, which is on disk when it returns. what names it in errors and for tests that crash
// around it.
func (j *Journal) tx(ctx context.Context, what string, do func(tx *sql.Tx) error) error {
	// A transaction that has begun is finished even when the process is stopping: half-told work is what we avoid.
	return j.within(context.WithoutCancel(ctx), j.db, what, do)
}

// lazyTx is tx for what may be forgotten when the power fails: it is written, in order with all else, and flushed to
// the disk with the next transaction that must be there. A killed process forgets nothing of it.
func (j *Journal) lazyTx(ctx context.Context, what string, do func(tx *sql.Tx) error) (err error) {
	ctx = context.WithoutCancel(ctx)
	conn, err := j.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("begin %s in journal: %w", what, err)
	}
	defer func() { err = errors.Join(err, j.flushAgain(ctx, conn), conn.Close()) }()
	if _, err := conn.ExecContext(ctx, "PRAGMA synchronous = NORMAL"); err != nil {
		return fmt.Errorf("begin %s in journal: %w", what, err)
	}
	return j.within(ctx, conn, what, do)
}

// flushAgain makes the connection flush every transaction; one that does not take it is thrown away.
func (j *Journal) flushAgain(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, "PRAGMA synchronous = FULL")
	if err == nil {
		return nil
	}
	_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // its answer is what was asked for
	return fmt.Errorf("go back to flushing the journal: %w", err)
}

// beginner is the database, or the one connection to it.
type beginner interface {
	BeginTx(ctx context.Context, options *sql.TxOptions) (*sql.Tx, error)
}

func (j *Journal) within(ctx context.Context, in beginner, what string, do func(tx *sql.Tx) error) error {
	if err := j.fault("before " + what); err != nil {
		return err
	}
	tx, err := in.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin %s in journal: %w", what, err)
	}
	if err := do(tx); err != nil {
		if told, ok := errors.AsType[*problem.Error](err); ok {
			return errors.Join(told, tx.Rollback()) // a refusal, in words for a person
		}
		return errors.Join(fmt.Errorf("%s in journal: %w", what, err), tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit %s in journal: %w", what, err)
	}
	return j.fault("after " + what)
}

// Started counts the starts of the agent on this journal and gives how many there were before.
func (j *Journal) Started(ctx context.Context) (before int, err error) {
	err = j.tx(ctx, "start", func(tx *sql.Tx) error {
		text, err := getMeta(ctx, tx, "starts")
		if err != nil {
			return err
		}
		if _, err := fmt.Sscan("0"+text, &before); err != nil {
			return err
		}
		return setMeta(ctx, tx, "starts", fmt.Sprint(before+1))
	})
	return before, err
}

func getMeta(ctx context.Context, tx *sql.Tx, name string) (value string, err error) {
	err = tx.QueryRowContext(ctx, "SELECT value FROM meta WHERE name = ?", name).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return value, err
}

func setMeta(ctx context.Context, tx *sql.Tx, name, value string) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name, value)
	return err
}

// Epochs gives the newest epoch heard of, by instance.
func (j *Journal) Epochs(ctx context.Context) (map[string]int64, error) {
	all := map[string]int64{}
	rows, err := j.db.QueryContext(ctx, "SELECT instance, epoch FROM epochs")
	if err != nil {
		return nil, fmt.Errorf("read epochs from journal: %w", err)
	}
	defer func() { _ = rows.Close() }() // reading only; rows.Err tells what matters
	for rows.Next() {
		var instance string
		var epoch int64
		if err := rows.Scan(&instance, &epoch); err != nil {
			return nil, fmt.Errorf("read epochs from journal: %w", err)
		}
		all[instance] = epoch
	}
	return all, rows.Err()
}

func epochOf(ctx context.Context, tx *sql.Tx, instance string) (epoch int64, err error) {
	err = tx.QueryRowContext(ctx, "SELECT epoch FROM epochs WHERE instance = ?", instance).Scan(&epoch)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return epoch, err
}

// raiseEpoch remembers an epoch; one below what is known changes nothing.
func raiseEpoch(ctx context.Context, tx *sql.Tx, instance string, epoch int64) error {
	if instance == "" || epoch == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO epochs (instance, epoch) VALUES (?, ?)
		ON CONFLICT (instance) DO UPDATE SET epoch = max(epoch, excluded.epoch)`, instance, epoch)
	return err
}

// micros is how the journal keeps a moment: microseconds since 1970.
func micros(t time.Time) int64 { return t.UnixMicro() }

func encode(value any) (string, error) {
	raw, err := json.Marshal(value)
	return string(raw), err
}

// stateTaken is the state of an order that is taken and has not ended.
const stateTaken = step.Running
