package link

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"holdfast/internal/problem"
)

// callTimeout bounds one unary call; a call that was cut off is made again, so nothing hangs on it.
const callTimeout = 30 * time.Second

// Dial says how an agent reaches its server.
type Dial struct {
	URL   string                                // https://HOST:PORT
	TLS   *tls.Config                           // whom to trust and, after the join, which certificate to show
	Proxy func(*http.Request) (*url.URL, error) // HTTP CONNECT proxy; nil = straight
}

// Client is the agent's end of the link. It may be used by many goroutines.
type Client struct {
	url     string
	wire    *wire
	silence time.Duration // a stream without a message for so long is dead
	join    *connect.Client[JoinRequest, JoinResponse]
	renew   *connect.Client[RenewRequest, RenewResponse]
	certify *connect.Client[CertifyRequest, CertifyResponse]
	listen  *connect.Client[ListenRequest, Delivery]
	report  *connect.Client[Batch, Ack]
}

// NewClient makes the agent's end; it dials at the first call.
func NewClient(dial Dial) *Client {
	wire := &wire{dial: dial, now: newTransport(dial)}
	http := &http.Client{Transport: wire}
	options := connect.WithClientOptions(
		connect.WithCodec(plainJSON{}),
		connect.WithReadMaxBytes(maxMessage),
		connect.WithSendGzip(),
		connect.WithCompressMinBytes(1024),
	)
	base := strings.TrimSuffix(dial.URL, "/")
	return &Client{
		url:     base,
		wire:    wire,
		silence: 3 * KeepAlive,
		join:    connect.NewClient[JoinRequest, JoinResponse](http, base+joinPath, options),
		renew:   connect.NewClient[RenewRequest, RenewResponse](http, base+renewPath, options),
		certify: connect.NewClient[CertifyRequest, CertifyResponse](http, base+certifyPath, options),
		listen:  connect.NewClient[ListenRequest, Delivery](http, base+listenPath, options),
		report:  connect.NewClient[Batch, Ack](http, base+reportPath, options),
	}
}

// Join spends a token.
func (c *Client) Join(ctx context.Context, request JoinRequest) (JoinResponse, error) {
	return call(ctx, c, c.join, request)
}

// Renew asks for a fresh certificate.
func (c *Client) Renew(ctx context.Context, request RenewRequest) (RenewResponse, error) {
	return call(ctx, c, c.renew, request)
}

// Certify asks for a certificate for the names that this node's edge serves.
func (c *Client) Certify(ctx context.Context, request CertifyRequest) (CertifyResponse, error) {
	return call(ctx, c, c.certify, request)
}

// Report sends a batch; what the answer's Through covers need not be sent again.
func (c *Client) Report(ctx context.Context, batch Batch) (Ack, error) {
	return call(ctx, c, c.report, batch)
}

func call[Req, Res any](ctx context.Context, c *Client, client *connect.Client[Req, Res], request Req) (Res, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := client.CallUnary(ctx, connect.NewRequest(&request))
	if err != nil {
		var none Res
		return none, fromWire(err, "cannot reach the server at "+c.url)
	}
	return *answer.Msg, nil
}

// Why a stream was ended from this end.
var (
	errSilent = errors.New("the stream was silent")      //nolint:gochecknoglobals // a sentinel, never assigned again
	errRedial = errors.New("the stream is dialled anew") //nolint:gochecknoglobals // a sentinel, never assigned again
)

// Listen opens the stream and hands every delivery to take, empty ones included, until the stream ends or take
// returns an error. It always returns an error: why the stream ended.
func (c *Client) Listen(ctx context.Context, hello ListenRequest, take func(Delivery) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.wire.open(cancel)
	watch := time.AfterFunc(c.silence, func() { cancel(errSilent) })
	defer watch.Stop()
	what := "the stream from the server at " + c.url + " broke"
	stream, err := c.listen.CallServerStream(ctx, connect.NewRequest(&hello))
	if err != nil {
		return fromWire(err, what)
	}
	defer func() { _ = stream.Close() }() // it is over either way
	for stream.Receive() {
		watch.Reset(c.silence)
		if err := take(*stream.Msg()); err != nil {
			return err
		}
	}
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) || errors.Is(cause, errRedial) {
		return problem.Wrap(cause, problem.Unreachable, "", "%s", what)
	}
	if err := stream.Err(); err != nil {
		return fromWire(err, what)
	}
	return problem.New(problem.Unreachable, "", "%s: the server ended it", what)
}

// Redial makes every later call dial anew and show the newest certificate, and ends the open stream for that.
func (c *Client) Redial() { c.wire.redial() }

// Close drops the connections that no call uses.
func (c *Client) Close() { c.wire.transport().CloseIdleConnections() }

// wire is the HTTP connection of a client, and can be replaced by a fresh one.
type wire struct {
	dial   Dial
	mu     sync.Mutex
	now    *http.Transport
	stream context.CancelCauseFunc // ends the open stream; nil = none is open
}

func newTransport(dial Dial) *http.Transport {
	return &http.Transport{
		TLSClientConfig:   dial.TLS,
		Proxy:             dial.Proxy,
		ForceAttemptHTTP2: true,
		// A path that went dead without a word (a cut site) is noticed by a ping, not by a TCP timeout of minutes.
		HTTP2:               &http.HTTP2Config{SendPingTimeout: KeepAlive, PingTimeout: KeepAlive},
		TLSHandshakeTimeout: callTimeout,
		IdleConnTimeout:     2 * time.Minute,
	}
}

func (w *wire) transport() *http.Transport {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// RoundTrip implements http.RoundTripper over the newest connection.
func (w *wire) RoundTrip(request *http.Request) (*http.Response, error) {
	return w.transport().RoundTrip(request)
}

// open notes how to end the stream that is being opened.
func (w *wire) open(end context.CancelCauseFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stream = end
}

func (w *wire) redial() {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.now
	w.now = newTransport(w.dial)
	if w.stream != nil {
		w.stream(errRedial)
		w.stream = nil
	}
	old.CloseIdleConnections()
}

// Keeper keeps a stream open.
type Keeper struct {
	Hello func() ListenRequest          // asked before every dial
	Up    func()                        // the server answered
	Down  func(err error, failures int) // the stream ended, or did not open; failures in a row, 0 = it had been open
	Take  func(Delivery)                // every delivery that is not empty
}

// Keep listens until ctx ends, dialling again after a random delay whenever the stream ends.
func (c *Client) Keep(ctx context.Context, keeper Keeper) {
	for failures := 0; ctx.Err() == nil; failures++ {
		up := false
		err := c.Listen(ctx, keeper.Hello(), func(d Delivery) error {
			if !up {
				up = true
				keeper.Up()
			}
			if d != (Delivery{}) {
				keeper.Take(d)
			}
			return nil
		})
		if up {
			failures = 0 // the delay below is then the first one
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errRedial) {
			continue
		}
		keeper.Down(err, failures)
		rest(ctx, delay(failures, problem.KindOf(err), rand.Float64()))
	}
}

func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Delays between dials. The first is short, because most ends are a server that restarts; a thousand agents spread
// over a few seconds do not make a storm, and waiting longer would leave orders undelivered for longer.
const (
	firstDelay = time.Second
	mostDelay  = 5 * time.Second
	longDelay  = time.Minute // after a refusal that trying soon does not change
)

// delay is how long to wait after so many failures in a row; chance is uniform in [0,1).
func delay(failures int, why problem.Kind, chance float64) time.Duration {
	if why == problem.Denied || why == problem.Conflict {
		return longDelay/2 + time.Duration(chance*float64(longDelay/2))
	}
	most := mostDelay
	if failures < 3 {
		most = min(mostDelay, firstDelay<<failures)
	}
	return most/20 + time.Duration(chance*float64(most-most/20))
}
