// Package linktest is a small server for whoever tests or measures the agent's end of the link: a certificate
// authority, one join token for each node, and an intake in memory that commits as the real one does.
package linktest

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"

	"holdfast/internal/link"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// Authority is a certificate authority with an order key.
type Authority struct {
	Certificate *x509.Certificate
	Orders      ed25519.PrivateKey
	Life        time.Duration    // of a node's certificate
	Now         func() time.Time // its clock
	key         *ecdsa.PrivateKey
}

// NewAuthority makes one that issues for 30 days.
func NewAuthority() (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	_, orders, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return &Authority{Certificate: certificate, Orders: orders, Life: 30 * 24 * time.Hour, Now: time.Now, key: key}, err
}

// Token is the join token of a node; it carries the authority's pin.
func (a *Authority) Token(node string) string { return a.token("first", node) }

// AnotherToken is a second join token of the same node.
func (a *Authority) AnotherToken(node string) string { return a.token("second", node) }

func (a *Authority) token(id, node string) string {
	sum := sha256.Sum256(a.Certificate.Raw)
	return "hfj." + id + "." + node + "." + base64.RawURLEncoding.EncodeToString(sum[:])
}

// ServerTLS is for a server on the loopback.
func (a *Authority) ServerTLS() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotAfter: time.Now().AddDate(1, 0, 0),
	}, key.Public())
	if err != nil {
		return nil, err
	}
	nodes := x509.NewCertPool()
	nodes.AddCert(a.Certificate)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: nodes, NextProtos: []string{"h2"}, Time: a.Now,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der, a.Certificate.Raw}, PrivateKey: key}},
	}, nil
}

// Sign issues a node's certificate for a CSR.
func (a *Authority) Sign(node string, csr []byte) ([]byte, error) {
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "", "certificate request of node %s cannot be read", node)
	}
	return a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: node}, NotBefore: a.Now().Add(-time.Second), NotAfter: a.Now().Add(a.Life),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, request.PublicKey)
}

func (a *Authority) issue(template *x509.Certificate, public any) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	return x509.CreateCertificate(rand.Reader, template, a.Certificate, public, a.key)
}

// NodeTLS gives a fresh certificate of the node, as an agent shows it.
func (a *Authority) NodeTLS(node string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	der, err := a.Sign(node, csr)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.Certificate)
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, nil
}

// Order signs an order.
func (a *Authority) Order(order step.Order) (link.Delivery, error) {
	signed, err := step.Sign(a.Orders, step.ForOrder, order)
	return link.Delivery{Order: &signed}, err
}

// Setting signs a setting.
func (a *Authority) Setting(setting link.Setting) (link.Delivery, error) {
	signed, err := step.Sign(a.Orders, step.ForSetting, setting)
	return link.Delivery{Setting: &signed}, err
}

// Register is what stands behind the gate: used tokens and committed reports, in memory. It outlives a server.
type Register struct {
	*Authority
	mu      sync.Mutex
	used    map[string]string        // token -> hash of the key it was used with
	reports map[string][]link.Report // by node, in order
	fail    func(node string, reports []link.Report) (committed bool, err error)
}

// NewRegister makes an empty one.
func NewRegister(authority *Authority) *Register {
	return &Register{Authority: authority, used: map[string]string{}, reports: map[string][]link.Report{}}
}

// Fail is asked before each batch: with an error the batch is committed or not, and the answer is lost either way.
func (r *Register) Fail(how func(node string, reports []link.Report) (committed bool, err error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = how
}

// Gate is the register as the link sees it.
func (r *Register) Gate() link.Gate {
	return link.Gate{
		Node: func(_ context.Context, certificate *x509.Certificate) (string, error) {
			return certificate.Subject.CommonName, nil
		},
		Join:  func(_ context.Context, request link.JoinRequest) (link.JoinResponse, error) { return r.join(request) },
		Renew: func(_ context.Context, node string, csr []byte) ([]byte, error) { return r.Sign(node, csr) },
		Intake: func(_ context.Context, node string, reports []link.Report) (int64, error) {
			return r.intake(node, reports)
		},
	}
}

func (r *Register) join(request link.JoinRequest) (link.JoinResponse, error) {
	parsed, err := x509.ParseCertificateRequest(request.CSR)
	if err != nil {
		return link.JoinResponse{}, problem.Wrap(err, problem.Invalid, "", "certificate request cannot be read")
	}
	if request.Token != r.Token(request.Node) && request.Token != r.AnotherToken(request.Node) {
		return link.JoinResponse{}, problem.New(problem.Denied, "holdfast join-token create", "node %s did not join: the join token is not known", request.Node)
	}
	key := fmt.Sprintf("%x", sha256.Sum256(parsed.RawSubjectPublicKeyInfo))
	r.mu.Lock()
	defer r.mu.Unlock()
	if before, ok := r.used[request.Token]; ok && before != key {
		return link.JoinResponse{}, problem.New(problem.Denied, "holdfast join-token create", "node %s did not join: the join token was used already", request.Node)
	}
	r.used[request.Token] = key
	certificate, err := r.Sign(request.Node, request.CSR)
	return link.JoinResponse{Certificate: certificate, Authority: r.Certificate.Raw, OrderKey: r.Orders.Public().(ed25519.PublicKey)}, err
}

// intake takes each number once.
func (r *Register) intake(node string, reports []link.Report) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil && len(reports) > 0 {
		committed, err := r.fail(node, reports)
		if committed {
			r.commit(node, reports)
		}
		if err != nil {
			return 0, err
		}
	}
	r.commit(node, reports)
	return r.through(node), nil
}

func (r *Register) commit(node string, reports []link.Report) {
	for _, report := range reports {
		if report.Seq > r.through(node) {
			r.reports[node] = append(r.reports[node], report)
		}
	}
}

func (r *Register) through(node string) int64 {
	all := r.reports[node]
	if len(all) == 0 {
		return 0
	}
	return all[len(all)-1].Seq
}

// Reports gives what was committed of a node, in order.
func (r *Register) Reports(node string) []link.Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]link.Report(nil), r.reports[node]...)
}

// Updates gives the words about orders that were committed of a node, in order.
func (r *Register) Updates(node string) (all []step.Update) {
	for _, report := range r.Reports(node) {
		if report.Update != nil {
			all = append(all, *report.Update)
		}
	}
	return all
}

// Events gives the events of a kind that were committed of a node, in order.
func (r *Register) Events(node, kind string) (all []link.Event) {
	for _, report := range r.Reports(node) {
		if report.Event != nil && report.Event.Kind == kind {
			all = append(all, *report.Event)
		}
	}
	return all
}
