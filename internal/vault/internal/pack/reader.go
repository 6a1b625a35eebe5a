package pack

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"holdfast/internal/vault/internal/seal"
)

// Reader opens decrypted packs and their frames. It is for one goroutine at a time.
type Reader struct {
	keys   *seal.Keys
	hasher *seal.Hasher
	zstd   *zstd.Decoder
	packed []byte
	raw    []byte
}

// NewReader returns a reader of packs written under keys.
func NewReader(keys *seal.Keys) (*Reader, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxTable+(1<<20)), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("start decompressor: %w", err)
	}
	return &Reader{keys: keys, hasher: keys.Hasher(), zstd: dec}, nil
}

// Table reads the table of a decrypted pack of size bytes and holds it against want.
func (r *Reader) Table(plain io.ReaderAt, size int64, want seal.MAC) (*Table, error) {
	var footer [FooterLength]byte
	if size < FooterLength {
		return nil, errForm
	}
	if _, err := plain.ReadAt(footer[:], size-FooterLength); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read footer: %w", err)
	}
	at, packed, length, err := parseFooter(footer[:], size)
	if err != nil {
		return nil, err
	}
	member, err := r.decompress(plain, at, packed, length+512+512+1024)
	if err != nil {
		return nil, fmt.Errorf("read table: %w", err)
	}
	if len(member) < 512+length {
		return nil, errForm
	}
	data := member[512 : 512+length]
	if !r.keys.MAC("table", data).Equal(want) {
		return nil, fmt.Errorf("read table: %w", errMAC)
	}
	return ParseTable(data)
}

var errMAC = fmt.Errorf("the mac is wrong: not written by a holder of this repository's hash key, or another pack")

func parseFooter(f []byte, size int64) (at int64, packed, length int, err error) {
	at = int64(binary.LittleEndian.Uint64(f[12:]))
	packed = int(binary.LittleEndian.Uint32(f[20:]))
	length = int(binary.LittleEndian.Uint32(f[24:]))
	good := binary.LittleEndian.Uint32(f) == 0x184D2A50 && binary.LittleEndian.Uint32(f[4:]) == FooterLength-8 &&
		string(f[8:12]) == "HFV1" && at >= 0 && length <= MaxTable && at+int64(packed) == size-FooterLength
	if !good {
		return 0, 0, 0, errForm
	}
	return at, packed, length, nil
}

// decompress reads one frame; the result is valid until the next call.
func (r *Reader) decompress(plain io.ReaderAt, at int64, length, limit int) ([]byte, error) {
	if cap(r.packed) < length {
		r.packed = make([]byte, length)
	}
	packed := r.packed[:length]
	if n, err := plain.ReadAt(packed, at); n < length {
		return nil, fmt.Errorf("read frame at %d: %w", at, err)
	}
	var head zstd.Header
	if err := head.Decode(packed); err != nil || !head.HasFCS || head.FrameContentSize > uint64(limit) {
		return nil, fmt.Errorf("read frame at %d: %w", at, errForm)
	}
	raw, err := r.zstd.DecodeAll(packed, r.raw[:0])
	if err != nil {
		return nil, fmt.Errorf("decompress frame at %d: %w", at, err)
	}
	r.raw = raw
	return raw, nil
}

// Frame reads a frame of the table; the result is valid until the next call.
func (r *Reader) Frame(plain io.ReaderAt, f Frame) ([]byte, error) {
	raw, err := r.decompress(plain, f.Offset, int(f.Length), MaxFrame)
	if err == nil && len(raw) != int(f.Raw) {
		err = fmt.Errorf("read frame at %d: %d bytes, want %d", f.Offset, len(raw), f.Raw)
	}
	return raw, err
}

// Chunk cuts a chunk out of its decompressed frame and proves it by its keyed hash.
func (r *Reader) Chunk(frame []byte, c Chunk) ([]byte, error) {
	data := frame[c.Offset : c.Offset+c.Length]
	if r.hasher.ID(data) != c.ID {
		return nil, fmt.Errorf("chunk %x: the keyed hash of its bytes differs", c.ID[:8])
	}
	return data, nil
}

// Is tells whether data is the chunk.
func (r *Reader) Is(data []byte, c Chunk) bool {
	return len(data) == int(c.Length) && r.hasher.ID(data) == c.ID
}
