package tree

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"holdfast/internal/vault/internal/seal"
)

// ErrMAC means that a manifest was not written by a holder of the hash key, or was changed.
var ErrMAC = errors.New("the manifest's mac is wrong: it was changed, or written without this repository's hash key")

// Bounds of what a manifest may make its reader allocate.
const (
	maxInfo   = 64 << 20
	maxPacks  = 512 << 20
	maxList   = 2 << 30
	maxMember = 64 << 20
)

// Reader gives the entries of a manifest in their order.
//
// What Next gave is proven only once Next has returned io.EOF: the MAC stands at the end.
// Whoever acts on entries before must not mind acting on a forger's.
type Reader struct {
	Info  []byte
	Packs []PackLine

	keys    *seal.Keys
	archive *tar.Reader
	zstd    *zstd.Decoder
	list    []byte
	parts   [3]seal.MAC
	headers *seal.MACer
	blob    []byte
	owed    int
	refs    []Ref
	done    bool
}

// NewReader opens a manifest; Close must be called.
func NewReader(body io.Reader, keys *seal.Keys, identity age.Identity) (*Reader, error) {
	plain, err := age.Decrypt(body, identity)
	if err != nil {
		return nil, fmt.Errorf("open manifest: %w", err)
	}
	dec, err := zstd.NewReader(plain, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("open manifest: %w", err)
	}
	r := &Reader{keys: keys, zstd: dec, archive: tar.NewReader(dec), headers: keys.MACer("headers")}
	if err := r.readHead(); err != nil {
		dec.Close()
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	return r, nil
}

// Close frees what the reader holds.
func (r *Reader) Close() { r.zstd.Close() }

func (r *Reader) readHead() (err error) {
	if r.Info, err = r.named("info.json", maxInfo); err != nil {
		return err
	}
	lines, err := r.named("packs", maxPacks)
	if err != nil {
		return err
	}
	if r.list, err = r.named("list", maxList); err != nil {
		return err
	}
	r.parts = [3]seal.MAC{r.keys.MAC("info", r.Info), r.keys.MAC("packs", lines), r.keys.MAC("list", r.list)}
	r.Packs, err = parsePacks(lines)
	return err
}

func (r *Reader) named(name string, limit int64) ([]byte, error) {
	h, err := r.archive.Next()
	if err != nil {
		return nil, err
	}
	if h.Name != name {
		return nil, fmt.Errorf("member %.40q, want %q: %w", h.Name, name, errHeader)
	}
	return r.content(h, limit)
}

// content reads a member without trusting the length it claims.
func (r *Reader) content(h *tar.Header, limit int64) ([]byte, error) {
	if h.Size > limit {
		return nil, fmt.Errorf("member %.40q of %d bytes: %w", h.Name, h.Size, errHeader)
	}
	var buf bytes.Buffer
	buf.Grow(int(min(h.Size, 1<<20)) + bytes.MinRead)
	_, err := buf.ReadFrom(r.archive)
	return buf.Bytes(), err
}

func parsePacks(lines []byte) ([]PackLine, error) {
	var packs []PackLine
	for line := range strings.Lines(string(lines)) {
		part := strings.Fields(line)
		if len(part) != 3 || !seal.IsName(part[0]) {
			return nil, fmt.Errorf("pack %d: %w", len(packs)+1, errHeader)
		}
		mac, err := seal.ParseMAC(part[2])
		if err != nil {
			return nil, fmt.Errorf("pack %d: %w", len(packs)+1, err)
		}
		packs = append(packs, PackLine{part[0], part[1], mac})
	}
	return packs, nil
}

// Next returns the next entry and its chunks, io.EOF after the last one of a proven
// manifest, ErrMAC after the last one of a forged one. The refs are valid until the next call.
func (r *Reader) Next() (*Entry, []Ref, error) {
	for len(r.blob) == 0 {
		socket, err := r.nextBlob()
		if err != nil || socket != nil {
			return socket, nil, err
		}
	}
	e, rest, err := ParseHeader(r.blob)
	if err != nil {
		return nil, nil, fmt.Errorf("read manifest: %w", err)
	}
	r.blob = rest
	r.refs = r.refs[:0]
	if e.Stored() == 0 {
		r.owed = 0
		return e, nil, nil
	}
	if len(rest) > 0 {
		return nil, nil, fmt.Errorf("read manifest: %q: %w", e.Path, errHeader)
	}
	r.owed = pad(e.Stored())
	err = r.takeRefs()
	return e, r.refs, err
}

// nextBlob reads the next member; a socket is an entry of its own.
func (r *Reader) nextBlob() (*Entry, error) {
	if r.done {
		return nil, io.EOF
	}
	h, err := r.archive.Next()
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", noEOF(err))
	}
	data, err := r.content(h, maxMember)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if h.Name == "mac" {
		return nil, r.finish(data)
	}
	r.headers.Write([]byte(h.Name))
	r.headers.Write([]byte{0})
	r.headers.Write(data)
	if strings.HasPrefix(h.Name, "s/") {
		e, _, err := ParseHeader(data)
		return e, err
	}
	if line := r.line(); line != h.Name {
		return nil, fmt.Errorf("read manifest: list says %.40q, found %.40q: %w", line, h.Name, errHeader)
	}
	return nil, r.open(data)
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// open takes the padding of the file before and the end of the archive off a member.
func (r *Reader) open(data []byte) error {
	if len(data) < r.owed {
		return fmt.Errorf("read manifest: %w", errHeader)
	}
	data = data[r.owed:]
	r.owed = 0
	if len(data) >= 1024 && bytes.Count(data[len(data)-1024:], zeros[:1]) == 1024 && len(r.list) == 0 {
		data = data[:len(data)-1024]
	}
	r.blob = data
	return nil
}

func (r *Reader) finish(mac []byte) error {
	all := r.keys.MACer("manifest")
	for _, part := range append(r.parts[:], r.headers.Sum()) {
		all.Write(part[:])
	}
	got, err := seal.ParseMAC(strings.TrimSpace(string(mac)))
	if err != nil || !got.Equal(all.Sum()) || len(r.list) > 0 {
		return ErrMAC
	}
	r.done = true
	return io.EOF
}

// line takes the next line off the list.
func (r *Reader) line() string {
	end := bytes.IndexByte(r.list, '\n')
	if end < 0 {
		return ""
	}
	s := string(r.list[:end])
	r.list = r.list[end+1:]
	return s
}

// takeRefs reads the chunks that stand in the list before the next header.
func (r *Reader) takeRefs() error {
	for len(r.list) > 0 && r.list[0] != 'h' {
		pack, ordinal, _ := strings.Cut(r.line(), "/")
		p, err := strconv.ParseUint(pack, 10, 32)
		o, err2 := strconv.ParseUint(ordinal, 10, 32)
		if err != nil || err2 != nil || p < 1 || p > uint64(len(r.Packs)) {
			return fmt.Errorf("read manifest: chunk %.20s/%.20s: %w", pack, ordinal, errHeader)
		}
		r.refs = append(r.refs, Ref{uint32(p), uint32(o)})
	}
	return nil
}
