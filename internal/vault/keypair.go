package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"filippo.io/age"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// KeyPair is a recovery key: the public half goes to the nodes, the secret half to people only.
type KeyPair struct {
	Fingerprint string
	Public      string // armored
	secret      []byte
}

// NewKeyPair makes a Curve25519 key pair that GnuPG 2.1 and later take. With a passphrase the secret half is locked.
func NewKeyPair(name string, passphrase []byte, now time.Time) (KeyPair, error) {
	config := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return now }}
	e, err := openpgp.NewEntity(name, "Holdfast recovery key", "", config)
	if err != nil {
		return KeyPair{}, fmt.Errorf("make key pair %q: %w", name, err)
	}
	pair := KeyPair{Fingerprint: fmt.Sprintf("%X", e.PrimaryKey.Fingerprint)}
	if pair.Public, err = armorKey(openpgp.PublicKeyType, e.Serialize); err != nil {
		return KeyPair{}, fmt.Errorf("make key pair %q: %w", name, err)
	}
	if len(passphrase) > 0 {
		if err := e.EncryptPrivateKeys(passphrase, config); err != nil {
			return KeyPair{}, fmt.Errorf("lock key %q: %w", name, err)
		}
	}
	secret, err := armorKey(openpgp.PrivateKeyType, func(w io.Writer) error { return e.SerializePrivateWithoutSigning(w, config) })
	if err != nil {
		return KeyPair{}, fmt.Errorf("make key pair %q: %w", name, err)
	}
	pair.secret = []byte(secret)
	return pair, nil
}

// Secret gives the armored secret half, to be handed to a person at once and kept nowhere.
func (k KeyPair) Secret() []byte { return k.secret }

// String hides the secret half.
func (k KeyPair) String() string { return "key " + k.Fingerprint }

// GoString hides the secret half.
func (k KeyPair) GoString() string { return k.String() }

func armorKey(kind string, write func(io.Writer) error) (string, error) {
	var out bytes.Buffer
	w, err := armor.Encode(&out, kind, nil)
	if err != nil {
		return "", err
	}
	err = write(w)
	if err := errors.Join(err, w.Close()); err != nil {
		return "", err
	}
	return out.String() + "\n", nil
}

// NewCustodian makes an age key pair for a custodian: the recipient for Init, and the identity he keeps.
func NewCustodian() (recipient, identity string, err error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", "", fmt.Errorf("make custodian: %w", err)
	}
	return id.Recipient().String(), id.String(), nil
}

// Locked tells whether an armored secret key has a passphrase.
func Locked(secretKey string) (bool, error) {
	ring, err := openpgp.ReadArmoredKeyRing(bytes.NewReader([]byte(secretKey)))
	if err != nil {
		return false, fmt.Errorf("read secret key: %w: %w", ErrWrongKey, err)
	}
	for _, e := range ring {
		for _, s := range e.Subkeys {
			if s.PrivateKey != nil && s.PrivateKey.Encrypted {
				return true, nil
			}
		}
		if e.PrivateKey != nil && e.PrivateKey.Encrypted {
			return true, nil
		}
	}
	return false, nil
}
