package edge_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"holdfast/internal/edge"
	"holdfast/internal/link"
	"holdfast/internal/problem"
)

// running is an edge in this process, on its own data directory and real sockets.
type running struct {
	t      *testing.T
	dir    string
	client *edge.Client
	status edge.Status
	stop   func()
}

func start(t *testing.T, change func(*edge.Settings)) *running {
	t.Helper()
	settings := edge.Defaults(shortDir(t))
	settings.Plain = "127.0.0.1:0"
	settings.Health.Every = 200 * time.Millisecond
	settings.Health.EveryDown = 20 * time.Millisecond
	settings.Log = slog.New(slog.DiscardHandler)
	if change != nil {
		change(&settings)
	}
	return startWith(t, settings)
}

func startWith(t *testing.T, settings edge.Settings) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- edge.Run(ctx, settings) }()
	r := &running{t: t, dir: settings.Dir, client: edge.NewClient(settings.Dir)}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("edge ended: %v", err)
		}
	})
	t.Cleanup(r.stop)
	until(t, "the edge answers on its socket", func() bool {
		status, err := r.client.Status(t.Context())
		r.status = status
		return err == nil
	})
	return r
}

// shortDir is a folder whose socket path is short enough to be the usual one.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "edge")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// until polls a condition with a deadline.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline.C:
			t.Fatalf("not so within 10 s: %s", what)
		case <-tick.C:
		}
	}
}

func (r *running) apply(routes ...link.Route) edge.Applied {
	r.t.Helper()
	applied, err := r.client.Apply(r.t.Context(), routes)
	if err != nil {
		r.t.Fatal(err)
	}
	return applied
}

func (r *running) request(method, host, path string, body io.Reader) *http.Request {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+r.status.Plain+path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Host = host
	return req
}

type reply struct {
	status int
	header http.Header
	body   string
}

func (r *running) do(req *http.Request) reply {
	r.t.Helper()
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(text)}
}

func (r *running) get(host, path string) reply {
	r.t.Helper()
	return r.do(r.request(http.MethodGet, host, path, nil))
}

func backend(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
}

func routeTo(instance string, epoch int64, endpoints ...string) link.Route {
	return link.Route{Instance: instance, Hosts: []string{instance + ".example.test"}, Epoch: epoch, Endpoints: endpoints}
}

func deadAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func TestRequestReachesItsInstance(t *testing.T) {
	e := start(t, nil)
	var seen atomic.Pointer[http.Request]
	acme := backend(t, func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r)
		fmt.Fprint(w, "acme here")
	})
	e.apply(routeTo("acme", 3, acme), routeTo("beta", 1, backend(t, says("beta here"))))

	req := e.request(http.MethodGet, "ACME.example.test:8443", "/a%2Fb?q=1", nil)
	req.Header.Set("X-Forwarded-For", "6.6.6.6")
	req.Header.Set("X-Forwarded-Host", "evil.test")
	got := e.do(req)
	if got.body != "acme here" || e.get("beta.example.test", "/").body != "beta here" {
		t.Fatalf("wrong instance answered: %+v", got)
	}
	r := seen.Load()
	for name, want := range map[string]string{
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "ACME.example.test:8443", "X-Forwarded-Proto": "http",
		"X-Holdfast-Instance": "acme", "X-Request-Id": got.header.Get("X-Request-Id"),
	} {
		if r.Header.Get(name) != want || want == "" {
			t.Errorf("%s = %q, want %q", name, r.Header.Get(name), want)
		}
	}
	if r.Host != "ACME.example.test:8443" || r.RequestURI != "/a%2Fb?q=1" {
		t.Errorf("endpoint saw %s %s", r.Host, r.RequestURI)
	}
}

func TestUnknownHostTellsNothing(t *testing.T) {
	e := start(t, nil)
	e.apply(routeTo("acme", 1, backend(t, says("acme"))))
	got := e.get("acme.other.test", "/")
	if got.status != http.StatusNotFound || strings.Contains(got.body, "acme") {
		t.Fatalf("got %d %s", got.status, got.body)
	}
}

func TestMaintenancePageWhileNothingServes(t *testing.T) {
	e := start(t, func(s *edge.Settings) { s.Limits.HoldWait = -1 })
	down := routeTo("beta", 1, deadAddress(t))
	planned := routeTo("gamma", 1, backend(t, says("gamma")))
	planned.Maintenance = "We are moving <you>."
	e.apply(routeTo("acme", 1), down, planned)
	for host, text := range map[string]string{"acme": "Back in a moment", "beta": "Back in a moment", "gamma": "moving &lt;you&gt;"} {
		req := e.request(http.MethodGet, host+".example.test", "/", nil)
		req.Header.Set("Accept", "text/html,*/*;q=0.8")
		got := e.do(req)
		if got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" || !strings.Contains(got.body, text) {
			t.Errorf("%s: %d %q %s", host, got.status, got.header.Get("Retry-After"), got.body)
		}
	}
	got := e.get("acme.example.test", "/")
	var asProgram struct{ Status int }
	if err := json.Unmarshal([]byte(got.body), &asProgram); err != nil || asProgram.Status != 503 {
		t.Errorf("a program was answered %q (%v)", got.body, err)
	}
}

func TestWebSocketPasses(t *testing.T) {
	e := start(t, nil)
	echo := httptest.NewServer(websocket.Server{Handler: func(ws *websocket.Conn) { _, _ = io.Copy(ws, ws) }})
	t.Cleanup(echo.Close)
	e.apply(routeTo("acme", 1, echo.Listener.Addr().String()))
	ws := dialWebSocket(t, e)
	talk(t, ws, "before")
	e.apply(routeTo("acme", 1, echo.Listener.Addr().String()), routeTo("beta", 1))
	talk(t, ws, "after other routes changed")
}

func TestWithdrawnEndpointIsDrained(t *testing.T) {
	e := start(t, func(s *edge.Settings) { s.Limits.DrainWait = 50 * time.Millisecond })
	echo := httptest.NewServer(websocket.Server{Handler: func(ws *websocket.Conn) { _, _ = io.Copy(ws, ws) }})
	t.Cleanup(echo.Close)
	e.apply(routeTo("acme", 1, echo.Listener.Addr().String()))
	ws := dialWebSocket(t, e)
	talk(t, ws, "hello")
	e.apply(routeTo("acme", 2, backend(t, says("the new place"))))
	if err := ws.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := ws.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Fatalf("the connection to the withdrawn endpoint is still open: %v", err)
	}
}

func dialWebSocket(t *testing.T, e *running) *websocket.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", e.status.Plain)
	if err != nil {
		t.Fatal(err)
	}
	config, err := websocket.NewConfig("ws://acme.example.test/", "http://acme.example.test/")
	if err != nil {
		t.Fatal(err)
	}
	ws, err := websocket.NewClient(config, conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.Close() })
	return ws
}

func talk(t *testing.T, ws *websocket.Conn, text string) {
	t.Helper()
	if _, err := ws.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(ws, got); err != nil || string(got) != text {
		t.Fatalf("sent %q, got %q (%v)", text, got, err)
	}
}

func TestStreamsPassUnbuffered(t *testing.T) {
	for _, kind := range []string{"text/event-stream", "application/octet-stream"} {
		e := start(t, nil)
		step := make(chan struct{})
		e.apply(routeTo("acme", 1, backend(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			for i := range 3 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
				<-step
			}
		})))
		res, err := http.DefaultTransport.RoundTrip(e.request(http.MethodGet, "acme.example.test", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(res.Body)
		for i := range 3 { // the endpoint goes on only after the client has what was sent
			line, err := lines.ReadString('\n')
			if err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("%s: %q %v", kind, line, err)
			}
			if _, err := lines.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			step <- struct{}{}
		}
		_ = res.Body.Close()
	}
}

func TestUploadStreamsAndIsBounded(t *testing.T) {
	e := start(t, func(s *edge.Settings) { s.Limits.BodyBytes = 1 << 20 })
	e.apply(routeTo("acme", 1, backend(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})))
	post := func(body io.Reader) reply {
		return e.do(e.request(http.MethodPost, "acme.example.test", "/", body))
	}
	if got := post(bytes.NewReader(make([]byte, 1<<20))); got.body != "1048576" {
		t.Errorf("a body of the size allowed: %d %s", got.status, got.body)
	}
	if got := post(bytes.NewReader(make([]byte, 1<<20+1))); got.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a declared body that is too large: %d", got.status)
	}
	if got := post(io.MultiReader(bytes.NewReader(make([]byte, 1<<21)))); got.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a chunked body that is too large: %d %s", got.status, got.body)
	}
	status, err := e.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r, _ := status.Route("acme"); !r.Endpoints[0].Healthy {
		t.Error("the client's fault was booked on the endpoint")
	}
}

func TestSlowLorisIsCutOff(t *testing.T) {
	e := start(t, func(s *edge.Settings) {
		s.Limits.HeaderWait, s.Limits.Stall, s.Limits.HeaderBytes = 100*time.Millisecond, 100*time.Millisecond, 4<<10
	})
	e.apply(routeTo("acme", 1, backend(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
	})))
	head := "POST / HTTP/1.1\r\nHost: acme.example.test\r\n"
	for name, sent := range map[string]string{
		"header": head, "body of nobody": "POST / HTTP/1.1\r\nHost: nobody.test\r\nContent-Length: 10\r\n\r\n123",
		"body": head + "Content-Length: 10\r\n\r\n123", "huge header": head + "X: " + strings.Repeat("y", 16<<10),
	} {
		conn, err := net.Dial("tcp", e.status.Plain)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, sent); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(conn)
		if os.IsTimeout(err) || strings.HasPrefix(string(text), "HTTP/1.1 200") {
			t.Errorf("slow %s: still open or served: %q %v", name, text, err)
		}
		_ = conn.Close()
	}
}

// TestSwapsUnderLoad replaces the whole table 1,000 times while clients ask, and moves the instance back and forth.
func TestSwapsUnderLoad(t *testing.T) {
	e := start(t, nil)
	a, b := backend(t, says("here")), backend(t, says("here"))
	e.apply(routeTo("acme", 1, a))
	load := newLoad(e, 2)
	for i := range 1000 {
		place := []string{a, b}[i%2]
		e.apply(routeTo("acme", int64(i+2), place), routeTo(fmt.Sprintf("other%d", i), 1, a))
	}
	sent, failed := load.end()
	if len(failed) > 0 || sent < 100 {
		t.Fatalf("%d of %d requests failed: %v", len(failed), sent, failed[:min(3, len(failed))])
	}
	t.Logf("%d requests over 1000 swaps", sent)
}

func TestEndpointKilledUnderLoad(t *testing.T) {
	e := start(t, nil)
	var asked atomic.Int64
	dying := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		fmt.Fprint(w, "here")
	}))
	e.apply(routeTo("acme", 1, dying.Listener.Addr().String(), backend(t, says("here"))))
	load := newLoad(e, 4)
	until(t, "the dying endpoint takes its share", func() bool { return asked.Load() > 50 })
	dying.CloseClientConnections()
	_ = dying.Listener.Close()
	dying.CloseClientConnections()
	until(t, "it is ejected", func() bool {
		status, err := e.client.Status(t.Context())
		r, _ := status.Route("acme")
		return err == nil && !r.Endpoints[0].Healthy && r.Endpoints[1].Healthy
	})
	if sent, failed := load.end(); len(failed) > 0 {
		t.Fatalf("%d of %d requests failed: %v", len(failed), sent, failed[:min(3, len(failed))])
	}
}

// TestSwitchOfTheOnlyEndpoint stops the one endpoint before the route to the next one arrives: the request waits.
func TestSwitchOfTheOnlyEndpoint(t *testing.T) {
	e := start(t, func(s *edge.Settings) { s.Limits.HoldWait = 5 * time.Second })
	old := httptest.NewServer(says("old slot"))
	e.apply(routeTo("acme", 1, old.Listener.Addr().String()))
	if got := e.get("acme.example.test", "/"); got.body != "old slot" {
		t.Fatalf("before: %+v", got)
	}
	old.Close()
	answered := make(chan reply, 1)
	go func() { answered <- e.get("acme.example.test", "/") }()
	until(t, "the request met the dead endpoint", func() bool {
		status, err := e.client.Status(t.Context())
		r, _ := status.Route("acme")
		return err == nil && !r.Endpoints[0].Healthy
	})
	e.apply(routeTo("acme", 2, backend(t, says("new slot"))))
	if got := <-answered; got.status != http.StatusOK || got.body != "new slot" {
		t.Fatalf("after: %+v", got)
	}
}

// load asks for acme until it is ended and keeps every answer that is not as it should be.
type load struct {
	stop   chan struct{}
	wg     sync.WaitGroup
	sent   atomic.Int64
	mu     sync.Mutex
	failed []string
}

func newLoad(e *running, clients int) *load {
	l := &load{stop: make(chan struct{})}
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	for range clients {
		l.wg.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
					l.ask(e.request(http.MethodGet, "acme.example.test", "/", nil), transport)
				}
			}
		})
	}
	return l
}

func (l *load) ask(req *http.Request, transport *http.Transport) {
	l.sent.Add(1)
	res, err := transport.RoundTrip(req)
	if err != nil {
		l.fail(err.Error())
		return
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || string(text) != "here" {
		l.fail(fmt.Sprintf("%d %q %v", res.StatusCode, text, err))
	}
}

func (l *load) fail(why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = append(l.failed, why)
}

func (l *load) end() (sent int64, failed []string) {
	close(l.stop)
	l.wg.Wait()
	return l.sent.Load(), l.failed
}

func TestEjectedEndpointComesBack(t *testing.T) {
	e := start(t, func(s *edge.Settings) { s.Limits.HoldWait = -1 })
	var well atomic.Bool
	r := routeTo("acme", 1, backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readiness" && !well.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	r.Health = "/readiness"
	e.apply(r)
	until(t, "the unready endpoint is ejected", func() bool { return e.get("acme.example.test", "/").status == 503 })
	well.Store(true)
	until(t, "the ready endpoint serves", func() bool { return e.get("acme.example.test", "/").status == 200 })
	status, err := e.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r, _ := status.Route("acme"); !r.Serving() || r.AnsweredAt.IsZero() || r.Counts.Pages == 0 || r.Counts.Classes["2xx"] == 0 {
		t.Errorf("status: %+v", r)
	}
}

func TestRestartServesTheLastRoutes(t *testing.T) {
	e := start(t, nil)
	e.apply(routeTo("acme", 1, backend(t, says("acme"))))
	e.stop()
	settings := edge.Defaults(e.dir)
	settings.Plain = "127.0.0.1:0"
	settings.Log = slog.New(slog.DiscardHandler)
	again := startWith(t, settings)
	if got := again.get("acme.example.test", "/"); got.body != "acme" {
		t.Fatalf("after the restart: %+v", got)
	}
}

// TestTheNextEdgeDoesNotWaitForTheDrain stops an edge in the middle of an answer and starts the next one at once.
func TestTheNextEdgeDoesNotWaitForTheDrain(t *testing.T) {
	e := start(t, nil)
	asked, release := make(chan struct{}), make(chan struct{})
	e.apply(routeTo("acme", 1, backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(asked)
			<-release
		}
		fmt.Fprint(w, "whole")
	})))
	slow := make(chan reply, 1)
	go func() { slow <- e.get("acme.example.test", "/slow") }()
	<-asked
	if err := e.client.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	settings := edge.Defaults(e.dir)
	settings.Plain, settings.Log = e.status.Plain, slog.New(slog.DiscardHandler)
	until(t, "the old edge lets go", func() bool {
		_, err := e.client.Status(t.Context())
		return err != nil
	})
	next := startWith(t, settings)
	if got := next.get("acme.example.test", "/"); got.body != "whole" {
		t.Errorf("the next edge: %+v", got)
	}
	close(release)
	if got := <-slow; got.status != 200 || got.body != "whole" {
		t.Errorf("the answer in flight: %+v", got)
	}
}

func TestSecondEdgeIsRefused(t *testing.T) {
	e := start(t, nil)
	settings := edge.Defaults(e.dir)
	settings.Plain = "127.0.0.1:0"
	err := edge.Run(t.Context(), settings)
	if problem.KindOf(err) != problem.Busy {
		t.Fatalf("got %v", err)
	}
	if _, err := e.client.Status(t.Context()); err != nil {
		t.Fatalf("the first edge was disturbed: %v", err)
	}
}

func TestAccessLog(t *testing.T) {
	e := start(t, nil)
	acme := backend(t, says("twelve bytes"))
	e.apply(routeTo("acme", 7, acme))
	e.get("acme.example.test", "/a/path?secret=1")
	e.stop()
	text, err := os.ReadFile(filepath.Join(e.dir, "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	var line map[string]any
	if err := json.Unmarshal(text, &line); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	want := map[string]any{
		"instance": "acme", "host": "acme.example.test", "method": "GET", "path": "/a/path", "status": 200.0, "bytes": 12.0,
		"endpoint": acme, "epoch": 7.0, "remote": "127.0.0.1",
	}
	for key, value := range want {
		if line[key] != value {
			t.Errorf("%s = %v, want %v", key, line[key], value)
		}
	}
	for _, key := range []string{"time", "took", "request"} {
		if line[key] == nil {
			t.Errorf("%s is missing in %s", key, text)
		}
	}
}
