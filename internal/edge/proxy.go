package edge

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// proxy serves customers' requests from the table. It has no listener of its own.
type proxy struct {
	settings Settings
	table    func() (*table, <-chan struct{}) // the table in service, and what closes when routes or health change
	reverse  *httputil.ReverseProxy
	base     *http.Transport
	turn     atomic.Uint64
	access   func(accessLine)
}

func newProxy(settings Settings, current func() (*table, <-chan struct{}), access func(accessLine)) *proxy {
	p := &proxy{settings: settings, table: current, access: access, base: newTransport(settings.Limits)}
	p.reverse = &httputil.ReverseProxy{
		Rewrite: p.rewrite, Transport: p, ModifyResponse: signEpoch, ErrorHandler: p.fail, BufferPool: &buffers{},
		ErrorLog: log.New(slogLines{settings.Log}, "", 0),
	}
	return p
}

// newTransport keeps enough idle connections that a busy endpoint is not dialed again and again.
func newTransport(limits Limits) *http.Transport {
	dialer := &net.Dialer{Timeout: limits.DialWait, KeepAlive: 15 * time.Second}
	return &http.Transport{
		DialContext: dialer.DialContext, MaxIdleConnsPerHost: 256, IdleConnTimeout: 90 * time.Second,
		ResponseHeaderTimeout: limits.AnswerWait, ExpectContinueTimeout: time.Second, DisableCompression: true,
		WriteBufferSize: 16 << 10, ReadBufferSize: 16 << 10,
	}
}

// ServeHTTP takes one request to its end and writes its line of the access log, also when the answer was cut off.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	current, _ := p.table()
	x := &exchange{ResponseWriter: w, began: time.Now(), id: p.requestID(r), route: current.find(r.Host)}
	w.Header().Set("X-Request-Id", x.id)
	x.bound(r, p.settings.Limits.Stall)
	defer p.finish(x, r)
	switch {
	case x.route == nil:
		p.unknownHost(x, r)
	case x.route.Maintenance != "":
		x.enter()
		p.maintenance(x, r)
	case p.settings.Limits.BodyBytes >= 0 && r.ContentLength > p.settings.Limits.BodyBytes:
		x.enter()
		p.tooLarge(x, r)
	default:
		x.enter()
		p.pass(x, r)
	}
}

// pass hands the exchange to the reverse proxy with a bounded body.
func (p *proxy) pass(x *exchange, r *http.Request) {
	ctx, cancel := context.WithCancel(context.WithValue(r.Context(), exchangeKey{}, x))
	defer cancel()
	defer x.leave()
	x.cancel = cancel
	defer func() { x.body.abandon() }()
	r = r.WithContext(ctx)
	if p.settings.Limits.BodyBytes >= 0 && r.Body != http.NoBody {
		r.Body = http.MaxBytesReader(x.ResponseWriter, r.Body, p.settings.Limits.BodyBytes)
	}
	p.reverse.ServeHTTP(x, r)
}

// finish counts and logs the exchange.
func (p *proxy) finish(x *exchange, r *http.Request) {
	took := time.Since(x.began)
	if x.status == 0 {
		x.status = statusClientLeft
	}
	if x.counts != nil {
		x.counts.finish(x.status, x.bytes, took)
	}
	p.access(lineOf(x, r, took))
}

// rewrite says what the endpoint sees: the client's own Host, and where the request came from.
func (p *proxy) rewrite(pr *httputil.ProxyRequest) {
	x := exchangeOf(pr.In.Context())
	pr.Out.Host = pr.In.Host
	pr.Out.URL.Scheme = "http"
	pr.Out.URL.Host = pr.In.Host // replaced for each attempt
	if p.trusts(pr.In) {
		pr.Out.Header["X-Forwarded-For"] = pr.In.Header["X-Forwarded-For"]
	}
	pr.SetXForwarded()
	if proto := pr.In.Header.Get("X-Forwarded-Proto"); proto != "" && p.trusts(pr.In) {
		pr.Out.Header.Set("X-Forwarded-Proto", proto)
	}
	pr.Out.Header.Set("X-Request-Id", x.id)
	pr.Out.Header.Set("X-Holdfast-Instance", x.route.Instance)
}

// signEpoch tells a prober which epoch's endpoint answered, so that two places that answer at once can be seen from
// outside. Nobody else is told.
func signEpoch(res *http.Response) error {
	res.Header.Del("X-Holdfast-Epoch")
	if res.Request.Header.Get("X-Holdfast-Probe") != "" {
		res.Header.Set("X-Holdfast-Epoch", strconv.FormatInt(exchangeOf(res.Request.Context()).route.Epoch, 10))
	}
	return nil
}

// trusts tells whether the request came from a proxy that is ours.
func (p *proxy) trusts(r *http.Request) bool {
	if len(p.settings.Trusted) == 0 {
		return false
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	for _, prefix := range p.settings.Trusted {
		if prefix.Contains(from.Addr().Unmap()) {
			return true
		}
	}
	return false
}

func (p *proxy) requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); id != "" && len(id) <= 64 && p.trusts(r) {
		return id
	}
	return newRequestID()
}

// errNoEndpoint means that no endpoint is healthy, or that none was left to try.
var errNoEndpoint = errors.New("no healthy endpoint")

// RoundTrip sends the request to an endpoint, and to another one when that is safe and the first was dead. The
// table is read anew for each attempt, so a request that met a dead endpoint finds the instance's new place.
func (p *proxy) RoundTrip(req *http.Request) (*http.Response, error) {
	x := exchangeOf(req.Context())
	x.body = &replay{body: req.Body}
	last := errNoEndpoint
	for {
		e := p.next(req.Context(), x, req.Host)
		if e == nil {
			return nil, last
		}
		if !errors.Is(last, errNoEndpoint) {
			x.retries++
			x.counts.retries.Add(1)
		}
		res, err := p.attempt(req, x, e)
		if err == nil {
			return res, nil
		}
		if last = err; !mayRepeat(req, err, x.body.abandon()) {
			return nil, err
		}
	}
}

// attempt asks e once and learns from it.
func (p *proxy) attempt(req *http.Request, x *exchange, e *endpoint) (*http.Response, error) {
	x.use(e)
	out := *req
	address := *req.URL
	address.Host = e.key.address
	out.URL = &address
	if req.Body != nil {
		out.Body = x.body.attempt()
	}
	res, err := p.base.RoundTrip(&out)
	p.learn(req, x, e, res, err)
	return res, err
}

// learn folds what a request met into the endpoint's health; what the client did wrong is not the endpoint's fault.
func (p *proxy) learn(req *http.Request, x *exchange, e *endpoint, res *http.Response, err error) {
	if err != nil && (req.Context().Err() != nil || ownFault(err)) {
		return
	}
	now := time.Now()
	if err == nil && res.StatusCode < http.StatusInternalServerError {
		x.route.counts.answered(x.route.Epoch, now)
	}
	if e.saw(outcome{err: err, at: now}, p.settings.Health) {
		p.settings.Log.Warn("endpoint ejected", "instance", e.key.instance, "endpoint", e.key.address, "why", err)
	}
	if err != nil {
		select {
		case e.recheck <- struct{}{}:
		default:
		}
	}
}

// ownFault tells whether the request itself could not be sent.
func ownFault(err error) bool {
	_, tooLarge := errors.AsType[*http.MaxBytesError](err)
	return tooLarge
}

// mayRepeat decides whether a request that failed with err may be sent to another endpoint: the client still waits,
// its body is whole, and either nothing was sent or sending twice changes nothing.
func mayRepeat(req *http.Request, err error, whole bool) bool {
	if req.Context().Err() != nil || ownFault(err) {
		return false
	}
	if req.Body != nil && !whole {
		return false
	}
	return dialed(err) || idempotent(req)
}

func idempotent(req *http.Request) bool {
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return req.Header.Get("Idempotency-Key") != ""
}

// next picks an endpoint. When the last one fell only a moment ago, it waits for the next table or a check that
// brings it back, so that a switch from one slot to another is a pause and not an error.
func (p *proxy) next(ctx context.Context, x *exchange, host string) *endpoint {
	for {
		current, changed := p.table()
		r := current.find(host)
		if r == nil || r.Maintenance != "" {
			return nil
		}
		x.route = r
		if e := pick(r.endpoints, x.tried, p.turn.Add(1)); e != nil {
			return e
		}
		if !p.hold(ctx, r, x, changed) {
			return nil
		}
	}
}

// hold waits for a change, as long as the instance's last endpoint fell less than HoldWait ago.
func (p *proxy) hold(ctx context.Context, r *route, x *exchange, changed <-chan struct{}) bool {
	left := p.settings.Limits.HoldWait - time.Since(fellAt(r.endpoints))
	if left <= 0 || len(r.endpoints) == 0 || p.settings.Limits.HoldWait < 0 {
		return false
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return false
	case <-changed:
		x.tried = x.tried[:0] // what came back may be tried again
		return true
	}
}

// fellAt is when the last of the endpoints fell; the zero time when there is none or one is up but was tried.
func fellAt(endpoints []*endpoint) time.Time {
	var last time.Time
	for _, e := range endpoints {
		if h, _ := e.now(); !h.up && h.since.After(last) {
			last = h.since
		}
	}
	return last
}

// fail answers a request that no endpoint answered.
func (p *proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r.Context())
	x.note = err.Error()
	switch {
	case ownFault(err):
		p.tooLarge(x, r)
	case errors.Is(err, errNoEndpoint) || dialed(err):
		p.maintenance(x, r)
	case errors.Is(err, context.Canceled):
		p.left(x, r)
	case isTimeout(err):
		p.page(x, r, pageTimeout)
	default:
		p.page(x, r, pageBroken)
	}
}

// left is the end of an exchange whose context ended: the client went away or stood still, or its endpoint was
// withdrawn. A client that is gone gets no answer that could be taken for the instance's.
func (p *proxy) left(x *exchange, r *http.Request) {
	if x.endpoint != nil && x.endpoint.withdrawn.Err() != nil {
		p.maintenance(x, r)
		return
	}
	x.status = statusClientLeft
	panic(http.ErrAbortHandler)
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// buffers lends copy buffers to the reverse proxy.
type buffers struct{ pool sync.Pool }

const copyBuffer = 32 << 10

func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[copyBuffer]byte); ok {
		return buf[:]
	}
	return make([]byte, copyBuffer)
}

func (b *buffers) Put(buf []byte) { b.pool.Put((*[copyBuffer]byte)(buf)) }

// slogLines takes what net/http prints and gives it to slog.
type slogLines struct{ log *slog.Logger }

func (s slogLines) Write(p []byte) (int, error) {
	s.log.Debug("http", "line", string(p))
	return len(p), nil
}

func retryAfter(wait time.Duration) string {
	return strconv.Itoa(max(1, int(wait.Round(time.Second)/time.Second)))
}
