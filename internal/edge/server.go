package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/netutil"

	"holdfast/internal/link"
	"holdfast/internal/problem"
)

// Server is one edge process: the listeners, the table, and the socket that the agent hands routes over.
type Server struct {
	settings Settings
	dir      directory
	checks   *checker
	proxy    *proxy
	log      *accessLog
	certs    *certificates
	issuer   *issuer
	started  time.Time
	life     context.Context
	end      context.CancelFunc
	unlock   func()         // lets the next edge have the directory
	open     []net.Listener // addresses and control socket

	applying sync.Mutex // one table at a time
	mu       sync.Mutex
	table    *table
	changed  chan struct{} // closed and replaced when routes or health change
	applied  time.Time
	tlsAddr  string // as bound
	plain    string
}

// Run serves until ctx ends or the socket says stop, then lets exchanges in flight end. One process serves a data
// directory at a time: a second one gets a problem of kind Busy.
func Run(ctx context.Context, settings Settings) error {
	settings = settings.withDefaults()
	if settings.Listen == "" && settings.Plain == "" {
		return problem.New(problem.Usage, "holdfast edge --data DIR --listen 0.0.0.0:443", "the edge has no address to listen on")
	}
	if err := os.MkdirAll(settings.Dir, 0o750); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	unlock, err := lock(settings.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := newServer(ctx, settings)
	if err != nil {
		return err
	}
	s.unlock = unlock
	return errors.Join(s.serve(), s.close())
}

// lock keeps a second edge off the directory. The kernel lets go of it when this process ends, however it ends.
func lock(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, "edge.lock")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close() // the lock error is the one to tell
		return nil, problem.Wrap(err, problem.Busy, "holdfast edge status --data "+dir, "no edge was started: another one serves %s", dir)
	}
	return sync.OnceFunc(func() { _ = file.Close() }), nil // closing a file that nothing was written to
}

func newServer(ctx context.Context, settings Settings) (*Server, error) {
	s := &Server{settings: settings, started: time.Now(), table: &table{}, changed: make(chan struct{})}
	s.life, s.end = context.WithCancel(ctx)
	out, err := openAccessLog(settings)
	if err != nil {
		return nil, err
	}
	s.log = newAccessLog(out)
	s.checks = newChecker(settings.Health, s.turned)
	s.proxy = newProxy(settings, s.current, s.log.add)
	s.certs = newCertificates(filepath.Join(settings.Dir, "certs"), settings.Log)
	if s.issuer, err = newIssuer(settings); err != nil {
		return nil, err
	}
	return s, nil
}

// nopCloser keeps standard output open when the log ends.
type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func openAccessLog(settings Settings) (io.WriteCloser, error) {
	switch settings.AccessLog {
	case "-":
		return nopCloser{os.Stdout}, nil
	case "":
		settings.AccessLog = filepath.Join(settings.Dir, "access.log")
	}
	return openRotated(settings.AccessLog, int64(settings.Limits.AccessLogMB)<<20, settings.Limits.AccessLogKeep)
}

// serve opens everything, says so, and waits for the end.
func (s *Server) serve() error {
	s.restore()
	if err := s.certs.reload(); err != nil {
		s.settings.Log.Error("certificate left out", "error", err)
	}
	failed := make(chan error, 3)
	servers, err := s.listen(failed)
	if err != nil {
		return err
	}
	go s.watchCertificates()
	s.settings.Log.Info("edge serves", "tls", s.tlsAddr, "plain", s.plain, "dir", s.settings.Dir, "pid", os.Getpid())
	select {
	case <-s.life.Done():
	case err = <-failed:
	}
	return errors.Join(err, s.drain(servers))
}

// listen opens the control socket last: whoever reaches it finds the addresses open.
func (s *Server) listen(failed chan<- error) ([]*http.Server, error) {
	var servers []*http.Server
	open := func(address string, encrypted bool, handler http.Handler) (string, error) {
		if address == "" {
			return "", nil
		}
		server, bound, err := s.listenOn(address, encrypted, handler, failed)
		servers = append(servers, server)
		return bound, err
	}
	var err error
	if s.tlsAddr, err = open(s.settings.Listen, true, s.proxy); err != nil {
		return nil, err
	}
	if s.plain, err = open(s.settings.Plain, false, s.plainHandler()); err != nil {
		return nil, err
	}
	control, err := s.listenControl(failed)
	if err != nil {
		return nil, err
	}
	return append(servers, control), nil
}

func (s *Server) listenOn(address string, encrypted bool, handler http.Handler, failed chan<- error) (*http.Server, string, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, "", problem.Wrap(err, problem.Conflict, "choose a free address: holdfast edge --listen ADDR", "the edge does not listen on %s", address)
	}
	s.open = append(s.open, listener)
	bound := listener.Addr().String()
	limited := netutil.LimitListener(stallListener{listener, s.settings.Limits.Stall}, s.settings.Limits.Connections)
	server := s.httpServer(handler)
	go func() {
		if encrypted {
			server.TLSConfig = s.certs.config(s.issuer)
			failed <- ignoreClosed(server.ServeTLS(limited, "", ""))
			return
		}
		failed <- ignoreClosed(server.Serve(limited))
	}()
	return server, bound, nil
}

func (s *Server) httpServer(handler http.Handler) *http.Server {
	l := s.settings.Limits
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: l.HeaderWait, IdleTimeout: l.Idle, MaxHeaderBytes: l.HeaderBytes,
		ErrorLog: s.proxy.reverse.ErrorLog,
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// plainHandler serves plain HTTP, or sends to https, and answers an issuer's challenges in both cases.
func (s *Server) plainHandler() http.Handler {
	if !s.settings.Redirect {
		return s.issuer.answersChallenges(s.proxy)
	}
	return s.issuer.answersChallenges(http.HandlerFunc(s.redirect))
}

func (s *Server) redirect(w http.ResponseWriter, r *http.Request) {
	host := hostName(r.Host)
	if port := portOf(s.tlsAddr); port != 0 && port != 443 {
		host = net.JoinHostPort(host, strconv.Itoa(port))
	}
	http.Redirect(w, r, "https://"+host+r.URL.RequestURI(), http.StatusPermanentRedirect)
}

func portOf(address string) int {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return 0
	}
	return number
}

// drain stops taking requests and lets the next edge have the addresses and the directory at once; then it waits for
// the exchanges in flight, and cuts what is left, such as WebSockets.
func (s *Server) drain(servers []*http.Server) error {
	var failed error
	for _, listener := range s.open {
		failed = errors.Join(failed, listener.Close())
	}
	s.unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.life), 10*time.Second)
	defer cancel()
	var group sync.WaitGroup
	for _, server := range servers {
		group.Go(func() {
			if server.Shutdown(ctx) != nil {
				_ = server.Close() // what did not end in time is cut; there is nobody left to tell
			}
		})
	}
	group.Wait()
	return failed
}

func (s *Server) close() error {
	s.end()
	s.issuer.stop()
	return s.log.Close()
}

// watchCertificates looks at the folder each second.
func (s *Server) watchCertificates() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-s.life.Done():
			return
		case <-tick.C:
			if err := s.certs.reload(); err != nil {
				s.settings.Log.Error("certificate left out", "error", err)
			}
		}
	}
}

// current is the table in service and what closes at the next change of routes or health.
func (s *Server) current() (*table, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table, s.changed
}

// turned is told when an active check changed an endpoint's health.
func (s *Server) turned(e *endpoint, up bool, why string) {
	s.settings.Log.Info("endpoint health", "instance", e.key.instance, "endpoint", e.key.address, "healthy", up, "why", why)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.announce()
}

// announce wakes whoever waits for a change; s.mu is held.
func (s *Server) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Applied is the answer to a hand-over.
type Applied struct {
	Routes int           `json:"routes"`
	Notes  []string      `json:"notes,omitempty"` // what was left out, and why
	Took   time.Duration `json:"took"`
}

// apply puts routes into service. Requests that begin afterwards see them; nothing else is touched.
func (s *Server) apply(routes []link.Route) Applied {
	s.applying.Lock()
	defer s.applying.Unlock()
	began := time.Now()
	now, _ := s.current()
	next, gone := s.dir.build(now, routes, func(e *endpoint) { go s.checks.watch(e.listed, e) })
	s.mu.Lock()
	s.table, s.applied = next, time.Now()
	s.announce()
	s.mu.Unlock()
	for _, e := range gone {
		e.unlist()
		time.AfterFunc(s.settings.Limits.DrainWait, e.withdraw)
	}
	if err := s.issuer.manage(s.life, next.hosts(), func(host string) bool { return s.certs.forName(host) != nil }); err != nil {
		s.settings.Log.Error("certificates not asked for", "error", err)
	}
	return Applied{Routes: len(next.routes), Notes: next.notes, Took: time.Since(began)}
}

// stallListener gives up on clients that do not take their answer.
type stallListener struct {
	net.Listener
	wait time.Duration
}

func (l stallListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &stallConn{conn, l.wait}, nil
}

type stallConn struct {
	net.Conn
	wait time.Duration
}

func (c *stallConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.wait)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
