// Package dbtest opens real control databases for tests: a SQLite file in the test's folder and a PostgreSQL that
// the test process starts itself.
package dbtest

import (
	"context"
	"path/filepath"
	"testing"

	"holdfast/internal/db"
)

// Open opens a fresh SQLite control database that is closed when the test ends.
func Open(t testing.TB) *db.DB {
	t.Helper()
	d, err := db.Open(context.Background(), filepath.Join(t.TempDir(), "control.db"))
	if err != nil {
		t.Fatalf("open control database: %v", err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}
