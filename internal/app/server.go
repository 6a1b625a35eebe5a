//go:build !slim

package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"holdfast/internal/access"
	"holdfast/internal/apply"
	"holdfast/internal/audit"
	"holdfast/internal/config"
	"holdfast/internal/db"
	"holdfast/internal/observe"
	"holdfast/internal/problem"
	"holdfast/internal/recovery"
	"holdfast/internal/secret"
	"holdfast/internal/secret/keeper"
	"holdfast/internal/server"
)

// Server is a control plane: opened, listening, and not serving before Run.
type Server struct {
	settings config.Server
	version  string
	log      *slog.Logger
	metrics  *prometheus.Registry

	mail    *mailer // nil = no mail is sent
	db      *db.DB
	box     *secret.Box
	keys    *access.Keys
	secrets *secret.Store
	audit   *audit.Log

	listener net.Listener
	stopping atomic.Bool
	closers  []func() error
}

// Loop is a part that works until its context ends; an error ends the server.
type Loop struct {
	Name string
	Run  func(ctx context.Context) error
}

// How long requests may take to end when the server is asked to stop: those that only follow events are told after
// the first, all others are cut off after the second.
const (
	followersEnd = 2 * time.Second
	graceful     = 10 * time.Second
)

// Process is what a server takes from the process it runs in.
type Process struct {
	Version string
	Key     string    // URL of the keeper of secrets, when settings name no key file
	Mail    string    // password at the mail server
	Logs    io.Writer // takes the log, as JSON
	People  io.Writer // takes what a person must read once: the first admin token
}

// NewKey writes a fresh key to a file that must not exist yet.
func NewKey(file string) error { return keeper.Create(file) }

// OpenServer opens a control plane: key, data folder, database, keys, port. What it opened is closed again when it
// fails; without a key nothing is touched.
func OpenServer(ctx context.Context, settings config.Server, process Process) (*Server, error) {
	if err := settings.Check(); err != nil {
		return nil, err
	}
	key, err := keeper.Read(settings.KeyFile, process.Key)
	if err != nil {
		return nil, err
	}
	level, err := logLevel(settings.LogLevel)
	if err != nil {
		return nil, err
	}
	s := &Server{settings: settings, version: process.Version, metrics: newMetrics(),
		log: slog.New(slog.NewJSONHandler(process.Logs, &slog.HandlerOptions{Level: level}))}
	if settings.SMTP != "" {
		if s.mail, err = newMailer(settings.SMTP, process.Mail, settings.MailFrom); err != nil {
			return nil, err
		}
	}
	if err := s.open(ctx, key, process.People); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) open(ctx context.Context, key string, people io.Writer) error {
	if err := s.lockData(); err != nil {
		return err
	}
	err := s.openKeys(ctx, key)
	if err != nil {
		return err
	}
	s.secrets = secret.NewStore(s.box)
	if s.listener, err = net.Listen("tcp", s.settings.Listen); err != nil {
		return problem.Wrap(err, problem.Unavailable, "choose another address with --listen", "server was not started: port is not free")
	}
	s.closers = append(s.closers, func() error { return ignoreClosed(s.listener.Close()) })
	return s.firstAdmin(ctx, people)
}

// openDatabase opens the database and the data key, in this order: without the right key nothing else is touched.
func (s *Server) openDatabase(ctx context.Context, key string) (*secret.Box, error) {
	k, err := keeper.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, k.Close)
	if err := s.dial(ctx); err != nil {
		return nil, err
	}
	return secret.OpenBox(ctx, s.db, k)
}

// dial opens the database.
func (s *Server) dial(ctx context.Context) (err error) {
	dsn := s.settings.Database
	if dsn == "" {
		dsn = filepath.Join(s.settings.Data, "control.db")
	}
	s.db, err = db.Open(ctx, dsn)
	if errors.Is(err, db.ErrNewer) {
		return problem.Wrap(err, problem.Conflict, "start the newer binary, or restore the database from before the upgrade", "server was not started, and the database was left as it is")
	}
	if err != nil {
		return problem.Wrap(err, problem.Unavailable, "check --db and the data folder", "server was not started")
	}
	s.closers = append(s.closers, s.db.Close)
	return nil
}

// URL is where the server is reached.
func (s *Server) URL() string {
	_, port, _ := net.SplitHostPort(s.listener.Addr().String()) // a listener's own address is well formed
	return s.settings.URL(port)
}

// Run serves until ctx ends, then lets requests end, stops the loops and closes everything.
func (s *Server) Run(ctx context.Context) error {
	defer func() { _ = s.Close() }() // errors of closing after all work has ended change nothing
	collectRarely(serverFloor)
	parts, err := s.wire()
	if err != nil {
		return err
	}
	return s.serve(ctx, parts)
}

// parts is what wire joined.
type parts struct {
	mounts []server.Mount
	loops  []Loop
	drain  func() // ends what would keep the port busy: the agents' streams

	observer *observe.Observer
	declared *apply.Declared
	planner  *apply.Planner
	runner   *recovery.Runner
}

func (s *Server) serve(ctx context.Context, parts parts) error {
	requests, endRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer endRequests()
	web := &http.Server{
		BaseContext:       func(net.Listener) context.Context { return requests },
		Handler:           server.New(s.serverParts(parts)),
		TLSConfig:         s.keys.Authority.ServerTLS(s.settings.CertificateNames(), time.Now),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // handshakes that fail are the caller's trouble
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return ignoreClosed(web.ServeTLS(s.listener, "", "")) })
	group.Go(func() error {
		<-ctx.Done()
		s.stopping.Store(true)
		s.log.Info("server is stopping")
		parts.drain()
		time.AfterFunc(followersEnd, endRequests)
		return stop(web)
	})
	for _, loop := range parts.loops {
		group.Go(func() error { return s.runLoop(ctx, loop) })
	}
	s.log.Info("server is ready", "url", s.URL(), "database", s.db.Engine, "version", s.version)
	return group.Wait()
}

// runLoop tells an end that was asked for from one that was not.
func (s *Server) runLoop(ctx context.Context, loop Loop) error {
	err := loop.Run(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = errors.New("it ended on its own")
	}
	return fmt.Errorf("run %s: %w", loop.Name, err)
}

// stop waits for requests to end, and cuts off those that take too long.
func stop(web *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), graceful)
	defer cancel()
	if err := web.Shutdown(ctx); err != nil {
		return web.Close()
	}
	return nil
}

func (s *Server) serverParts(parts parts) server.Parts {
	return server.Parts{
		DB: s.db, Keys: s.keys, Secrets: s.secrets, Audit: s.audit, Log: s.log, Metrics: s.metrics, Version: s.version,
		Ready: s.ready, Mounts: parts.mounts, Observer: parts.observer, Declared: parts.declared, Planner: parts.planner, Recovery: parts.runner,
	}
}

func (s *Server) ready(ctx context.Context) error {
	if s.stopping.Load() {
		return errors.New("it is stopping")
	}
	return s.db.PingContext(ctx)
}

// Close closes what was opened, last first. It may be called again.
func (s *Server) Close() error {
	var errs []error
	for len(s.closers) > 0 {
		last := len(s.closers) - 1
		errs = append(errs, s.closers[last]())
		s.closers = s.closers[:last]
	}
	return errors.Join(errs...)
}

func newMetrics() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

func logLevel(text string) (slog.Level, error) {
	var level slog.Level
	if text == "" {
		return slog.LevelInfo, nil
	}
	if err := level.UnmarshalText([]byte(text)); err != nil {
		return level, problem.New(problem.Usage, "", "log level %q is not one of debug, info, warn, error", text)
	}
	return level, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
