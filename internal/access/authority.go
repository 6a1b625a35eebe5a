package access

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/problem"
)

// How long certificates live.
const (
	AuthorityLife = 10 * 365 * 24 * time.Hour
	ServerLife    = 90 * 24 * time.Hour
	NodeLife      = 30 * 24 * time.Hour
	backdate      = time.Hour // clocks of nodes may be behind
)

// Authority is the server's own CA: an ECDSA P-256 root that signs server and node certificates.
type Authority struct {
	Certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// nodeName is what a node may be called; it stands in URIs, paths and file names.
var nodeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func newAuthority(now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate the authority's key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Holdfast authority"},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(AuthorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the authority's certificate: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	return &Authority{certificate, key}, err
}

// Fingerprint is the SHA-256 of a certificate in URL-safe base64, by which a newcomer knows the authority.
func Fingerprint(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// IssueNames signs a certificate with which public's holder serves names: DNS names (also "*.example.org") and IP
// addresses. It returns DER.
func (a *Authority) IssueNames(public crypto.PublicKey, names []string, now time.Time, life time.Duration) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: first(names)},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		template.DNSNames = append(template.DNSNames, name)
	}
	return a.sign(template, public)
}

// issueNode signs the request's key as the node's, for NodeLife. Names and extensions in the request are ignored: the
// server says who a node is. It returns DER.
func (a *Authority) issueNode(request []byte, id NodeID, now time.Time) ([]byte, error) {
	public, err := requestedKey(request)
	if err != nil {
		return nil, err
	}
	return a.sign(&x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: id.Name}, URIs: []*url.URL{id.uri()},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(NodeLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, public)
}

func (a *Authority) sign(template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", template.Subject.CommonName, err)
	}
	return der, nil
}

// requestedKey checks a DER PKCS#10 request's own signature and gives its key.
func requestedKey(request []byte) (*ecdsa.PublicKey, error) {
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "", "certificate request cannot be read")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "", "certificate request is not signed by its own key")
	}
	public, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, problem.New(problem.Invalid, "", "certificate request is not for an ECDSA P-256 key")
	}
	return public, nil
}

// NodeID is a node as its certificate names it. The generation grows with each join under the same name, so that
// joining again turns the older certificates off.
type NodeID struct {
	Name       string
	Generation int64
}

func (id NodeID) uri() *url.URL {
	return &url.URL{Scheme: "holdfast", Host: "node", Path: fmt.Sprintf("/%s/%d", id.Name, id.Generation)}
}

// NodeOf reads the node's identity from its certificate, whose chain the TLS handshake has verified.
func NodeOf(certificate *x509.Certificate) (NodeID, error) {
	for _, uri := range certificate.URIs {
		name, generation, ok := strings.Cut(strings.TrimPrefix(uri.Path, "/"), "/")
		number, err := strconv.ParseInt(generation, 10, 64)
		if uri.Scheme == "holdfast" && uri.Host == "node" && ok && err == nil && nodeName.MatchString(name) {
			return NodeID{name, number}, nil
		}
	}
	return NodeID{}, problem.New(problem.Denied, "", "certificate %q is not a node's", certificate.Subject.CommonName)
}

// RenewAt is when the holder of certificate should ask for the next one: after two thirds of its life.
func RenewAt(certificate *x509.Certificate) time.Time {
	return certificate.NotAfter.Add(-certificate.NotAfter.Sub(certificate.NotBefore) / 3)
}

func serial() *big.Int {
	raw := make([]byte, 16)
	rand.Read(raw) // never fails: crypto/rand ends the program instead
	return new(big.Int).SetBytes(raw)
}

func first(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

func (a *Authority) privateKey() ([]byte, error) { return x509.MarshalECPrivateKey(a.key) }

// IssueRequested signs a DER PKCS#10 request for the DNS names it asks for, when all of them are allowed, and returns
// the chain: the certificate and the authority's.
func (a *Authority) IssueRequested(request []byte, allowed func(name string) bool, now time.Time, life time.Duration) ([][]byte, error) {
	public, err := requestedKey(request)
	if err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "", "certificate request cannot be read")
	}
	for _, name := range csr.DNSNames {
		if !allowed(name) {
			return nil, problem.New(problem.Denied, "", "no certificate for %s: the name is not served here", name)
		}
	}
	if len(csr.DNSNames) == 0 {
		return nil, problem.New(problem.Invalid, "", "certificate request names nothing")
	}
	der, err := a.IssueNames(public, csr.DNSNames, now, life)
	if err != nil {
		return nil, err
	}
	return [][]byte{der, a.Certificate.Raw}, nil
}
