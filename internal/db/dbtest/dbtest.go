// Package dbtest opens real control databases for tests: a SQLite file in the test's folder, and PostgreSQL in a
// cluster that the test process starts itself and that ends with it.
//
// Invariant: every test gets a database of its own; no test is left out because an engine is missing.
package dbtest

import (
	"context"
	"path/filepath"
	"testing"

	"holdfast/internal/db"
)

// Each runs the test once on SQLite and once on PostgreSQL, each time with a fresh, migrated database.
func Each(t *testing.T, test func(t *testing.T, d *db.DB)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, Open(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, OpenPostgres(t)) })
}

// Open opens a fresh SQLite control database that is closed when the test ends.
func Open(t testing.TB) *db.DB {
	t.Helper()
	return open(t, SQLiteDSN(t))
}

// OpenPostgres opens a fresh PostgreSQL control database that is dropped when the test ends.
func OpenPostgres(t testing.TB) *db.DB {
	t.Helper()
	return open(t, PostgresDSN(t))
}

// SQLiteDSN names a SQLite file that does not exist yet.
func SQLiteDSN(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "control.db")
}

func open(t testing.TB, dsn string) *db.DB {
	t.Helper()
	d, err := db.Open(context.Background(), dsn)
	if err != nil {
		t.Fatalf("open control database: %v", err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}
