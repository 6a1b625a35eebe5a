package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"sync"
	"time"

	"holdfast/internal/link"
)

// Prober asks the checks it was last set to, each on its own beat, and gives every result to Give, one at a time.
type Prober struct {
	give  func(link.Result)
	limit chan struct{} // questions at once
	self  *mirror

	mu      sync.Mutex
	asking  map[string]*asked // by instance and name
	running context.Context   // nil until Run
	wg      sync.WaitGroup

	giving sync.Mutex
}

// asked is one check that is being asked.
type asked struct {
	check link.Check
	stop  context.CancelFunc
}

// AtOnce is how many questions a prober has open at a time.
const AtOnce = 256

// NewProber makes a prober that gives its results to give. Nothing is asked before Run.
func NewProber(give func(link.Result)) *Prober {
	return &Prober{give: give, limit: make(chan struct{}, AtOnce), asking: map[string]*asked{}}
}

// Run asks until ctx ends. It fails when the prober's own mirror cannot listen.
func (p *Prober) Run(ctx context.Context) error {
	self, err := newMirror()
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.self, p.running = self, ctx
	for _, a := range p.asking {
		p.begin(a)
	}
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock()
	p.running = nil
	p.mu.Unlock()
	p.wg.Wait()
	return self.close()
}

// Set replaces the checks. One that did not change keeps its beat and its streak; it may be called before and while Run.
func (p *Prober) Set(setting link.ProbesSetting) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted := map[string]*asked{}
	for _, c := range setting.Checks {
		key := c.Instance + "/" + c.Name
		if a := p.asking[key]; a != nil && reflect.DeepEqual(a.check, c) {
			wanted[key] = a
			continue
		}
		wanted[key] = &asked{check: c}
	}
	before := p.asking
	p.asking = wanted
	for key, a := range before {
		if wanted[key] != a && a.stop != nil {
			a.stop()
		}
	}
	for _, a := range wanted {
		p.begin(a)
	}
}

// begin starts asking a, once the prober runs; p.mu is held.
func (p *Prober) begin(a *asked) {
	if p.running == nil || a.stop != nil {
		return
	}
	var ctx context.Context
	ctx, a.stop = context.WithCancel(p.running)
	p.wg.Go(func() { p.repeat(ctx, a.check) })
}

// repeat asks on the check's beat; the first bad answers are followed by quick ones, so that a real outage is certain
// early and a single lost packet is soon put right.
func (p *Prober) repeat(ctx context.Context, c link.Check) {
	timer := time.NewTimer(time.Until(next(c, time.Now())))
	defer timer.Stop()
	bad := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		result, ok := p.ask(ctx, c)
		if !ok {
			return
		}
		p.tell(result)
		if bad++; result.OK {
			bad = 0
		}
		timer.Reset(pause(c, bad, time.Now()))
	}
}

const quickQuestions = 2

// pause is how long to wait after the bad-th bad answer in a row: a fifth of the interval for the first ones.
func pause(c link.Check, bad int, now time.Time) time.Duration {
	regular := next(c, now).Sub(now)
	if bad == 0 || bad > quickQuestions {
		return regular
	}
	return min(regular, max(shortest, intervalOf(c)/5))
}

// ask asks when a place is free. A bad answer stands only when the prober can reach its own mirror at that moment.
func (p *Prober) ask(ctx context.Context, c link.Check) (link.Result, bool) {
	select {
	case <-ctx.Done():
		return link.Result{}, false
	case p.limit <- struct{}{}:
	}
	defer func() { <-p.limit }()
	result := Ask(ctx, c)
	if ctx.Err() != nil {
		return link.Result{}, false
	}
	if !result.OK && !result.Inconclusive {
		if err := p.self.look(ctx); err != nil {
			result.Inconclusive = true
			result.Error += "; the prober does not reach itself: " + err.Error()
		}
	}
	return result, ctx.Err() == nil
}

func (p *Prober) tell(result link.Result) {
	p.giving.Lock()
	defer p.giving.Unlock()
	p.give(result)
}

// mirror is the prober's own listener on loopback: who cannot reach it cannot judge others.
type mirror struct {
	server *http.Server
	check  link.Check

	mu     sync.Mutex
	seenAt time.Time
}

const (
	mirrorFresh   = 200 * time.Millisecond // one look serves all bad answers of this long
	mirrorTimeout = time.Second
)

func newMirror() (*mirror, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open the prober's mirror: %w", err)
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	m := &mirror{
		server: &http.Server{Handler: handler, ReadHeaderTimeout: mirrorTimeout},
		check:  link.Check{Name: "mirror", URL: "http://" + listener.Addr().String(), Status: http.StatusNoContent, Timeout: mirrorTimeout},
	}
	go func() { _ = m.server.Serve(listener) }() // its end is seen by look
	return m, nil
}

func (m *mirror) look(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.seenAt) < mirrorFresh {
		return nil
	}
	if result := Ask(ctx, m.check); !result.OK {
		return errors.New(result.Error)
	}
	m.seenAt = time.Now()
	return nil
}

func (m *mirror) close() error { return m.server.Close() }
