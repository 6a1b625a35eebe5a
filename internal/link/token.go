package link

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net/url"
	"strings"

	"holdfast/internal/problem"
)

// Pin is the SHA-256 of the server's CA certificate (DER), which a join token ends with: hfj.ID.SECRET.PIN,
// the pin in unpadded URL-safe base64.
type Pin []byte

// PinOf reads the pin out of a join token; nil when it carries none.
func PinOf(token string) Pin {
	pin, err := base64.RawURLEncoding.DecodeString(token[strings.LastIndex(token, ".")+1:])
	if err != nil || len(pin) != sha256.Size {
		return nil
	}
	return pin
}

// PinnedTLS is for the first call to a server, when only its CA's pin is known: the server must show that CA and a
// certificate of it for the name in address, the server's URL. (A connection to an IP address does not know its name,
// so it is said here.) An address without a host is refused at the call.
func PinnedTLS(pin Pin, address string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection below verifies against the pinned CA instead of a list of CAs
		VerifyConnection:   func(state tls.ConnectionState) error { return pin.verify(state, hostOf(address)) },
	}
}

func hostOf(address string) string {
	at, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return at.Hostname()
}

// Shown is the pinned CA among the certificates of a connection that PinnedTLS let pass; nil when it is not there.
func (pin Pin) Shown(state tls.ConnectionState) *x509.Certificate {
	for _, certificate := range state.PeerCertificates {
		sum := sha256.Sum256(certificate.Raw)
		if bytes.Equal(sum[:], pin) {
			return certificate
		}
	}
	return nil
}

func (pin Pin) verify(state tls.ConnectionState, host string) error {
	authority := pin.Shown(state)
	if authority == nil {
		return problem.New(problem.Denied, "check the address, or make a new token on the right server: holdfast join-token create",
			"the server at %s is not the one that was named: its certificate authority is not %s", host, base64.RawURLEncoding.EncodeToString(pin))
	}
	if host == "" { // an empty name would be no check at all
		return problem.New(problem.Usage, "give the server's address as https://HOST:PORT", "the server was not recognised: its address has no host")
	}
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	if _, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
		return problem.Wrap(err, problem.Denied, "use a name that its certificate is for, or give the server this one: holdfast server --name "+host,
			"the server at %s was not recognised", host)
	}
	return nil
}
