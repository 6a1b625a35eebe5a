package chunk

import (
	"bytes"
	"testing"
)

// FuzzNext holds what every cutting must be: nothing lost, borders within their bounds, the same again whatever
// stands behind, and the same borders after some bytes were put in front.
func FuzzNext(f *testing.F) {
	f.Add([]byte("seed"), []byte("content"), uint16(3), uint8(9))
	f.Add([]byte{}, noise(5, 1000), uint16(900), uint8(200))
	f.Fuzz(func(t *testing.T, seed, piece []byte, times uint16, shift uint8) {
		var key [32]byte
		copy(key[:], seed)
		c := NewCutter(key)
		data := bytes.Repeat(append(piece, noise(uint64(len(piece)), 1+len(piece)%7000)...), 1+int(times)%200)
		data = data[:min(len(data), 3<<20)]
		var joined []byte
		borders := map[int]bool{}
		for rest := data; len(rest) > 0; {
			n := c.Next(rest, true)
			if n < 1 || n > Max || n < Min && n < len(rest) {
				t.Fatalf("a chunk of %d bytes, %d are left", n, len(rest))
			}
			if n < len(rest) {
				if again := c.Next(rest[:min(len(rest), Max)], false); again != n {
					t.Fatalf("the same bytes are cut at %d and at %d", n, again)
				}
			}
			joined = append(joined, rest[:n]...)
			borders[len(joined)] = true
			rest = rest[n:]
		}
		if !bytes.Equal(joined, data) {
			t.Fatalf("%d of %d bytes came out", len(joined), len(data))
		}
		expectResync(t, c, data, borders, noise(uint64(shift), 1+int(shift)))
	})
}

// expectResync cuts the data again with some bytes in front: once two borders fall together, all that follow must.
func expectResync(t *testing.T, c *Cutter, data []byte, borders map[int]bool, front []byte) {
	t.Helper()
	moved := append(bytes.Clone(front), data...)
	at, met := 0, false
	for rest := moved; len(rest) > 0; {
		n := c.Next(rest, true)
		at += n
		here := at >= len(front) && borders[at-len(front)]
		if met && !here {
			t.Fatalf("borders parted again at %d of %d", at, len(moved))
		}
		met = met || here
		rest = rest[n:]
	}
	if !met {
		t.Fatal("not even the ends fall together")
	}
}
