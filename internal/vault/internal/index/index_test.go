package index

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/vault/internal/seal"
)

func sample() Head {
	return Head{Format: 1, Writer: "w", Supersedes: []string{seal.Name(nil)}, Packs: []Pack{
		{Name: seal.Name([]byte("a")), Size: 10, Epoch: "e", MAC: seal.MAC{1}, IDs: []seal.ID{{1}, {2}}},
		{Name: seal.Name([]byte("b")), Size: 20, Epoch: "e", MAC: seal.MAC{2}, IDs: []seal.ID{{3}}},
	}}
}

func TestRoundTrip(t *testing.T) {
	keys := seal.Derive([32]byte{1})
	data, err := Encode(keys, sample())
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(keys, data)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sample(), got); d != "" {
		t.Fatal(d)
	}
	for bit := range len(data) * 8 {
		data[bit/8] ^= 1 << (bit % 8)
		if _, err := Decode(keys, data); err == nil {
			t.Fatalf("bit %d flipped, and read", bit)
		}
		data[bit/8] ^= 1 << (bit % 8)
	}
}

func TestClaimGivesEachChunkOnePlace(t *testing.T) {
	x := New()
	x.Add(sample().Packs[0])
	if at, fresh := x.Claim(seal.ID{2}, Ref{9, 9}); fresh || at != (Ref{0, 1}) {
		t.Errorf("a stored chunk: %v, fresh %v", at, fresh)
	}
	n := x.Begin()
	if _, fresh := x.Claim(seal.ID{7}, Ref{n, 0}); !fresh {
		t.Error("a new chunk is not fresh")
	}
	if at, fresh := x.Claim(seal.ID{7}, Ref{n, 1}); fresh || at != (Ref{n, 0}) {
		t.Errorf("a claimed chunk: %v, fresh %v", at, fresh)
	}
}

func FuzzDecode(f *testing.F) {
	keys := seal.Derive([32]byte{1})
	data, err := Encode(keys, sample())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if head, err := Decode(keys, data); err == nil && len(head.Packs) > len(data) {
			t.Fatal("more packs than bytes")
		}
	})
}

// FuzzRead feeds what a holder of the key could have sealed wrongly.
func FuzzRead(f *testing.F) {
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, data []byte) {
		var p Pack
		if rest, err := p.read(data); err == nil && len(rest)+32*len(p.IDs) > len(data) {
			t.Fatal("read more than there is")
		}
	})
}
