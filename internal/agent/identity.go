package agent

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"holdfast/internal/fleet"
	"holdfast/internal/problem"
)

// Self is what the person who starts the agent says of the node. It may change from start to start, except the name.
type Self struct {
	Server    string // https://HOST:PORT
	Node      string
	Site      string
	Roles     []fleet.Role
	Address   string // where the edge reaches the node's services
	Labels    map[string]string
	Proxy     string // URL of an HTTP CONNECT proxy; "" = as the environment says
	Authority string // PEM file of the server's CA; "" = the pin in the join token
}

// Identity is who the node is, and whom it trusts: its certificate, its own keys, the server's CA and order key. It
// is one file, so that a crash leaves the old one or the new one whole.
type Identity struct {
	Node      string
	OrderKey  ed25519.PublicKey // signs orders and settings
	ReplyTo   string            // age recipient of the server
	Authority *x509.Certificate // the server's CA
	Unseal    *age.X25519Identity
	SSH       ssh.Signer // writes backups
	HostKey   ssh.Signer // by which other nodes know this node's vault

	path string
	file identityFile
	mu   sync.Mutex
	now  tls.Certificate // guarded by mu; replaced by a renewal
}

// identityFile is DIR/identity.json, readable by its owner alone.
type identityFile struct {
	Node        string `json:"node"`
	Key         []byte `json:"key,omitempty"`         // PKCS#8 of the certificate's ECDSA P-256 key
	Certificate []byte `json:"certificate,omitempty"` // DER
	Authority   []byte `json:"authority,omitempty"`   // DER
	JoinedWith  string `json:"joined_with,omitempty"` // tells the token apart that the certificate was got with
	OrderKey    []byte `json:"order_key,omitempty"`
	ReplyTo     string `json:"reply_to,omitempty"`
	Unseal      string `json:"unseal"`   // age X25519 identity
	SSH         []byte `json:"ssh"`      // PKCS#8 of an Ed25519 key
	HostKey     []byte `json:"host_key"` // likewise

	Joining *joining `json:"joining,omitempty"`
}

// joining is a join under way. Its key is kept before the token is spent, so that a join whose answer was lost is
// asked again by the same key, and apart from the key in use, which stays in use should the join be refused.
type joining struct {
	With string `json:"with"` // tells the token apart
	Key  []byte `json:"key"`
}

const identityName = "identity.json"

// newIdentityFile makes a node's keys.
func newIdentityFile(node string) (identityFile, error) {
	unseal, err := age.GenerateX25519Identity()
	if err != nil {
		return identityFile{}, fmt.Errorf("make the node's age identity: %w", err)
	}
	sshKey, err := newSSHKey()
	if err != nil {
		return identityFile{}, err
	}
	hostKey, err := newSSHKey()
	return identityFile{Node: node, Unseal: unseal.String(), SSH: sshKey, HostKey: hostKey}, err
}

func newSSHKey() ([]byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make an SSH key of the node: %w", err)
	}
	return x509.MarshalPKCS8PrivateKey(private)
}

func newKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the node's key: %w", err)
	}
	return x509.MarshalPKCS8PrivateKey(key)
}

// readIdentityFile gives nil when there is none.
func readIdentityFile(dir string) (*identityFile, error) {
	path := filepath.Join(dir, identityName)
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the node's identity: %w", err)
	}
	file := &identityFile{}
	if err := json.Unmarshal(raw, file); err != nil {
		return nil, problem.Wrap(err, problem.Corrupt, "remove the file and join again: holdfast agent --join TOKEN", "identity %s cannot be read", path)
	}
	return file, nil
}

// open turns the file into what the agent works with.
func (f identityFile) open(dir string) (*Identity, error) {
	id := &Identity{Node: f.Node, OrderKey: f.OrderKey, ReplyTo: f.ReplyTo, path: filepath.Join(dir, identityName), file: f}
	var err error
	if id.Authority, err = x509.ParseCertificate(f.Authority); err != nil {
		return nil, id.unreadable("the server's CA", err)
	}
	if id.now, err = keyPair(f.Certificate, f.Key); err != nil {
		return nil, id.unreadable("the certificate", err)
	}
	if id.Unseal, err = age.ParseX25519Identity(f.Unseal); err != nil {
		return nil, id.unreadable("the age identity", err)
	}
	if id.SSH, err = signer(f.SSH); err != nil {
		return nil, id.unreadable("the SSH key", err)
	}
	if id.HostKey, err = signer(f.HostKey); err != nil {
		return nil, id.unreadable("the SSH host key", err)
	}
	return id, nil
}

func signer(pkcs8 []byte) (ssh.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(key)
}

func (id *Identity) unreadable(what string, err error) error {
	return problem.Wrap(err, problem.Corrupt, "remove the file and join again: holdfast agent --join TOKEN", "identity %s: %s cannot be read", id.path, what)
}

func keyPair(certificate, key []byte) (tls.Certificate, error) {
	leaf, err := x509.ParseCertificate(certificate)
	if err != nil {
		return tls.Certificate{}, err
	}
	private, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{certificate}, PrivateKey: private, Leaf: leaf}, nil
}

// csr asks for a certificate for the key; the server decides what stands in it.
func csr(node string, key []byte) ([]byte, error) {
	private, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("read the node's key: %w", err)
	}
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: node}}, private)
}

// Certificate is the one to show now.
func (id *Identity) Certificate() *tls.Certificate {
	id.mu.Lock()
	defer id.mu.Unlock()
	now := id.now
	return &now
}

// TLS trusts the server's CA alone and shows the node's newest certificate at every dial. clock is nil for the real one.
func (id *Identity) TLS(clock func() time.Time) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(id.Authority)
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		RootCAs:              roots,
		Time:                 clock,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.Certificate(), nil },
	}
}

// replace puts a renewed certificate and its key in place of the old pair, on disk first.
func (id *Identity) replace(certificate, key []byte) error {
	next, err := keyPair(certificate, key)
	if err != nil {
		return fmt.Errorf("read the renewed certificate: %w", err)
	}
	if err := next.Leaf.CheckSignatureFrom(id.Authority); err != nil {
		return fmt.Errorf("check the renewed certificate: %w", err)
	}
	file := id.file
	file.Certificate, file.Key = certificate, key
	if err := file.write(filepath.Dir(id.path)); err != nil {
		return err
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	id.file, id.now = file, next
	return nil
}

// write puts the file in place whole: written beside, flushed, renamed, and the folder flushed.
func (f identityFile) write(dir string) error {
	raw, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := writeWhole(filepath.Join(dir, identityName), raw); err != nil {
		return fmt.Errorf("keep the node's identity: %w", err)
	}
	return nil
}

func writeWhole(path string, raw []byte) error {
	beside, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = beside.Write(raw)
	if err = errors.Join(err, beside.Sync(), beside.Close()); err != nil {
		return errors.Join(err, os.Remove(beside.Name()))
	}
	if err := os.Rename(beside.Name(), path); err != nil {
		return errors.Join(err, os.Remove(beside.Name()))
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// RenewAt is when a certificate is renewed: after two thirds of its life, so that a third is left for a server that
// is away.
func RenewAt(leaf *x509.Certificate) time.Time {
	return leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 3 * 2)
}
