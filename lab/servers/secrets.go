package servers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// secrets are a lab's own: made once, kept in its folder, worth nothing outside it.
type secrets struct {
	S3Secret string `json:"s3_secret"`
	DNSKey   string `json:"dns_key"` // base64, for TSIG with hmac-sha256
}

func newSecrets() secrets {
	return secrets{S3Secret: rand.Text(), DNSKey: base64.StdEncoding.EncodeToString([]byte(rand.Text() + rand.Text()))}
}

// certificate makes a self-signed certificate for the services, once, in the lab's folder.
func (l *Lab) certificate(name string, address netip.Addr) (certFile, keyFile string, err error) {
	certFile, keyFile = filepath.Join(l.dir, "services.pem"), filepath.Join(l.dir, "services.key")
	if _, err := os.Stat(keyFile); !errors.Is(err, fs.ErrNotExist) {
		return certFile, keyFile, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "services of lab " + l.Name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0), DNSNames: []string{name, name + "." + nameDomain}, IPAddresses: []net.IP{address.AsSlice()},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", "", fmt.Errorf("make certificate of the services: %w", err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", err
	}
	return certFile, keyFile, errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o644),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
}
