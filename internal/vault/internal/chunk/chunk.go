// Package chunk cuts bytes into chunks whose borders follow the content, so that
// bytes inserted or changed in the middle of a file move only the borders beside
// them (FastCDC: a gear hash with two masks, so that lengths gather near Avg).
//
// The gear table is derived from a secret seed: who sees only the lengths of
// chunks cannot compare them with those of a file he knows.
//
// Invariant: the chunks of a stream, joined, are the stream; each but the last
// is at least Min long and none is longer than Max; the same seed and bytes
// always give the same borders.
package chunk

import (
	"encoding/binary"

	"github.com/zeebo/blake3"
)

// Min, Avg and Max are the lengths of chunks in bytes. They are part of format 1:
// other values still restore, and share nothing with what is stored.
const (
	Min = 16 << 10
	Avg = 64 << 10
	Max = 256 << 10
)

// Before Avg a border needs two bits more than the average length asks for,
// after it two fewer (normalised chunking, level 2).
const (
	maskEarly = uint64(0x3ffff) << 46 // 18 bits
	maskLate  = uint64(0x3fff) << 50  // 14 bits
)

// Cutter finds borders. It holds no state between calls and may be shared.
type Cutter struct {
	gear [256]uint64
}

// NewCutter returns the cutter of a seed.
func NewCutter(seed [32]byte) *Cutter {
	stream, err := blake3.NewKeyed(seed[:])
	if err != nil {
		panic(err) // only for a seed that is not 32 bytes long
	}
	var table [256 * 8]byte
	stream.Digest().Read(table[:])
	c := &Cutter{}
	for i := range c.gear {
		c.gear[i] = binary.LittleEndian.Uint64(table[8*i:])
	}
	return c
}

// Next returns the length of the first chunk of data. Unless last says that
// the stream ends with data, data must hold at least Max bytes.
func (c *Cutter) Next(data []byte, last bool) int {
	if len(data) <= Min {
		return len(data)
	}
	if len(data) > Max {
		data = data[:Max]
	}
	hash := uint64(0)
	at, found := scan(&c.gear, &hash, data, Min, min(Avg, len(data)), maskEarly)
	if found {
		return at
	}
	at, _ = scan(&c.gear, &hash, data, at, len(data), maskLate)
	return at
}

// scan rolls over data[from:to]; it stops behind the first byte whose hash has no bit of mask.
func scan(gear *[256]uint64, hash *uint64, data []byte, from, to int, mask uint64) (int, bool) {
	h := *hash
	for i, b := range data[from:to] {
		h = h<<1 + gear[b]
		if h&mask == 0 {
			return from + i + 1, true
		}
	}
	*hash = h
	return to, false
}
