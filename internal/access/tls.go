package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"holdfast/internal/problem"
)

// ServerTLS is for the server's one port: TLS 1.3, a certificate for names that is renewed in memory, and client
// certificates of this authority's nodes, verified when they are given.
func (a *Authority) ServerTLS(names []string, now func() time.Time) *tls.Config {
	nodes := x509.NewCertPool()
	nodes.AddCert(a.Certificate)
	mine := &serving{authority: a, names: names, now: now}
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      nodes,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return mine.certificate() },
	}
}

// serving holds the server's current certificate. Its key never leaves memory.
type serving struct {
	authority *Authority
	names     []string
	now       func() time.Time

	mu      sync.Mutex
	current *tls.Certificate
}

func (s *serving) certificate() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil && s.now().Before(RenewAt(s.current.Leaf)) {
		return s.current, nil
	}
	next, err := s.authority.serverCertificate(s.names, s.now())
	if err != nil {
		return nil, err
	}
	s.current = next
	return next, nil
}

// serverCertificate sends the authority along, so that who knows only its fingerprint can verify the chain.
func (a *Authority) serverCertificate(names []string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate the server's key: %w", err)
	}
	der, err := a.IssueNames(key.Public(), names, now, ServerLife)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der, a.Certificate.Raw}, PrivateKey: key, Leaf: leaf}, err
}

// ClientTLS is for whoever calls a server of the authority: it trusts that authority alone and, when mine is given,
// shows it.
func ClientTLS(authority *x509.Certificate, mine func() *tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}
	if mine != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return mine(), nil }
	}
	return config
}

// PeerNode is the node at the other end of a connection; kind Denied when it showed no node's certificate.
func PeerNode(state *tls.ConnectionState) (NodeID, error) {
	if state == nil || len(state.VerifiedChains) == 0 {
		return NodeID{}, problem.New(problem.Unauthenticated, "holdfast agent --server URL --join TOKEN", "no node certificate was shown")
	}
	return NodeOf(state.VerifiedChains[0][0])
}
