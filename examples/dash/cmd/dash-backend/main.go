// Command dash-backend is the backend of the product: `dash-backend api` serves, `dash-backend worker` draws. The
// release is built in (-ldflags "-X main.version=v2.0.0"); the rest is set by the environment:
//
//	ENCRYPTION_SECRET   at least 32 characters; without it nothing starts
//	DASH_DATABASE       mongodb://HOST:PORT
//	DASH_CACHE          HOST:PORT of Redis
//	DASH_STORAGE        folder of the files; /app/storage when left out
//	DASH_LISTEN         api: where it serves
//	DASH_INSTANCE       name of the instance
//	DASH_STATUS_AGENT   api: the secret User-Agent that /status answers to
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"holdfast/examples/dash/dash"
)

// version is the release that this program was built as.
var version = "v1.0.0"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		slog.Error("dash-backend ended", "version", version, "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 1 || args[0] != "api" && args[0] != "worker" {
		return errors.New("say what to be: dash-backend api, or dash-backend worker")
	}
	release, err := dash.ParseRelease(version)
	if err != nil {
		return err
	}
	store, err := dash.Open(ctx, dash.Options{
		Database: os.Getenv("DASH_DATABASE"), Storage: cmp.Or(os.Getenv("DASH_STORAGE"), "/app/storage"),
		Secret: os.Getenv("ENCRYPTION_SECRET"), Release: release,
	})
	if err != nil {
		return err
	}
	defer store.Close()
	queue := dash.OpenQueue(os.Getenv("DASH_CACHE"))
	defer queue.Close()
	if args[0] == "worker" {
		return work(ctx, store, queue)
	}
	return serve(ctx, store, queue, release)
}

// work begins only with data of its own release; an API of the same release brings it there.
func work(ctx context.Context, store *dash.Store, queue dash.Queue) error {
	if err := store.AwaitForm(ctx); err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name worker: %w", err)
	}
	slog.Info("worker works", "version", version)
	return dash.Worker{Name: host + "." + cmp.Or(os.Getenv("HOLDFAST_REPLICA"), "1"), Store: store, Queue: queue}.Run(ctx)
}

func serve(ctx context.Context, store *dash.Store, queue dash.Queue, release dash.Release) error {
	done, err := store.Migrate(ctx)
	if err != nil {
		return err
	}
	api := dash.API{Store: store, Queue: queue, Release: release, Instance: os.Getenv("DASH_INSTANCE"), StatusAgent: os.Getenv("DASH_STATUS_AGENT")}
	server := &http.Server{Addr: os.Getenv("DASH_LISTEN"), Handler: api.Handler(), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	slog.Info("api serves", "listen", server.Addr, "instance", api.Instance, "version", version, "migrations", len(done))
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	return server.Shutdown(grace)
}
