package api

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"holdfast/internal/access"
	"holdfast/internal/problem"
)

// Variables that say which server is asked, and as whom.
const (
	EnvContext = "HOLDFAST_CONTEXT" // path of a context file
	EnvServer  = "HOLDFAST_SERVER"  // URL, instead of the one in the context file
	EnvToken   = "HOLDFAST_TOKEN"   // token, instead of the one in the context file
)

// Context is where a server is, how it is known, and who asks. Its file holds a token: only its owner may read it.
type Context struct {
	Server    string `json:"server"`              // https://host:port
	Token     string `json:"token"`               // API token
	Authority string `json:"authority,omitempty"` // PEM of the server's CA; "" = the CAs that this machine trusts
}

// NewContext names a server by its URL and CA.
func NewContext(server, token string, authority *x509.Certificate) Context {
	return Context{server, token, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Raw}))}
}

// authority is the CA to trust; nil for those of the machine.
func (c Context) authority() (*x509.Certificate, error) {
	if c.Authority == "" {
		return nil, nil
	}
	block, _ := pem.Decode([]byte(c.Authority))
	if block == nil {
		return nil, errors.New("authority is not PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// TLS is what a connection to the server trusts.
func (c Context) TLS() (*tls.Config, error) {
	authority, err := c.authority()
	if err != nil {
		return nil, problem.Wrap(err, problem.Usage, "holdfast login URL", "context file was not read")
	}
	if authority == nil {
		return &tls.Config{MinVersion: tls.VersionTLS13}, nil
	}
	return access.ClientTLS(authority, nil), nil
}

// ContextPath is where the context file lies: HOLDFAST_CONTEXT, or holdfast/context.json in the person's folder of
// settings.
func ContextPath(lookup func(string) (string, bool)) (string, error) {
	if path, ok := lookup(EnvContext); ok && path != "" {
		return path, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", problem.Wrap(err, problem.Usage, "set "+EnvContext, "no place for the context file was found")
	}
	return filepath.Join(dir, "holdfast", "context.json"), nil
}

// FindContext reads the context file and lets the variables win over it. Lookup is os.LookupEnv.
func FindContext(lookup func(string) (string, bool)) (Context, error) {
	path, err := ContextPath(lookup)
	if err != nil {
		return Context{}, err
	}
	c, err := ReadContext(path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return Context{}, problem.Wrap(err, problem.Usage, "holdfast login URL", "context file %s was not read", path)
	}
	if server, ok := lookup(EnvServer); ok {
		c.Server = server
	}
	if token, ok := lookup(EnvToken); ok {
		c.Token = token
	}
	if c.Server == "" {
		return Context{}, problem.New(problem.Usage, "holdfast login URL, or export "+EnvContext+"=DIR/admin.json (DIR is the server's data folder)", "no server is known: there is no context file %s", path)
	}
	return c, nil
}

// ReadContext reads a context file.
func ReadContext(path string) (c Context, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Context{}, err
	}
	return c, json.Unmarshal(raw, &c)
}

// Save writes the context file, readable by its owner only, whole or not at all.
func (c Context) Save(path string) error {
	raw, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make the folder of the context file: %w", err)
	}
	next := path + ".new"
	if err := os.WriteFile(next, append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("write context file: %w", err)
	}
	return os.Rename(next, path)
}
