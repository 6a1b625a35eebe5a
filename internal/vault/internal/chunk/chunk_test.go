package chunk

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func lengths(c *Cutter, data []byte) []int {
	var out []int
	for len(data) > 0 {
		n := c.Next(data, true)
		out = append(out, n)
		data = data[n:]
	}
	return out
}

func noise(seed uint64, n int) []byte {
	out := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(out)
	return out
}

func TestChunksCoverTheStream(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := NewCutter([32]byte(noise(rapid.Uint64().Draw(t, "seed"), 32)))
		data := noise(rapid.Uint64().Draw(t, "data"), rapid.IntRange(0, 2<<20).Draw(t, "length"))
		sum, all := 0, lengths(c, data)
		for i, n := range all {
			sum += n
			if n > Max || (n < Min && i < len(all)-1) || n == 0 {
				t.Fatalf("chunk %d of %d is %d bytes", i, len(all), n)
			}
		}
		if sum != len(data) {
			t.Fatalf("chunks hold %d of %d bytes", sum, len(data))
		}
	})
}

func TestBordersFollowContent(t *testing.T) {
	c := NewCutter([32]byte{1})
	data := noise(7, 8<<20)
	moved := append(bytes.Clone(data[:3<<20]), append([]byte("inserted"), data[3<<20:]...)...)
	seen := map[string]bool{}
	for rest := data; len(rest) > 0; {
		n := c.Next(rest, true)
		seen[string(rest[:n])] = true
		rest = rest[n:]
	}
	fresh := 0
	for rest := moved; len(rest) > 0; {
		n := c.Next(rest, true)
		if !seen[string(rest[:n])] {
			fresh++
		}
		rest = rest[n:]
	}
	if fresh == 0 || fresh > 4 {
		t.Fatalf("an insertion of 8 bytes made %d new chunks, want 1 to 4", fresh)
	}
}

func TestAverageLength(t *testing.T) {
	all := lengths(NewCutter([32]byte{2}), noise(9, 64<<20))
	if mean := (64 << 20) / len(all); mean < Avg*3/4 || mean > Avg*3/2 {
		t.Fatalf("mean chunk is %d bytes, want about %d", mean, Avg)
	}
}

func TestSeedMovesBorders(t *testing.T) {
	data := noise(3, 1<<20)
	if a, b := lengths(NewCutter([32]byte{1}), data), lengths(NewCutter([32]byte{2}), data); a[0] == b[0] && a[1] == b[1] {
		t.Fatalf("two seeds give the same borders: %d, %d", a[0], a[1])
	}
}

// TestVector pins format 1: a change here is a new format.
func TestVector(t *testing.T) {
	got := lengths(NewCutter([32]byte{1, 2, 3}), noise(1, 400<<10))
	want := []int{88887, 66303, 77246, 66688, 89406, 21070}
	if !slices.Equal(got, want) {
		t.Fatalf("borders %v, want %v", got, want)
	}
}

func BenchmarkNext(b *testing.B) {
	c, data := NewCutter([32]byte{1}), noise(1, 16<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		for rest := data; len(rest) > 0; {
			rest = rest[c.Next(rest, true):]
		}
	}
}
