package app

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/edge"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
)

// edgePart is what an agent with role edge does beside its core: it keeps the edge process running, hands it routes,
// and gets it certificates for the names of the routes.
type edgePart struct {
	start   edge.Start
	certify func(ctx context.Context, csr []byte) ([][]byte, error)
	log     *slog.Logger
	wanted  chan struct{} // size 1: names have changed

	mu      sync.Mutex // guards the rest
	client  *edge.Client
	domains []string
}

func newEdgePart(start edge.Start, log *slog.Logger) *edgePart {
	return &edgePart{start: start, log: log, wanted: make(chan struct{}, 1)}
}

// certificateLook is how often the ends of certificates are looked at; edgeLook how often the process is.
const (
	certificateLook = time.Hour
	certificateSoon = 10 * 24 * time.Hour // renewed when less than this is left
	edgeLook        = 2 * time.Second
)

// Routes hands a new table to the edge. The certificates for new names follow on their own.
func (e *edgePart) Routes(ctx context.Context, setting link.RoutesSetting) error {
	client, err := e.running(ctx)
	if err != nil {
		return err
	}
	e.want(domainsOf(setting.Routes))
	applied, err := client.Apply(ctx, setting.Routes)
	for _, note := range applied.Notes {
		e.log.Warn("route left out", "note", note)
	}
	return err
}

// want notes which domains need a certificate.
func (e *edgePart) want(domains []string) {
	e.mu.Lock()
	changed := !slices.Equal(e.domains, domains)
	e.domains = domains
	e.mu.Unlock()
	if !changed {
		return
	}
	select {
	case e.wanted <- struct{}{}:
	default: // it is already going to look
	}
}

// domainsOf lists the domains whose direct names the routes are for: one wildcard certificate serves each.
func domainsOf(routes []link.Route) []string {
	var domains []string
	for _, r := range routes {
		for _, host := range r.Hosts {
			if _, domain, ok := strings.Cut(host, "."); ok {
				domains = append(domains, domain)
			}
		}
	}
	slices.Sort(domains)
	return slices.Compact(domains)
}

// running gives a client of a live edge, and starts one when none is.
func (e *edgePart) running(ctx context.Context) (*edge.Client, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	client, err := edge.Ensure(ctx, e.start)
	if err == nil {
		e.client = client
	}
	return client, err
}

// Facts tells where the edge takes requests.
func (e *edgePart) Facts(_ context.Context, facts *fleet.NodeFacts) {
	facts.EdgeAddr = e.start.Listen
	if facts.EdgeAddr == "" {
		facts.EdgeAddr = e.start.Plain
	}
}

// Run keeps the edge alive and its certificates fresh until ctx ends; the edge itself goes on then.
func (e *edgePart) Run(ctx context.Context) error {
	look := time.NewTicker(edgeLook)
	defer look.Stop()
	next := time.Now()
	for {
		if _, err := e.running(ctx); err != nil && ctx.Err() == nil {
			e.log.Warn("edge does not run; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-e.wanted:
			next = time.Now()
		case <-look.C:
		}
		if !time.Now().Before(next) {
			next = e.freshen(ctx)
		}
	}
}

// freshen gets a certificate for every domain that has none or whose end is near, and tells when to look again.
func (e *edgePart) freshen(ctx context.Context) time.Time {
	e.mu.Lock()
	domains, client := slices.Clone(e.domains), e.client
	e.mu.Unlock()
	if client == nil || e.start.ACME.Directory != "" {
		return time.Now().Add(edgeLook)
	}
	status, err := client.Status(ctx)
	if err != nil {
		return time.Now().Add(edgeLook)
	}
	for _, domain := range domains {
		if left(status, domain) > certificateSoon {
			continue
		}
		if err := e.issue(ctx, client, domain); err != nil {
			e.log.Warn("certificate of the edge was not issued; trying again", "domain", domain, "err", err)
			return time.Now().Add(edgeLook)
		}
	}
	return time.Now().Add(certificateLook)
}

func left(status edge.Status, domain string) time.Duration {
	for _, c := range status.Certificates {
		if c.Name == domain {
			return time.Until(c.Until)
		}
	}
	return 0
}

// issue makes a key, has the server sign it for the domain's direct names, and hands both to the edge. The key is
// never anywhere else.
func (e *edgePart) issue(ctx context.Context, client *edge.Client, domain string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"*." + domain}}, key)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	chain, err := e.certify(ctx, csr)
	if err != nil {
		return err
	}
	bundle, err := edge.Bundle(chain, key)
	if err != nil {
		return err
	}
	return client.PutCertificate(ctx, domain, bundle)
}
