// Package seal holds the secret-key side of the format: what a writer derives
// from its hash key, and the names of chunks.
//
// Words: a hash key is 32 random bytes that a writer keeps and that each envelope
// carries; an ID is the keyed BLAKE3 hash of a chunk; a MAC is the same under
// another derived key; sealed bytes are those that only holders of the hash key can open.
//
// Invariant: each use has its own derived key, so that no value of one kind
// can be passed off as another. Nothing here decrypts what a backup holds.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"
)

// ErrSealed means that bytes were sealed with another key, for another purpose, or changed.
var ErrSealed = errors.New("sealed with another key, or changed")

// ID names a chunk: the keyed hash of its bytes.
type ID [32]byte

// MAC proves that a holder of the hash key wrote something.
type MAC [32]byte

// Equal compares in constant time.
func (m MAC) Equal(other MAC) bool { return subtle.ConstantTimeCompare(m[:], other[:]) == 1 }

// Keys are the keys derived from one hash key.
type Keys struct {
	id, mac, seal [32]byte
	// Gear is the seed of the chunker's table.
	Gear [32]byte
}

// NewHashKey returns a fresh random hash key.
func NewHashKey() [32]byte {
	var key [32]byte
	rand.Read(key[:])
	return key
}

// Derive returns the keys of a hash key.
func Derive(hashKey [32]byte) *Keys {
	k := &Keys{}
	blake3.DeriveKey("holdfast vault 1 chunk id", hashKey[:], k.id[:])
	blake3.DeriveKey("holdfast vault 1 mac", hashKey[:], k.mac[:])
	blake3.DeriveKey("holdfast vault 1 seal", hashKey[:], k.seal[:])
	blake3.DeriveKey("holdfast vault 1 gear", hashKey[:], k.Gear[:])
	return k
}

// Hasher makes IDs. It is for one goroutine at a time.
type Hasher struct{ h *blake3.Hasher }

// Hasher returns a new maker of IDs.
func (k *Keys) Hasher() *Hasher { return &Hasher{keyed(k.id)} }

func keyed(key [32]byte) *blake3.Hasher {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic(err) // only for a key that is not 32 bytes long
	}
	return h
}

// ID returns the name of a chunk.
func (h *Hasher) ID(data []byte) ID {
	h.h.Reset()
	h.h.Write(data)
	var id ID
	h.h.Sum(id[:0])
	return id
}

// MACer computes the MAC of what is written to it.
type MACer struct{ h *blake3.Hasher }

// MACer returns a MAC in the making; label keeps one kind of object from standing in for another.
func (k *Keys) MACer(label string) *MACer {
	h := keyed(k.mac)
	h.Write([]byte{byte(len(label))})
	h.Write([]byte(label))
	return &MACer{h}
}

// Write adds to what is authenticated; it never returns an error.
func (m *MACer) Write(p []byte) (int, error) { return m.h.Write(p) }

// Sum returns the MAC of all that was written.
func (m *MACer) Sum() MAC {
	var out MAC
	m.h.Sum(out[:0])
	return out
}

// MAC returns the MAC of data.
func (k *Keys) MAC(label string, data []byte) MAC {
	m := k.MACer(label)
	m.Write(data)
	return m.Sum()
}

// Seal encrypts data for holders of the hash key. The context must be given again to open it.
func (k *Keys) Seal(context string, data []byte) []byte {
	aead := k.aead()
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(data)+aead.Overhead())
	rand.Read(nonce)
	return aead.Seal(nonce, nonce, data, []byte(context))
}

// Open opens what Seal made. The error is ErrSealed.
func (k *Keys) Open(context string, sealed []byte) ([]byte, error) {
	aead := k.aead()
	if len(sealed) < aead.NonceSize() {
		return nil, ErrSealed
	}
	out, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], []byte(context))
	if err != nil {
		return nil, ErrSealed
	}
	return out, nil
}

func (k *Keys) aead() cipher.AEAD {
	block, err := aes.NewCipher(k.seal[:])
	if err != nil {
		panic(err) // only for a key of a wrong length
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// Name is the name of an object that is called by its own bytes: the SHA-256 of them, in hex.
func Name(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// IsName tells whether s has the form of a Name.
func IsName(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// ParseMAC reads the hex form of a MAC.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	if n, err := hex.Decode(m[:], []byte(s[:min(len(s), 64)])); err != nil || n != len(m) || len(s) != 64 {
		return m, fmt.Errorf("read mac %.80q: not 64 hex digits", s)
	}
	return m, nil
}

// String is the hex form of a MAC.
func (m MAC) String() string { return hex.EncodeToString(m[:]) }
