package link

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
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

// PinnedTLS trusts a server whose chain holds the pinned CA, for the one call before the CA itself is known.
func PinnedTLS(pin Pin) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection below verifies against the pinned CA instead of a list of CAs
		VerifyConnection:   pin.verify,
	}
}

func (pin Pin) verify(state tls.ConnectionState) error {
	for _, certificate := range state.PeerCertificates {
		sum := sha256.Sum256(certificate.Raw)
		if !bytes.Equal(sum[:], pin) {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(certificate)
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: state.ServerName})
		return err
	}
	return problem.New(problem.Denied, "check the address, or make a new token on the right server: holdfast join-token create",
		"the server is not the one that the join token is for: its certificate authority is not %s", base64.RawURLEncoding.EncodeToString(pin))
}
