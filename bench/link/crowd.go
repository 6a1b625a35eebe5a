package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/api"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
)

// crowd is the simulated agents.
type crowd struct {
	server *server
	agents int

	mu  sync.Mutex
	ups []time.Time // since expect
}

// joinsAtOnce keeps the joins from being what is measured.
const joinsAtOnce = 8

// grow joins agents until there are n, and waits until all of them listen.
func (c *crowd) grow(ctx context.Context, n int) error {
	c.expect()
	client, err := c.server.client()
	if err != nil {
		return err
	}
	defer client.Close()
	group, joining := errgroup.WithContext(ctx)
	group.SetLimit(joinsAtOnce)
	added := n - c.agents
	for i := c.agents; i < n; i++ {
		group.Go(func() error {
			a, err := c.join(joining, client, fmt.Sprintf("bench-%04d", i))
			if err == nil {
				go a.live(ctx, c.up)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	c.agents = n
	return c.heard(ctx, added)
}

func (c *crowd) up() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ups = append(c.ups, time.Now())
}

// expect forgets who has listened so far.
func (c *crowd) expect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ups = nil
}

// heard waits until n agents have begun to listen.
func (c *crowd) heard(ctx context.Context, n int) error {
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); wait(ctx, 20*time.Millisecond) {
		c.mu.Lock()
		have := len(c.ups)
		c.mu.Unlock()
		if have >= n {
			return nil
		}
	}
	return fmt.Errorf("of %d agents not all listen after two minutes", n)
}

// allBack waits for every agent and tells when half of them and the last came, and how many came in the busiest second.
func (c *crowd) allBack(ctx context.Context) (half, last time.Time, most int, err error) {
	if err := c.heard(ctx, c.agents); err != nil {
		return half, last, 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, from := range c.ups {
		n := 0
		for _, at := range c.ups[i:] {
			if at.Sub(from) < time.Second {
				n++
			}
		}
		most = max(most, n)
	}
	half = c.ups[c.agents/2]
	return half, c.ups[c.agents-1], most, nil
}

// simulated is one agent: the real end of the link, and nothing behind it.
type simulated struct {
	node   string
	client *link.Client
}

func (c *crowd) join(ctx context.Context, admin *api.Client, node string) (*simulated, error) {
	made, err := admin.CreateJoinToken(ctx, api.NewJoinToken{Site: "bench", Roles: []string{"run"}, Ends: "1h"})
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	first := link.NewClient(link.Dial{URL: c.server.url(), TLS: link.PinnedTLS(link.PinOf(made.Text), c.server.url())})
	defer first.Close()
	answer, err := first.Join(ctx, link.JoinRequest{Token: made.Text, Node: node, Site: "bench", Roles: []fleet.Role{fleet.RoleRun}, CSR: csr, Capability: link.Capability, Version: "bench"})
	if err != nil {
		return nil, err
	}
	authority, err := x509.ParseCertificate(answer.Authority)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	mine := tls.Certificate{Certificate: [][]byte{answer.Certificate}, PrivateKey: key}
	return &simulated{node, link.NewClient(link.Dial{URL: c.server.url(), TLS: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{mine}}})}, nil
}

// live listens and reports until ctx ends.
func (a *simulated) live(ctx context.Context, up func()) {
	go a.report(ctx)
	a.client.Keep(ctx, link.Keeper{
		Hello: func() link.ListenRequest {
			return link.ListenRequest{Node: a.node, Capability: link.Capability, Version: "bench", BootID: "boot-" + a.node}
		},
		Up:   up,
		Down: func(error, int) {},
		Take: func(link.Delivery) {},
	})
}

// report tells facts every five seconds, as an agent does.
func (a *simulated) report(ctx context.Context) {
	beat := time.NewTicker(5 * time.Second)
	defer beat.Stop()
	for seq := int64(1); ; seq++ {
		now := time.Now()
		facts := &fleet.NodeFacts{Node: a.node, Site: "bench", Roles: []fleet.Role{fleet.RoleRun}, Engines: []string{"exec"}, Capability: link.Capability,
			Version: "bench", BootID: "boot-" + a.node, Instances: map[string]fleet.InstanceFacts{}, TakenAt: now,
			Capacity: fleet.Capacity{MemoryMB: 16 << 10, CPUs: 4, DiskMB: 1 << 20, DiskFreeMB: 1 << 19}}
		_, _ = a.client.Report(ctx, link.Batch{Node: a.node, Reports: []link.Report{{Seq: seq, At: now, Facts: facts}}}) // away: the next facts are newer
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
		}
	}
}
