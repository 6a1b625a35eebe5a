package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast/internal/link"
)

// Ask puts one question now. A check whose URL is tcp://host:port only connects; http and https ask and judge the
// answer. Every question uses a connection of its own, as a new customer would.
func Ask(ctx context.Context, c link.Check) link.Result {
	result := link.Result{Check: c.Name, Instance: c.Instance, At: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, timeoutOf(c))
	defer cancel()
	err := ask(ctx, c, &result)
	result.Took = time.Since(result.At)
	if err == nil {
		result.OK = true
		return result
	}
	result.Error, result.Inconclusive = err.Error(), ownTrouble(err)
	return result
}

func ask(ctx context.Context, c link.Check, result *link.Result) error {
	target, err := url.Parse(c.URL)
	if err != nil {
		return fmt.Errorf("read URL: %w", err)
	}
	if target.Scheme == "tcp" {
		return connect(ctx, orElse(c.Connect, target.Host))
	}
	req, err := request(ctx, c)
	if err != nil {
		return err
	}
	transport, err := transportOf(c)
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	clock := &phaseClock{}
	res, err := transport.RoundTrip(req.WithContext(clock.watch(ctx)))
	if err != nil {
		result.Phases = clock.phases(time.Now())
		return err
	}
	defer res.Body.Close()
	result.Status = res.StatusCode
	if epoch, err := strconv.ParseInt(res.Header.Get("X-Holdfast-Epoch"), 10, 64); err == nil {
		result.Epoch = epoch
	}
	err = judge(c, res)
	result.Phases = clock.phases(time.Now())
	return err
}

func connect(ctx context.Context, address string) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

func request(ctx context.Context, c link.Check) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("User-Agent", "holdfast-probe")
	req.Header.Set("X-Holdfast-Probe", "1")
	for name, value := range c.Headers {
		req.Header.Set(name, value)
	}
	if c.Host != "" {
		req.Host = c.Host
	}
	return req, nil
}

// transportOf dials where the check says and expects the certificate of the name that is asked for.
func transportOf(c link.Check) (*http.Transport, error) {
	var dialer net.Dialer
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, orElse(c.Connect, address))
	}
	trust := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: serverName(c.Host)}
	if len(c.Authority) > 0 {
		trusted, err := trustBoth(x509.SystemCertPool, c.Authority)
		if err != nil {
			return nil, err
		}
		trust.RootCAs = trusted
	}
	return &http.Transport{DialContext: dial, TLSClientConfig: trust, DisableKeepAlives: true, DisableCompression: true}, nil
}

// trustBoth trusts an authority beside those of the system: an edge has its certificates from a public issuer, or from the
// control plane while there is none.
func trustBoth(system func() (*x509.CertPool, error), der []byte) (*x509.CertPool, error) {
	authority, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read authority: %w", err)
	}
	trusted, err := system()
	if err != nil {
		trusted = x509.NewCertPool() // a system without any: the one authority is left
	}
	trusted.AddCert(authority)
	return trusted, nil
}

func serverName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return host
}

const longestAnswer = 1 << 20

// judge reads the answer and says what is wrong with it. Without a wanted status, anything below 400 is well.
func judge(c link.Check, res *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(res.Body, longestAnswer))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	switch {
	case c.Status != 0 && res.StatusCode != c.Status:
		return fmt.Errorf("answered %d instead of %d", res.StatusCode, c.Status)
	case c.Status == 0 && res.StatusCode >= http.StatusBadRequest:
		return fmt.Errorf("answered %d", res.StatusCode)
	case !strings.Contains(string(body), c.Contains):
		return fmt.Errorf("answered %d without the text %q", res.StatusCode, c.Contains)
	}
	return nil
}

// ownTrouble tells whether err says more about the prober than about what it asked: no network at all, no more
// sockets, or a resolver that does not answer.
func ownTrouble(err error) bool {
	for _, own := range []error{syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, own) {
			return true
		}
	}
	unresolved, ok := errors.AsType[*net.DNSError](err)
	return ok && !unresolved.IsNotFound
}

// phaseClock takes the times of one request.
type phaseClock struct {
	resolve, resolved, dial, dialed, shake, shaken, sent, first time.Time
}

func (p *phaseClock) watch(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSStart:             func(httptrace.DNSStartInfo) { p.resolve = time.Now() },
		DNSDone:              func(httptrace.DNSDoneInfo) { p.resolved = time.Now() },
		ConnectStart:         func(string, string) { p.dial = time.Now() },
		ConnectDone:          func(string, string, error) { p.dialed = time.Now() },
		TLSHandshakeStart:    func() { p.shake = time.Now() },
		TLSHandshakeDone:     func(tls.ConnectionState, error) { p.shaken = time.Now() },
		WroteRequest:         func(httptrace.WroteRequestInfo) { p.sent = time.Now() },
		GotFirstResponseByte: func() { p.first = time.Now() },
	})
}

func (p *phaseClock) phases(end time.Time) *link.Phases {
	between := func(from, to time.Time) time.Duration {
		switch {
		case from.IsZero():
			return 0
		case to.IsZero(): // it broke off here
			return end.Sub(from)
		}
		return max(0, to.Sub(from))
	}
	return &link.Phases{
		Resolve: between(p.resolve, p.resolved), Connect: between(p.dial, p.dialed), TLS: between(p.shake, p.shaken),
		Wait: between(p.sent, p.first), Read: between(p.first, end),
	}
}

func orElse(text, fallback string) string {
	if text == "" {
		return fallback
	}
	return text
}
