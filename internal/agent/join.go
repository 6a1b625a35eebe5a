package agent

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"holdfast/internal/link"
	"holdfast/internal/problem"
)

// Enter gives the node's identity: the one in dir, or one that is joined for with the token. The token that a node has
// joined with is not needed again while its certificate holds; another one makes it join again, with a new key.
func Enter(ctx context.Context, dir string, self Self, token, version string, now func() time.Time) (*Identity, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	file, err := readIdentityFile(dir)
	if err != nil {
		return nil, err
	}
	if file == nil {
		made, err := newIdentityFile(self.Node)
		if err != nil {
			return nil, err
		}
		file = &made
	}
	if file.Node != self.Node {
		return nil, problem.New(problem.Conflict, "start it with --node "+file.Node+", or with another --data",
			"the agent did not start: %s holds the identity of node %s, not of %s", dir, file.Node, self.Node)
	}
	if file.holds(now()) && (token == "" || file.JoinedWith == mark(token)) {
		return file.open(dir)
	}
	return file.join(ctx, dir, self, token, version)
}

// holds tells whether the node has joined and its certificate has not ended.
func (f identityFile) holds(now time.Time) bool {
	leaf, err := x509.ParseCertificate(f.Certificate)
	return err == nil && now.Before(leaf.NotAfter)
}

// mark tells a token apart without keeping it.
func mark(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:8])
}

// prepare gives the key to join with: the one of a join with this token that was cut short, or a new one.
func (f *identityFile) prepare(dir, token string) ([]byte, error) {
	if f.Joining != nil && f.Joining.With == mark(token) {
		return f.Joining.Key, nil
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	f.Joining = &joining{With: mark(token), Key: key}
	return key, f.write(dir)
}

// join asks for a certificate.
func (f identityFile) join(ctx context.Context, dir string, self Self, token, version string) (*Identity, error) {
	if token == "" {
		return nil, f.tokenMissing(self)
	}
	trust, err := firstTrust(self, token)
	if err != nil {
		return nil, err
	}
	proxy, err := self.proxy()
	if err != nil {
		return nil, err
	}
	key, err := f.prepare(dir, token)
	if err != nil {
		return nil, err
	}
	request, err := csr(self.Node, key)
	if err != nil {
		return nil, err
	}
	client := link.NewClient(link.Dial{URL: self.Server, TLS: trust, Proxy: proxy})
	defer client.Close()
	answer, err := client.Join(ctx, link.JoinRequest{
		Token: token, Node: self.Node, Site: self.Site, Roles: self.Roles, Labels: self.Labels,
		CSR: request, Capability: link.Capability, Version: version,
	})
	if err != nil {
		return nil, err
	}
	f.Certificate, f.Authority, f.OrderKey, f.ReplyTo = answer.Certificate, answer.Authority, answer.OrderKey, answer.ReplyTo
	f.Key, f.JoinedWith, f.Joining = key, mark(token), nil
	id, err := f.open(dir)
	if err != nil {
		return nil, err
	}
	return id, f.write(dir)
}

func (f identityFile) tokenMissing(self Self) error {
	roles := make([]string, len(self.Roles))
	for i, r := range self.Roles {
		roles[i] = string(r)
	}
	hint := fmt.Sprintf("holdfast join-token create --site %s --roles %s", self.Site, strings.Join(roles, ","))
	if leaf, err := x509.ParseCertificate(f.Certificate); err == nil {
		return problem.New(problem.Denied, hint+" --node "+self.Node, "the agent did not start: the certificate of node %s ended at %s, and no join token was given",
			self.Node, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return problem.New(problem.Usage, hint, "the agent did not start: node %s has not joined, and no join token was given", self.Node)
}

// firstTrust is whom the node believes before it has the server's CA: the CA in a file, or the one that the token names.
func firstTrust(self Self, token string) (*tls.Config, error) {
	if self.Authority != "" {
		return trustFile(self.Authority)
	}
	if pin := link.PinOf(token); pin != nil {
		return link.PinnedTLS(pin, self.Server), nil
	}
	return nil, problem.New(problem.Usage, "holdfast agent --ca FILE, or a whole token: holdfast join-token create",
		"node %s did not join: the join token does not name the server's authority", self.Node)
}

func trustFile(path string) (*tls.Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, problem.Wrap(err, problem.Usage, "holdfast agent --ca FILE", "the server's authority was not read")
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, problem.New(problem.Usage, "holdfast agent --ca FILE", "the server's authority was not read: %s holds no PEM certificate", path)
	}
	authority, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, problem.Wrap(err, problem.Usage, "holdfast agent --ca FILE", "the server's authority was not read from %s", path)
	}
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}, nil
}

// proxy is the way out: the one given, or what HTTPS_PROXY and NO_PROXY say.
func (s Self) proxy() (func(*http.Request) (*url.URL, error), error) {
	if s.Proxy == "" {
		return http.ProxyFromEnvironment, nil
	}
	at, err := url.Parse(s.Proxy)
	if err != nil || at.Host == "" {
		return nil, problem.New(problem.Usage, "--proxy http://HOST:PORT", "%q is not the URL of a proxy", s.Proxy)
	}
	return http.ProxyURL(at), nil
}
