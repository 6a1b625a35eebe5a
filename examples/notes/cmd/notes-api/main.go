// Command notes-api serves the notes of one customer. It is set by the environment: NOTES_LISTEN, NOTES_DB,
// NOTES_FILES, NOTES_SECRET, NOTES_INSTANCE, NOTES_VERSION and NOTES_STATUS_AGENT.
package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"holdfast/examples/notes/notes"
)

func main() {
	if err := run(); err != nil {
		slog.Error("notes-api ended", "err", err)
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
	api := notes.API{Store: store, Instance: os.Getenv("NOTES_INSTANCE"), Version: os.Getenv("NOTES_VERSION"), StatusAgent: os.Getenv("NOTES_STATUS_AGENT")}
	server := &http.Server{Addr: os.Getenv("NOTES_LISTEN"), Handler: api.Handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(grace) // what did not end in its grace is cut by the exit
	}()
	slog.Info("notes-api serves", "listen", server.Addr, "instance", api.Instance, "version", api.Version)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
