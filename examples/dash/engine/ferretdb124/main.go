// Command ferretdb is FerretDB 1.24 on SQLite: a server that speaks the protocol of MongoDB and keeps each database in
// one file. It listens where FERRETDB_LISTEN says (":27017" when it says nothing) and keeps its files in FERRETDB_DATA
// ("/data/db"), the place that MongoDB's own image uses, so that the two images can stand for each other.
//
// It is a module of its own: what FerretDB is built from is pinned here, and nothing else is.
package main

import (
	"cmp"
	"context"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		slog.Error("ferretdb ended", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	folder := cmp.Or(os.Getenv("FERRETDB_DATA"), "/data/db")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	quiet := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	server, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: cmp.Or(os.Getenv("FERRETDB_LISTEN"), ":27017")},
		Handler:   "sqlite",
		SQLiteURL: (&url.URL{Scheme: "file", Path: folder + "/"}).String(),
		Logger:    quiet,
	})
	if err != nil {
		return err
	}
	return server.Run(ctx)
}
