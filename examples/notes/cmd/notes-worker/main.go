// Command notes-worker counts the words of notes that have none yet, and beats. It is set by the environment:
// NOTES_DB, NOTES_FILES and NOTES_SECRET.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"holdfast/examples/notes/notes"
)

func main() {
	if err := run(); err != nil {
		slog.Error("notes-worker ended", "err", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	store, err := notes.Open(ctx, os.Getenv("NOTES_DB"), os.Getenv("NOTES_FILES"), os.Getenv("NOTES_SECRET"))
	if err != nil {
		return err
	}
	defer store.Close()
	slog.Info("notes-worker works")
	for ctx.Err() == nil {
		if err := turn(ctx, store); err != nil && ctx.Err() == nil {
			slog.Warn("worker turn", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}

func turn(ctx context.Context, store *notes.Store) error {
	if _, err := store.CountWords(ctx, 500); err != nil {
		return err
	}
	return store.Beat(ctx)
}
