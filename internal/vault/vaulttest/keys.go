// Package vaulttest holds what tests of the vault share: the conformance suite of stores, a store
// with knobs for faults, recovery keys, and trees of files.
package vaulttest

import (
	"bytes"
	"io"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Key is an armored OpenPGP key pair.
type Key struct{ Public, Secret string }

// NewKey makes a Curve25519 key pair without a passphrase.
func NewKey(t testing.TB) Key {
	t.Helper()
	e, err := openpgp.NewEntity("recovery", "", "recovery@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	return Key{
		Public: armored(t, openpgp.PublicKeyType, e.Serialize),
		Secret: armored(t, openpgp.PrivateKeyType, func(w io.Writer) error { return e.SerializePrivate(w, nil) }),
	}
}

func armored(t testing.TB, kind string, write func(io.Writer) error) string {
	t.Helper()
	var out bytes.Buffer
	w, err := armor.Encode(&out, kind, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := write(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
