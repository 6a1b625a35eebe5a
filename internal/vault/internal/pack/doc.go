// Package pack reads and writes packs, the files that hold what was backed up.
//
// A pack is a standard age file. Decrypted it is a row of zstd frames, decompressed
// a tar archive, and that archive holds one member per chunk, named by its ordinal
// (0, 1, 2 ...), and last the member "table". So `age -d | zstd -d | tar -x` opens a pack.
//
// Words: an ordinal counts the chunks of one pack; a frame is a zstd frame that holds
// the members of several chunks and can be read alone; the table says for each ordinal
// the chunk's ID, frame, offset and length; the footer, a skippable zstd frame of fixed
// length at the end, says where the table is.
//
// Invariant: what Parse accepts never makes a reader allocate more than MaxFrame
// for a frame or MaxTable for a table, and never reads outside of a frame.
package pack

import (
	"encoding/binary"
	"errors"
	"fmt"

	"holdfast/internal/vault/internal/seal"
)

const (
	// Target is the length in bytes of ciphertext at which a pack is closed.
	Target = 16 << 20
	// group is the length of decompressed bytes at which a frame is closed.
	group = 512 << 10
	// MaxFrame bounds a decompressed frame.
	MaxFrame = 2 << 20
	// MaxTable bounds a table.
	MaxTable = 64 << 20
	// FooterLength is the length of the footer in bytes.
	FooterLength = 8 + 20
)

var errForm = errors.New("not a pack of format 1")

// Chunk is where one chunk lies.
type Chunk struct {
	ID     seal.ID
	Frame  uint32 // which frame
	Offset uint32 // of the chunk's bytes in the decompressed frame
	Length uint32 // of the chunk in bytes
}

// Frame is where one zstd frame lies.
type Frame struct {
	Offset int64  // in the decrypted pack
	Length uint32 // compressed, in bytes
	Raw    uint32 // decompressed, in bytes
}

// Table is the list of contents of one pack; chunks are in the order of their ordinals.
type Table struct {
	Frames []Frame
	Chunks []Chunk
}

// Encode gives the byte form of the table: counts, frames and chunks as in docs/format/vault.md.
func (t *Table) Encode() []byte {
	out := make([]byte, 0, 16+len(t.Frames)*12+len(t.Chunks)*40)
	out = binary.AppendUvarint(out, uint64(len(t.Frames)))
	for _, f := range t.Frames {
		out = binary.AppendUvarint(out, uint64(f.Offset))
		out = binary.AppendUvarint(out, uint64(f.Length))
		out = binary.AppendUvarint(out, uint64(f.Raw))
	}
	out = binary.AppendUvarint(out, uint64(len(t.Chunks)))
	for _, c := range t.Chunks {
		out = append(out, c.ID[:]...)
		out = binary.AppendUvarint(out, uint64(c.Frame))
		out = binary.AppendUvarint(out, uint64(c.Offset))
		out = binary.AppendUvarint(out, uint64(c.Length))
	}
	return out
}

// ParseTable reads what Encode wrote, and refuses anything a writer would not write.
func ParseTable(data []byte) (*Table, error) {
	r := reader{rest: data}
	t := &Table{}
	frames := r.count(3)
	for range frames {
		f := Frame{Offset: int64(r.number(1 << 62)), Length: uint32(r.number(2 * MaxFrame)), Raw: uint32(r.number(MaxFrame))}
		t.Frames = append(t.Frames, f)
	}
	chunks := r.count(35)
	if r.bad {
		return nil, fmt.Errorf("read table: %w", errForm)
	}
	t.Chunks = make([]Chunk, 0, chunks)
	for range chunks {
		c := Chunk{ID: r.id(), Frame: uint32(r.number(1 << 31)), Offset: uint32(r.number(MaxFrame)), Length: uint32(r.number(MaxFrame))}
		if r.bad || int(c.Frame) >= len(t.Frames) || c.Offset+c.Length > t.Frames[c.Frame].Raw {
			return nil, fmt.Errorf("read table: chunk %d: %w", len(t.Chunks), errForm)
		}
		t.Chunks = append(t.Chunks, c)
	}
	if r.bad || len(r.rest) > 0 {
		return nil, fmt.Errorf("read table: %w", errForm)
	}
	return t, nil
}

// reader takes numbers off hostile bytes; once bad, all it gives is zero.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) number(limit uint64) uint64 {
	v, n := binary.Uvarint(r.rest)
	if r.bad || n <= 0 || v > limit {
		r.bad = true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// count reads a count of things that take at least size bytes each.
func (r *reader) count(size int) int {
	return int(r.number(uint64(len(r.rest) / size)))
}

func (r *reader) id() seal.ID {
	var id seal.ID
	if len(r.rest) < len(id) {
		r.bad = true
		return id
	}
	copy(id[:], r.rest)
	r.rest = r.rest[len(id):]
	return id
}
