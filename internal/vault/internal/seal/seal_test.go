package seal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
)

// TestVectors pins format 1: a change here is a new format.
func TestVectors(t *testing.T) {
	keys := Derive([32]byte{1, 2, 3})
	id := keys.Hasher().ID([]byte("holdfast"))
	for _, v := range []struct{ what, got, want string }{
		{"id", hex.EncodeToString(id[:]), wantID},
		{"mac", keys.MAC("table", []byte("holdfast")).String(), wantMAC},
		{"gear", hex.EncodeToString(keys.Gear[:]), wantGear},
	} {
		if v.got != v.want {
			t.Errorf("%s is %s, want %s", v.what, v.got, v.want)
		}
	}
}

func TestSealedOpensOnlyUnchanged(t *testing.T) {
	keys, data := Derive([32]byte{1}), []byte("what is where")
	sealed := keys.Seal("index", data)
	if got, err := keys.Open("index", sealed); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("open: %q, %v", got, err)
	}
	for bit := range len(sealed) * 8 {
		bad := bytes.Clone(sealed)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := keys.Open("index", bad); !errors.Is(err, ErrSealed) {
			t.Fatalf("bit %d flipped: %v", bit, err)
		}
	}
	if _, err := keys.Open("other", sealed); !errors.Is(err, ErrSealed) {
		t.Fatalf("other context: %v", err)
	}
	if _, err := Derive([32]byte{2}).Open("index", sealed); !errors.Is(err, ErrSealed) {
		t.Fatalf("other key: %v", err)
	}
}

func TestLabelsSeparateMACs(t *testing.T) {
	keys := Derive([32]byte{1})
	if keys.MAC("ab", []byte("c")).Equal(keys.MAC("a", []byte("bc"))) {
		t.Fatal("a label can run into the data")
	}
}
