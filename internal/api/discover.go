package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net"
	"net/url"

	"holdfast/internal/link"
	"holdfast/internal/problem"
)

// Discover calls a server for the first time and makes its context. The server must show the authority with the given
// fingerprint; without one it must be trusted by this machine's own CAs, as behind a public certificate.
func Discover(ctx context.Context, server, token, fingerprint string) (Context, error) {
	address, err := url.Parse(server)
	if err != nil || address.Scheme != "https" || address.Host == "" {
		return Context{}, problem.New(problem.Usage, "holdfast login https://HOST:PORT", "%q is not the address of a server", server)
	}
	if fingerprint == "" {
		return Context{Server: server, Token: token}, nil
	}
	authority, err := showAuthority(ctx, address, fingerprint)
	if err != nil {
		return Context{}, err
	}
	return NewContext(server, token, authority), nil
}

// showAuthority asks the server for its certificates, and gives the one with the fingerprint once the server has
// proved that it was issued by it.
func showAuthority(ctx context.Context, address *url.URL, fingerprint string) (*x509.Certificate, error) {
	port := address.Port()
	if port == "" {
		port = "443"
	}
	pin, err := base64.RawURLEncoding.DecodeString(fingerprint)
	if err != nil {
		return nil, problem.New(problem.Usage, "give the fingerprint as the server printed it at its first start", "server %s was not called: %q is not a fingerprint", address, fingerprint)
	}
	dialer := tls.Dialer{Config: link.PinnedTLS(pin, address.String())}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(address.Hostname(), port))
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "compare the address and the fingerprint with what the server printed at its first start", "server %s was not recognised", address)
	}
	defer conn.Close()
	if shown := link.Pin(pin).Shown(conn.(*tls.Conn).ConnectionState()); shown != nil {
		return shown, nil
	}
	return nil, problem.New(problem.Denied, "", "server %s did not show its authority", address)
}
