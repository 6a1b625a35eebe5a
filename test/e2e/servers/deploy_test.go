package servers_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net"
	"strings"
	"testing"
	"time"

	"holdfast/test/e2e/dashtest"
)

// TestTwelveInstancesOnSixNodes deploys every customer, spread over six nodes with a Docker Engine each, and reaches each
// by its own name: the name server leads to the edge, whose certificate is of the issuer and for that name.
func TestTwelveInstancesOnSixNodes(t *testing.T) {
	w := shared.World(t)
	w.Home()
	at := w.Placements()
	if len(at) != len(w.Customers) {
		t.Errorf("%d instances are placed, want %d", len(at), len(w.Customers))
	}
	nodes := map[string]int{}
	for _, c := range w.Customers {
		p := at[c.Name]
		nodes[p.Node]++
		if p.Site != c.Site || p.State != "running" {
			t.Errorf("%s is %s in %s, want running in %s", c.Name, p.State, p.Site, c.Site)
		}
	}
	if len(w.Customers) == dashtest.Instances && len(nodes) != 6 {
		t.Errorf("instances are on %d nodes, want 6: %v", len(nodes), nodes)
	}
	edge, err := w.Server("edge1")
	w.Must(err)
	names := map[string]named{}
	for _, c := range w.Customers {
		names[c.Name] = namedBy(w, c, edge.Address.String())
	}
	w.Each(w.Customers, func(c dashtest.Customer) error {
		v, err := w.Verify(c, time.Time{})
		if err == nil && (!v.Whole() || v.Asked == 0) {
			t.Errorf("%s: %+v", c.Name, v)
		}
		return err
	})
	w.Keep("deployed.json", map[string]any{"placements": at, "names": names})
}

// named is how the world finds a customer.
type named struct{ Address, Issuer string }

// namedBy asks the name server itself for a customer's address, and the edge for its certificate.
func namedBy(w *dashtest.World, c dashtest.Customer, edge string) named {
	w.Helper()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, w.Services().DNS.Address)
	}}
	got, err := resolver.LookupHost(w.Ctx, c.Host())
	w.Must(err)
	if len(got) != 1 || got[0] != edge {
		w.Errorf("%s is at %v, want %s", c.Host(), got, edge)
	}
	shown, err := w.Outside("sh", "-c", "openssl s_client -verify_return_error -verify_hostname "+c.Host()+" -servername "+c.Host()+" -connect "+c.Host()+":443 </dev/null 2>/dev/null")
	w.Must(err)
	block, _ := pem.Decode([]byte(shown[max(0, strings.Index(shown, "-----BEGIN")):]))
	if block == nil {
		w.Fatalf("%s shows no certificate:\n%s", c.Host(), shown)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	w.Must(err)
	if issuer := certificate.Issuer.CommonName; !strings.HasPrefix(issuer, "Pebble") {
		w.Errorf("the certificate of %s is of %q, not of the issuer", c.Host(), issuer)
	}
	return named{Address: got[0], Issuer: certificate.Issuer.CommonName}
}
