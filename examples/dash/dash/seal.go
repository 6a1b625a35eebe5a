package dash

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
)

// shortest is the least length of the secret, in characters.
const shortest = 32

// sealer keeps what customers entrust. Its key is made of the instance's secret.
type sealer struct{ aead cipher.AEAD }

func newSealer(secret string) (sealer, error) {
	if len(secret) < shortest {
		return sealer{}, fmt.Errorf("ENCRYPTION_SECRET is missing or shorter than %d characters: without it no connection can be opened, and nothing is served", shortest)
	}
	key, err := hkdf.Key(sha256.New, []byte(secret), nil, "dash connections v1", 32)
	if err != nil {
		return sealer{}, fmt.Errorf("derive key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, fmt.Errorf("use key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	return sealer{aead}, err
}

// seal binds the text to its name, so that no sealed text can stand in for another.
func (s sealer) seal(name string, text []byte) []byte {
	nonce := make([]byte, s.aead.NonceSize())
	_, _ = rand.Read(nonce) // it never fails: see crypto/rand
	return s.aead.Seal(nonce, nonce, text, []byte(name))
}

func (s sealer) open(name string, sealed []byte) ([]byte, error) {
	if len(sealed) < s.aead.NonceSize() {
		return nil, errors.New("sealed text is cut short")
	}
	nonce, rest := sealed[:s.aead.NonceSize()], sealed[s.aead.NonceSize():]
	text, err := s.aead.Open(nil, nonce, rest, []byte(name))
	if err != nil {
		return nil, fmt.Errorf("open %s: it was sealed with another secret, or changed", name)
	}
	return text, nil
}
