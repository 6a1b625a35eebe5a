// Package edge takes the requests for {instance}.{domain} and passes them to the instance wherever it runs.
//
// Words: a route names an instance's hosts and endpoints at one epoch (link.Route); the table is all routes that are
// served now; an endpoint is healthy or ejected, by active checks and by what requests meet (passive); an exchange is
// one request and its answer; the hand-over is the agent giving routes or certificates to this process over a unix
// socket in the data directory.
//
// Invariant: the edge is its own process and outlives the agent. A new table applies whole and between requests: no
// connection is dropped for a route that did not change. One customer's bad route never stops another's. Without
// a healthy endpoint the answer is the maintenance page, never a wait without end.
package edge

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"
)

// Settings are what one edge process is started with. The zero value of every limit means its default.
type Settings struct {
	Dir       string         // data directory: routes.json, certs/, edge.sock, access.log
	Listen    string         // address for TLS; "" = none
	Plain     string         // address for plain HTTP; "" = none
	Redirect  bool           // plain requests are sent to https
	AccessLog string         // a file, "-" for Out; "" = access.log in Dir
	Trusted   []netip.Prefix // proxies whose X-Forwarded-* and X-Request-Id are believed
	Version   string         // shown by Status
	Limits    Limits
	Health    Health
	ACME      ACME
	Log       *slog.Logger // what the process itself has to say; nil = slog.Default()
}

// Limits bound what one client can take.
type Limits struct {
	HeaderBytes   int           // request line and headers; default 64 KiB
	HeaderWait    time.Duration // until the headers are complete; default 10 s
	Idle          time.Duration // a kept-alive connection without a request; default 2 min
	Stall         time.Duration // a body or an answer that does not move; default 1 min
	BodyBytes     int64         // default 1 GiB; below 0 = no limit
	Connections   int           // at once, on each address; default 16384
	DialWait      time.Duration // connect to an endpoint; default 2 s
	AnswerWait    time.Duration // until an endpoint's answer begins; default 5 min
	DrainWait     time.Duration // what requests to a withdrawn endpoint may still take; default 30 s
	HoldWait      time.Duration // how long after an instance's last endpoint fell a request waits for the next; default 1 s, below 0 = not at all
	AccessLogMB   int           // size at which the access log is rotated; default 64
	AccessLogKeep int           // rotated files kept; default 5
}

// Health says how endpoints are asked whether they are well.
type Health struct {
	Every      time.Duration // a healthy endpoint; default 2 s
	EveryDown  time.Duration // an ejected one; default 250 ms
	Timeout    time.Duration // default 2 s
	FailAfter  int           // active failures in a row that eject; default 2
	ErrorAfter int           // passive failures in a row that eject (a refused connection ejects at once); default 3
}

// ACME asks an issuer for certificates of the routes' hosts. An empty Directory means: files only.
type ACME struct {
	Directory string // URL of the issuer's directory
	Email     string
	CAFile    string // PEM of the CA that signed the directory's own certificate; "" = the system's
}

func (s Settings) withDefaults() Settings {
	s.Limits = s.Limits.withDefaults()
	s.Health = s.Health.withDefaults()
	if absolute, err := filepath.Abs(s.Dir); err == nil && s.Dir != "" {
		s.Dir = absolute
	}
	if s.Log == nil {
		s.Log = slog.Default()
	}
	return s
}

func (l Limits) withDefaults() Limits {
	orElse(&l.HeaderBytes, 64<<10)
	orElse(&l.HeaderWait, 10*time.Second)
	orElse(&l.Idle, 2*time.Minute)
	orElse(&l.Stall, time.Minute)
	orElse(&l.BodyBytes, 1<<30)
	orElse(&l.Connections, 16384)
	orElse(&l.DialWait, 2*time.Second)
	orElse(&l.AnswerWait, 5*time.Minute)
	orElse(&l.DrainWait, 30*time.Second)
	orElse(&l.HoldWait, time.Second)
	orElse(&l.AccessLogMB, 64)
	orElse(&l.AccessLogKeep, 5)
	return l
}

func (h Health) withDefaults() Health {
	orElse(&h.Every, 2*time.Second)
	orElse(&h.EveryDown, 250*time.Millisecond)
	orElse(&h.Timeout, 2*time.Second)
	orElse(&h.FailAfter, 2)
	orElse(&h.ErrorAfter, 3)
	return h
}

func orElse[T comparable](value *T, fallback T) {
	var zero T
	if *value == zero {
		*value = fallback
	}
}
