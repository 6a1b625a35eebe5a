package lab

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// The sites of a Notes lab: customers live in the first two, the edge and the probers stand outside both.
const (
	SiteA  = "par1"
	SiteB  = "ams1"
	domain = "notes.localhost"
)

// Notes is a lab in which customers of the notes product live: two sites with two nodes and a vault each, every
// customer backed up into the other site, an edge and two probers outside.
type Notes struct {
	*Lab
	Fleet     string // folder of the fleet files
	People    string // folder of the recovery keys' private halves; nothing of Holdfast is given it
	Customers []*Customer
	Token     string // of the first admin
	edge      string
	trust     *x509.CertPool
}

// NewNotes lays a Notes lab out in dir, with every other customer in SiteA. The edge listens on edgePort; 0 finds one.
func NewNotes(dir, bin string, customers, edgePort int) (*Notes, error) {
	edge := fmt.Sprintf("127.0.3.1:%d", edgePort)
	if edgePort == 0 {
		var err error
		if edge, err = freeAddress("127.0.3.1"); err != nil {
			return nil, err
		}
	}
	l, err := New(dir, bin, notesNodes(edge))
	if err != nil {
		return nil, err
	}
	for i, node := range l.Nodes {
		if node.Roles != "vault" {
			continue
		}
		listen, err := freeAddress(node.Address)
		if err != nil {
			return nil, err
		}
		l.Nodes[i].Extra = []string{"--vault-listen", listen} // so that two labs fit on one machine
	}
	n := &Notes{Lab: l, Fleet: filepath.Join(l.Dir, "fleet"), People: filepath.Join(l.Dir, "keys-of-the-people"), edge: edge}
	for i := range customers {
		n.Customers = append(n.Customers, &Customer{Instance: customerName(i), Site: []string{SiteA, SiteB}[i%2]})
	}
	return n, nil
}

func notesNodes(edge string) []Node {
	return []Node{
		{Name: "par1-n1", Site: SiteA, Roles: "run,spare", Address: "127.0.1.1"},
		{Name: "par1-n2", Site: SiteA, Roles: "run,spare", Address: "127.0.1.2"},
		{Name: "par1-vault", Site: SiteA, Roles: "vault", Address: "127.0.1.9"},
		{Name: "ams1-n1", Site: SiteB, Roles: "run,spare", Address: "127.0.2.1"},
		{Name: "ams1-n2", Site: SiteB, Roles: "run,spare", Address: "127.0.2.2"},
		{Name: "ams1-vault", Site: SiteB, Roles: "vault", Address: "127.0.2.9"},
		{Name: "edge1", Site: "edge1", Roles: "edge", Address: "127.0.3.1", Extra: []string{"--edge-listen", edge}},
		{Name: "probe1", Site: "out1", Roles: "probe", Address: "127.0.4.1"},
		{Name: "probe2", Site: "out2", Roles: "probe", Address: "127.0.4.2"},
	}
}

// customerName gives names that can be told apart.
func customerName(i int) string {
	names := []string{"acme", "globex", "initech", "umbrella", "hooli", "stark", "wayne", "wonka", "tyrell", "cyberdyne", "soylent", "aperture"}
	if i < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%s%d", names[i%len(names)], i/len(names)+1)
}

// In lists the customers of one site.
func (n *Notes) In(site string) []*Customer {
	var there []*Customer
	for _, c := range n.Customers {
		if c.Site == site {
			there = append(there, c)
		}
	}
	return there
}

// Serve gives every customer a way in through the edge and waits until each instance answers.
func (n *Notes) Serve(ctx context.Context) error {
	roots, err := n.roots()
	if err != nil {
		return err
	}
	n.trust = roots
	for _, c := range n.Customers {
		n.Admit(c)
	}
	return Each(n.Customers, func(c *Customer) error { return c.WaitServes(ctx, 90*time.Second) })
}

// Admit gives one customer a way in through the edge.
func (n *Notes) Admit(c *Customer) { c.Connect(c.Instance+"."+domain, n.edge, n.trust) }

// Each runs f for every customer at once, a few at a time.
func Each(customers []*Customer, f func(*Customer) error) error {
	var group errgroup.Group
	group.SetLimit(8)
	for _, c := range customers {
		group.Go(func() error { return f(c) })
	}
	return group.Wait()
}

// roots is the control plane's authority, which also signs the certificates of the edge.
func (n *Notes) roots() (*x509.CertPool, error) {
	var admin struct{ Authority, Token string }
	raw, err := os.ReadFile(n.context())
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &admin); err != nil {
		return nil, fmt.Errorf("read %s: %w", n.context(), err)
	}
	n.Token = admin.Token
	block, _ := pem.Decode([]byte(admin.Authority))
	if block == nil {
		return nil, errors.New("admin.json holds no authority")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool, nil
}
