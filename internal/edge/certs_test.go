package edge_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/edge"
	"holdfast/internal/problem"
)

// authority is a small CA such as the server's.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{t, key, cert}
}

func (a authority) issue(serial int64, hosts ...string) []byte {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), DNSNames: hosts, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	bundle, err := edge.Bundle([][]byte{der}, key)
	if err != nil {
		a.t.Fatal(err)
	}
	return bundle
}

func (a authority) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func TestCertificateFromTheAgent(t *testing.T) {
	e := start(t, func(s *edge.Settings) { s.Listen = "127.0.0.1:0" })
	e.apply(routeTo("acme", 1, backend(t, says("acme"))))
	own := newAuthority(t)
	for serial := int64(1); serial <= 2; serial++ { // the second is a renewal
		if err := e.client.PutCertificate(t.Context(), "wildcard", own.issue(serial, "*.example.test")); err != nil {
			t.Fatal(err)
		}
		res, err := overTLS(t, e, "acme.example.test", own.roots())
		if err != nil {
			t.Fatal(err)
		}
		if got := res.TLS.PeerCertificates[0].SerialNumber.Int64(); got != serial {
			t.Errorf("certificate %d is served, want %d", got, serial)
		}
	}
	if err := e.client.PutCertificate(t.Context(), "single", own.issue(3, "acme.example.test")); err != nil {
		t.Fatal(err)
	}
	if res, err := overTLS(t, e, "acme.example.test", own.roots()); err != nil || res.TLS.PeerCertificates[0].SerialNumber.Int64() != 3 {
		t.Errorf("the exact name does not win over the wildcard: %v", err)
	}
}

func TestACertificateThatIsNoneHarmsNobody(t *testing.T) {
	e := start(t, func(s *edge.Settings) { s.Listen = "127.0.0.1:0" })
	e.apply(routeTo("acme", 1, backend(t, says("acme"))))
	own := newAuthority(t)
	if err := e.client.PutCertificate(t.Context(), "good", own.issue(1, "acme.example.test")); err != nil {
		t.Fatal(err)
	}
	for name, bundle := range map[string][]byte{"bad": []byte("no PEM at all"), "../escape": own.issue(2, "x.test"), "": own.issue(3, "x.test")} {
		if err := e.client.PutCertificate(t.Context(), name, bundle); problem.KindOf(err) != problem.Invalid {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(e.dir, "certs", "broken.pem"), []byte("half a fi"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.client.PutCertificate(t.Context(), "good", own.issue(4, "acme.example.test")); err == nil {
		t.Error("the broken file beside it was not reported")
	}
	if res, err := overTLS(t, e, "acme.example.test", own.roots()); err != nil || res.TLS.PeerCertificates[0].SerialNumber.Int64() != 4 {
		t.Errorf("the good certificate is not served: %v", err)
	}
}
