package agent

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/link"
	"holdfast/internal/problem"
)

// Agent is the core of a node's process: it keeps the link, takes orders and settings, does them, and reports.
type Agent struct {
	Config
	client   *link.Client
	orders   *orders
	settings *settings
	sender   *sender
	starts   int // of the agent on this journal, before this one
}

// New makes an agent of its parts; Run starts it.
func New(c Config) (*Agent, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	proxy, err := c.Self.proxy()
	if err != nil {
		return nil, err
	}
	client := link.NewClient(link.Dial{URL: c.Self.Server, TLS: c.Identity.TLS(c.Now), Proxy: proxy})
	return &Agent{
		Config:   c,
		client:   client,
		settings: newSettings(c),
		sender:   &sender{node: c.Identity.Node, spool: c.Spool, report: client.Report, up: make(chan struct{}, 1), log: c.Log},
		orders: &orders{
			identity: c.Identity, journal: c.Journal, spool: c.Spool, steps: c.Steps, now: c.Now, log: c.Log,
			broken: make(chan error, 1), running: map[string]*work{}, tails: map[string]*work{},
		},
	}, nil
}

// Certify asks the server for a certificate for the names that this node's edge serves; csr is DER PKCS#10.
func (a *Agent) Certify(ctx context.Context, csr []byte) (chain [][]byte, err error) {
	answer, err := a.client.Certify(ctx, link.CertifyRequest{CSR: csr})
	return answer.Chain, err
}

// Ask has the server say anew who serves what, over a stream of its own, and returns once that is carried out.
func (a *Agent) Ask(ctx context.Context) error {
	asked := a.settings.ask()
	defer a.settings.forget(asked)
	a.client.Redial()
	select {
	case <-asked.answered:
		return nil
	case <-ctx.Done():
		return problem.New(problem.Unreachable, "", "the server at %s did not say who serves what", a.Self.Server)
	}
}

// Run works until ctx ends; then it stops without ending the stacks, and orders in flight stay in flight. It returns
// an error only when the journal can no longer be trusted: the process must then end and start anew.
func (a *Agent) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	a.orders.root = ctx
	if err := a.begin(ctx); err != nil {
		return err
	}
	for kind := range a.settings.rings {
		group.Go(func() error { return a.settings.serve(ctx, kind) })
	}
	group.Go(func() error { return a.tellFacts(ctx) })
	group.Go(func() error { return a.sender.run(ctx) })
	group.Go(func() error { a.keepLink(ctx); return nil })
	group.Go(func() error { return a.keepCertificate(ctx) })
	group.Go(func() error { return a.tidy(ctx) })
	group.Go(func() error { return a.watchOrders(ctx) })
	err := group.Wait()
	a.orders.all.Wait()
	if err != nil {
		return problem.Wrap(err, problem.Corrupt, "start the agent again; it moves a damaged journal aside", "the agent of node %s stopped", a.Identity.Node)
	}
	return nil
}

// begin counts the start and takes up the orders that were in flight.
func (a *Agent) begin(ctx context.Context) (err error) {
	if a.starts, err = a.Journal.Started(ctx); err != nil {
		return err
	}
	event := link.Event{Kind: "agent_started", Note: "version " + a.Version, Labels: map[string]string{"boot": a.BootID}}
	if err := a.Spool.Event(ctx, event); err != nil {
		return err
	}
	return a.orders.resume(ctx)
}

func (a *Agent) watchOrders(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-a.orders.broken:
		return err
	}
}

// keepLink keeps the stream open and hands out what comes over it, in order.
func (a *Agent) keepLink(ctx context.Context) {
	a.client.Keep(ctx, link.Keeper{
		Hello: func() link.ListenRequest {
			return link.ListenRequest{Node: a.Identity.Node, Capability: link.Capability, Version: a.Version, BootID: a.BootID}
		},
		Up: func() {
			a.Log.Info("connected", "server", a.Self.Server)
			a.settings.up()
			knock(a.sender.up)
		},
		Down: func(err error, failures int) { a.disconnected(err, failures) },
		Take: func(d link.Delivery) { a.take(ctx, d) },
	})
}

// disconnected says so once, and again when it is not getting better; the node goes on meanwhile.
func (a *Agent) disconnected(err error, failures int) {
	if failures == 0 || failures%20 == 0 || problem.KindOf(err) == problem.Denied {
		a.Log.Warn("not connected; work goes on and reports are kept", "server", a.Self.Server, "error", err, "failures", failures)
	}
}

// take hands on one delivery. An order that could not be kept was not taken: the server sends it again.
func (a *Agent) take(ctx context.Context, d link.Delivery) {
	var err error
	switch {
	case d.Order != nil:
		err = a.orders.take(ctx, *d.Order)
	case d.Setting != nil:
		err = a.settings.take(ctx, *d.Setting)
	case d.Cancel != "":
		err = a.orders.stop(ctx, d.Cancel)
	}
	if Broken(err) {
		a.orders.giveUp(err)
	} else if err != nil {
		a.Log.Error("a delivery was not taken", "error", err)
	}
}

// renewRetry bounds how often a renewal is tried while the server is away; renewLook is how often the end is looked at.
const (
	renewRetry = time.Minute
	renewLook  = time.Hour
)

// keepCertificate renews the certificate before it ends.
func (a *Agent) keepCertificate(ctx context.Context) error {
	for ctx.Err() == nil {
		left := RenewAt(a.Identity.Certificate().Leaf).Sub(a.Now())
		if left > 0 {
			rest(ctx, min(left, renewLook)) // looked at again and again, because a clock may be set
			continue
		}
		if err := a.renew(ctx); err != nil && ctx.Err() == nil {
			leaf := a.Identity.Certificate().Leaf
			a.Log.Warn("certificate was not renewed; trying again", "ends", leaf.NotAfter, "error", err)
			rest(ctx, min(renewRetry, max(time.Second, leaf.NotAfter.Sub(a.Now())/20))/2+rand.N(time.Second))
		}
	}
	return nil
}

// renew asks for a certificate for a new key and puts both in place; connections that follow show it.
func (a *Agent) renew(ctx context.Context) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	request, err := csr(a.Identity.Node, key)
	if err != nil {
		return err
	}
	answer, err := a.client.Renew(ctx, link.RenewRequest{CSR: request})
	if err != nil {
		return err
	}
	if err := a.Identity.replace(answer.Certificate, key); err != nil {
		return err
	}
	a.Log.Info("certificate renewed", "ends", a.Identity.Certificate().Leaf.NotAfter)
	a.client.Redial()
	return a.Spool.Event(ctx, link.Event{Kind: "certificate_renewed",
		Note: fmt.Sprintf("ends at %s", a.Identity.Certificate().Leaf.NotAfter.UTC().Format(time.RFC3339))})
}

// tidyEvery is how often the journal is kept small.
const tidyEvery = 10 * time.Minute

// tidy forgets what is not needed any more, at the start and every now and then.
func (a *Agent) tidy(ctx context.Context) error {
	for ctx.Err() == nil {
		err := a.Journal.Forget(ctx, a.Now().Add(-KeepEnded))
		if err == nil {
			_, err = a.Journal.Thin(ctx, KeepResults, a.Now())
		}
		if Broken(err) {
			return err
		}
		if err != nil {
			a.Log.Warn("the journal was not kept small", "error", err)
		}
		rest(ctx, tidyEvery)
	}
	return nil
}
