package linktest

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"testing"
	"time"

	"holdfast/internal/link"
)

// Server is a link server on a loopback port.
type Server struct {
	*link.Server
	Addr string
	URL  string
	http *http.Server
}

// Start serves a gate on addr; "" = any free port of the loopback.
func Start(authority *Authority, gate link.Gate, addr string) (*Server, error) {
	config, err := authority.ServerTLS()
	if err != nil {
		return nil, err
	}
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	hub := link.NewServer(gate)
	mux := http.NewServeMux()
	mux.Handle(hub.Handler())
	s := &Server{Server: hub, Addr: listener.Addr().String(), URL: "https://" + listener.Addr().String(),
		http: &http.Server{Handler: mux, TLSConfig: config, ReadHeaderTimeout: 10 * time.Second}}
	go func() { _ = s.http.Serve(tls.NewListener(listener, config)) }() // ends with Kill or Stop
	return s, nil
}

// Kill ends the server as a SIGKILL does: every connection breaks at once.
func (s *Server) Kill() { _ = s.http.Close() }

// Stop ends the server as it ends itself.
func (s *Server) Stop(ctx context.Context) error {
	s.Close()
	return s.http.Shutdown(ctx)
}

// Up is an authority, its register and a server, for one test.
func Up(t testing.TB) (*Register, *Server) {
	t.Helper()
	authority, err := NewAuthority()
	if err != nil {
		t.Fatalf("make authority: %v", err)
	}
	register := NewRegister(authority)
	server, err := Start(authority, register.Gate(), "")
	if err != nil {
		t.Fatalf("start server: %v", err)
	}
	t.Cleanup(server.Kill)
	return register, server
}

// Until polls until ok holds; it fails the test with what ok last said after 20 seconds.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// ErrLost is an answer that never came.
var ErrLost = errors.New("the answer was lost")
