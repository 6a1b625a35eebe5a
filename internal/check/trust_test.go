package check

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"testing"
	"time"
)

// selfSigned is an authority whose own certificate is the one to be verified.
func selfSigned(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// An edge whose certificates come from a public issuer is as well as one that the control plane gave its own.
func TestAProbeTrustsTheSystemsIssuersToo(t *testing.T) {
	public, ours, stranger := selfSigned(t, "public"), selfSigned(t, "ours"), selfSigned(t, "stranger")
	system := func() (*x509.CertPool, error) {
		pool := x509.NewCertPool()
		pool.AddCert(public)
		return pool, nil
	}
	none := func() (*x509.CertPool, error) { return nil, errors.New("none here") }
	for _, c := range []struct {
		name   string
		system func() (*x509.CertPool, error)
		shown  *x509.Certificate
		well   bool
	}{
		{"the system's issuer", system, public, true}, {"the control plane", system, ours, true}, {"a stranger", system, stranger, false},
		{"the control plane, on a system without issuers", none, ours, true}, {"a stranger, there", none, stranger, false},
	} {
		trusted, err := trustBoth(c.system, ours.Raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.shown.Verify(x509.VerifyOptions{Roots: trusted}); (err == nil) != c.well {
			t.Errorf("%s: well is %v: %v", c.name, err == nil, err)
		}
	}
}
