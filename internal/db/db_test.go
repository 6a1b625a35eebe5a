package db_test

import (
	"testing"

	"holdfast/internal/db/dbtest"
)

func TestSQLite(t *testing.T) { dbtest.Run(t, dbtest.SQLiteDSN) }

func TestPostgres(t *testing.T) { dbtest.Run(t, dbtest.PostgresDSN) }
