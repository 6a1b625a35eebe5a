package edge

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// certificates are the files DIR/certs/NAME.pem: a certificate chain, leaf first, and its private key in one file, so
// that a renewal is one rename and never half of a pair.
type certificates struct {
	dir    string
	log    *slog.Logger
	served atomic.Pointer[certificateSet]
}

type certificateSet struct {
	stamp  string
	byName map[string]*tls.Certificate // exact names and "*.example.com"
	first  *tls.Certificate            // for clients that name no host
	facts  []CertificateStatus
}

// CertificateStatus is one certificate in service.
type CertificateStatus struct {
	Name  string    `json:"name"` // file name without .pem
	Hosts []string  `json:"hosts"`
	Until time.Time `json:"until"`
}

func newCertificates(dir string, log *slog.Logger) *certificates {
	c := &certificates{dir: dir, log: log}
	c.served.Store(&certificateSet{})
	return c
}

// reload reads the folder when it changed since the last look. A file that cannot be read is left out and named; the
// others are served.
func (c *certificates) reload() error {
	stamp, err := stampOf(c.dir)
	if err != nil || stamp == c.served.Load().stamp {
		return err
	}
	set := &certificateSet{stamp: stamp, byName: map[string]*tls.Certificate{}}
	paths, err := filepath.Glob(filepath.Join(c.dir, "*.pem"))
	if err != nil {
		return fmt.Errorf("list certificates: %w", err)
	}
	var broken error
	for _, path := range paths {
		broken = errors.Join(broken, set.add(path))
	}
	c.served.Store(set)
	return broken
}

// stampOf changes whenever a file of dir does.
func stampOf(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read certificates: %w", err)
	}
	var stamp strings.Builder
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && strings.HasSuffix(entry.Name(), ".pem") {
			fmt.Fprintf(&stamp, "%s %d %d\n", entry.Name(), info.Size(), info.ModTime().UnixNano())
		}
	}
	return stamp.String(), nil
}

func (s *certificateSet) add(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	pair, err := parseBundle(text)
	if err != nil {
		return fmt.Errorf("read certificate %s: %w", path, err)
	}
	hosts := slices.Clone(pair.Leaf.DNSNames)
	for _, ip := range pair.Leaf.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	for _, host := range hosts {
		s.byName[strings.ToLower(host)] = pair
	}
	if s.first == nil {
		s.first = pair
	}
	name := strings.TrimSuffix(filepath.Base(path), ".pem")
	s.facts = append(s.facts, CertificateStatus{Name: name, Hosts: hosts, Until: pair.Leaf.NotAfter})
	return nil
}

// parseBundle reads one file that holds chain and key.
func parseBundle(text []byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, err
	}
	return &pair, nil
}

// Bundle gives the content of a certificate file: chain, leaf first, as DER, and the private key.
func Bundle(chain [][]byte, key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	var text []byte
	for _, certificate := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})...)
	}
	return append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...), nil
}

// forName finds the certificate for a host, nil when no file holds one.
func (c *certificates) forName(name string) *tls.Certificate {
	set := c.served.Load()
	name = hostName(name)
	if pair := set.byName[name]; pair != nil {
		return pair
	}
	if _, parent, ok := strings.Cut(name, "."); ok {
		return set.byName["*."+parent]
	}
	return nil
}

func (c *certificates) status() []CertificateStatus { return c.served.Load().facts }

// config is the TLS of the edge: files first, then the ACME issuer where one is set, then any certificate at all, so
// that a client sees a certificate error that names a certificate instead of a broken handshake.
func (c *certificates) config(issuer *issuer) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: issuer.protocols(),
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if pair := c.forName(hello.ServerName); pair != nil && !challenge(hello) {
				return pair, nil
			}
			if pair, err := issuer.certificate(hello); pair != nil || err != nil {
				return pair, err
			}
			if first := c.served.Load().first; first != nil {
				return first, nil
			}
			return nil, fmt.Errorf("no certificate for %q in %s", hello.ServerName, c.dir)
		},
	}
}
