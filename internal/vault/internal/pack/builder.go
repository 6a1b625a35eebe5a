package pack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"holdfast/internal/vault/internal/seal"
)

// Sealed is a finished pack.
type Sealed struct {
	Body  []byte   // the age file
	Name  string   // seal.Name of Body
	Table []byte   // in the form of Table.Encode
	MAC   seal.MAC // of Table, label "table"
}

// Builder writes packs, one after the other. It is for one goroutine at a time.
type Builder struct {
	keys      *seal.Keys
	recipient age.Recipient
	zstd      *zstd.Encoder

	body   *bytes.Buffer
	plain  io.WriteCloser // encrypts into body
	at     int64          // bytes written to plain
	table  Table
	text   open // chunks worth compressing
	noise  open // the others
	frame  []byte
	header [512]byte
}

// open is a frame that still grows.
type open struct {
	frame int // its number, or -1
	raw   []byte
}

// NewBuilder returns a builder of packs that only the holder of recipient's identity reads.
func NewBuilder(keys *seal.Keys, recipient age.Recipient) (*Builder, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
		zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, fmt.Errorf("start compressor: %w", err)
	}
	b := &Builder{keys: keys, recipient: recipient, zstd: enc}
	b.text.raw = make([]byte, 0, group+MaxFrame/4)
	b.noise.raw = make([]byte, 0, group+MaxFrame/4)
	return b, nil
}

// Count is the number of chunks in the pack so far: the ordinal of the next one.
func (b *Builder) Count() int { return len(b.table.Chunks) }

// Full tells that the pack has reached Target and should be sealed.
func (b *Builder) Full() bool { return b.body != nil && b.body.Len() >= Target }

// Add puts a chunk of at most MaxFrame/4 bytes into the pack, under the ordinal Count.
// It writes into body, which is taken over when the pack is begun.
func (b *Builder) Add(id seal.ID, data []byte, body func() []byte) error {
	if b.body == nil {
		if err := b.begin(body()); err != nil {
			return err
		}
	}
	into := &b.text
	if !worthCompressing(data) {
		into = &b.noise
	}
	if into.frame < 0 {
		into.frame = len(b.table.Frames)
		b.table.Frames = append(b.table.Frames, Frame{})
	}
	ordinal := len(b.table.Chunks)
	into.raw = append(into.raw, memberHeader(&b.header, strconv.Itoa(ordinal), len(data))...)
	b.table.Chunks = append(b.table.Chunks, Chunk{id, uint32(into.frame), uint32(len(into.raw)), uint32(len(data))})
	into.raw = append(into.raw, data...)
	into.raw = append(into.raw, zeros[:Padding(int64(len(data)))]...)
	if len(into.raw) >= group {
		return b.flush(into)
	}
	return nil
}

func (b *Builder) begin(body []byte) error {
	b.body = bytes.NewBuffer(body[:0])
	plain, err := age.Encrypt(b.body, b.recipient)
	if err != nil {
		return fmt.Errorf("begin pack: %w", err)
	}
	b.plain, b.at = plain, 0
	b.table = Table{}
	b.text.frame, b.noise.frame = -1, -1
	return nil
}

// flush closes a frame: compressed, or as it is when that does not make it shorter.
func (b *Builder) flush(o *open) error {
	if o == &b.text {
		b.frame = b.zstd.EncodeAll(o.raw, b.frame[:0])
	} else {
		b.frame = appendStored(b.frame[:0], o.raw)
	}
	b.table.Frames[o.frame] = Frame{b.at, uint32(len(b.frame)), uint32(len(o.raw))}
	o.frame, o.raw = -1, o.raw[:0]
	return b.write(b.frame)
}

func (b *Builder) write(p []byte) error {
	b.at += int64(len(p))
	_, err := b.plain.Write(p)
	return err
}

// Seal ends the pack and returns it; nil when nothing was added. The builder is ready for the next.
func (b *Builder) Seal() (*Sealed, error) {
	if b.body == nil {
		return nil, nil
	}
	for _, o := range []*open{&b.text, &b.noise} {
		if o.frame < 0 {
			continue
		}
		if err := b.flush(o); err != nil {
			return nil, fmt.Errorf("end pack: %w", err)
		}
	}
	table := b.table.Encode()
	if err := b.end(table); err != nil {
		return nil, fmt.Errorf("end pack: %w", err)
	}
	s := &Sealed{Body: b.body.Bytes(), Table: table, MAC: b.keys.MAC("table", table)}
	s.Name = seal.Name(s.Body)
	b.body = nil
	return s, nil
}

// end writes table and footer and closes the age file.
func (b *Builder) end(table []byte) error {
	member := append([]byte(nil), memberHeader(&b.header, "table", len(table))...)
	member = append(member, table...)
	member = append(member, make([]byte, Padding(int64(len(table)))+1024)...) // and the end of the tar archive
	frame := appendStored(nil, member)
	footer := binary.LittleEndian.AppendUint32(nil, 0x184D2A50) // a skippable frame
	footer = binary.LittleEndian.AppendUint32(footer, FooterLength-8)
	footer = append(footer, "HFV1"...)
	footer = binary.LittleEndian.AppendUint64(footer, uint64(b.at))
	footer = binary.LittleEndian.AppendUint32(footer, uint32(len(frame)))
	footer = binary.LittleEndian.AppendUint32(footer, uint32(len(table)))
	if err := b.write(frame); err != nil {
		return err
	}
	if err := b.write(footer); err != nil {
		return err
	}
	return b.plain.Close()
}

// worthCompressing guesses from samples whether zstd would shorten data: bytes of compressed or
// encrypted media are spread almost evenly, those of all else are not.
func worthCompressing(data []byte) bool {
	const sample = 4 << 10
	if len(data) <= 2*sample {
		return true
	}
	var seen [256]uint32
	for _, at := range []int{0, len(data)/2 - sample/2, len(data) - sample} {
		for _, c := range data[at : at+sample] {
			seen[c]++
		}
	}
	// The sum of squares measures how uneven the spread is, without logarithms: 1 for an even
	// one, about 1.02 for random bytes in a sample of this size.
	sum := uint64(0)
	for _, n := range seen {
		sum += uint64(n) * uint64(n)
	}
	return float64(sum)*256/float64(3*sample*3*sample) > 1.15
}

// appendStored wraps data into a zstd frame of raw blocks: valid for every decoder, and as fast as a copy.
func appendStored(out, data []byte) []byte {
	const block = 128 << 10
	out = append(out, 0x28, 0xB5, 0x2F, 0xFD, 0xA0) // magic; single segment, length in 4 bytes
	out = binary.LittleEndian.AppendUint32(out, uint32(len(data)))
	for {
		n := min(len(data), block)
		header := uint32(n) << 3
		if n == len(data) {
			header |= 1 // the last block
		}
		out = append(out, byte(header), byte(header>>8), byte(header>>16))
		out = append(out, data[:n]...)
		data = data[n:]
		if header&1 == 1 {
			return out
		}
	}
}

var zeros [512]byte //nolint:gochecknoglobals // never written

// Padding is how many zeros follow n bytes in a tar archive.
func Padding(n int64) int { return int(-n & 511) }

// memberHeader fills h with the plainest ustar header there is.
func memberHeader(h *[512]byte, name string, length int) []byte {
	*h = memberTemplate
	copy(h[0:], name)
	octal(h[124:135], length)
	sum := 0
	for _, c := range h[:265] {
		sum += int(c)
	}
	octal(h[148:154], sum)
	h[154], h[155] = 0, ' '
	return h[:]
}

//nolint:gochecknoglobals // never written
var memberTemplate = func() (h [512]byte) {
	copy(h[100:], "0000600\x000000000\x000000000\x00")
	copy(h[136:], "00000000000\x00        0")
	copy(h[257:], "ustar\x0000")
	return h
}()

// octal writes v right-aligned.
func octal(field []byte, v int) {
	for i := len(field) - 1; i >= 0; i-- {
		field[i] = '0' + byte(v&7)
		v >>= 3
	}
}
