package edge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"
)

// statusClientLeft is what the access log says of a client that went away before the answer (as nginx does).
const statusClientLeft = 499

// exchange is one request and its answer on their way through the edge. It is the ResponseWriter too, so that what
// was really sent is what is logged.
type exchange struct {
	http.ResponseWriter
	began    time.Time
	id       string
	route    *route    // nil: unknown host
	counts   *counts   // nil: unknown host
	endpoint *endpoint // the one that answered, or was tried last
	tried    []*endpoint
	body     *replay
	cancel   context.CancelFunc // ends the exchange when its endpoint is withdrawn
	unwatch  func() bool
	status   int
	bytes    int64
	retries  int
	note     string
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// WriteHeader keeps the final status; informational ones pass by.
func (x *exchange) WriteHeader(status int) {
	if x.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		x.status = status
	}
	x.ResponseWriter.WriteHeader(status)
}

// Write counts what was sent.
func (x *exchange) Write(p []byte) (int, error) {
	if x.status == 0 {
		x.status = http.StatusOK
	}
	n, err := x.ResponseWriter.Write(p)
	x.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach Flush, Hijack and the deadlines.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// Hijack takes the connection over for an upgraded protocol.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(x.ResponseWriter).Hijack()
}

// enter counts the exchange in.
func (x *exchange) enter() {
	x.counts = x.route.counts
	x.counts.inFlight.Add(1)
}

// use moves the exchange to e and ends it when e is withdrawn and its drain is over.
func (x *exchange) use(e *endpoint) {
	x.leave()
	x.endpoint = e
	x.tried = append(x.tried, e)
	e.inFlight.Add(1)
	x.unwatch = context.AfterFunc(e.withdrawn, x.cancel)
}

// leave lets go of the endpoint in use.
func (x *exchange) leave() {
	if x.unwatch == nil {
		return
	}
	x.unwatch()
	x.unwatch = nil
	x.endpoint.inFlight.Add(-1)
}

func newRequestID() string { return fmt.Sprintf("%016x", rand.Uint64()) }

// stallReader ends a request body that does not move for a while. The deadline stands from the first byte to the
// body's end, so that neither an endpoint that reads late nor the server's own discarding of the rest waits for ever;
// at the end it is lifted, because the connection's next reader waits rightly.
type stallReader struct {
	io.ReadCloser
	control *http.ResponseController
	wait    time.Duration
}

// bound puts a deadline on the request's body, whatever becomes of the request.
func (x *exchange) bound(r *http.Request, wait time.Duration) {
	if r.Body == nil || r.Body == http.NoBody {
		return
	}
	s := &stallReader{ReadCloser: r.Body, control: http.NewResponseController(x.ResponseWriter), wait: wait}
	s.extend()
	r.Body = s
}

func (s *stallReader) Read(p []byte) (int, error) {
	s.extend()
	n, err := s.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = s.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// extend has no error to tell: a connection without deadlines is no network connection, and has no slow clients.
func (s *stallReader) extend() { _ = s.control.SetReadDeadline(time.Now().Add(s.wait)) }

// replay lets one body be offered to several endpoints as long as nothing of it was read. Each attempt has its own
// view; a view that was abandoned reads no more, however late its transport asks.
type replay struct {
	body io.ReadCloser
	mu   sync.Mutex
	view *view
	used bool
}

type view struct{ of *replay }

// attempt gives the next view and shuts the former one.
func (r *replay) attempt() io.ReadCloser {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.view = &view{of: r}
	return r.view
}

// abandon shuts the view of the failed attempt and tells whether the body is still whole.
func (r *replay) abandon() (whole bool) {
	if r == nil {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.view = nil
	return !r.used
}

func (v *view) Read(p []byte) (int, error) {
	if !v.begin() {
		return 0, http.ErrBodyReadAfterClose
	}
	return v.of.body.Read(p)
}

func (v *view) begin() bool {
	v.of.mu.Lock()
	defer v.of.mu.Unlock()
	if v.of.view != v {
		return false
	}
	v.of.used = true
	return true
}

// Close leaves the body open: the server closes it at the end of the exchange.
func (v *view) Close() error { return nil }
