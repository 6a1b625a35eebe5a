package tree

import (
	"bytes"
	"fmt"
	"strconv"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"holdfast/internal/vault/internal/seal"
)

// Ref names one chunk: the ordinal in the pack with this number, counted from 1 in the manifest's list of packs.
type Ref struct{ Pack, Ordinal uint32 }

// PackLine is one pack a snapshot needs.
type PackLine struct {
	Name  string // the hash of its ciphertext
	Epoch string
	MAC   seal.MAC // of its table
}

// Writer composes a manifest. Entries come in the order of the archive.
type Writer struct {
	keys *seal.Keys
	zstd *zstd.Encoder

	headers section // members h/1, h/2 ..., and s/1 ... for what tar does not know
	list    section
	blob    []byte // the header member in the making
	number  int
	sockets int
	line    []byte
}

// section gathers raw bytes, compresses them frame by frame, and keeps a MAC of its content.
type section struct {
	raw    []byte
	packed []byte
	length int64 // of the content, without member headers
	mac    *seal.MACer
}

// NewWriter returns an empty manifest.
func NewWriter(keys *seal.Keys) (*Writer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
		zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, fmt.Errorf("start compressor: %w", err)
	}
	w := &Writer{keys: keys, zstd: enc}
	w.headers.mac, w.list.mac = keys.MACer("headers"), keys.MACer("list")
	return w, nil
}

// blobTarget is the length at which headers without content between them are cut into the next member.
const blobTarget = 64 << 10

// Add appends an entry and the chunks its stored bytes lie in.
func (w *Writer) Add(e *Entry, refs []Ref) {
	if e.Kind == Socket {
		w.cut()
		w.sockets++
		w.member("s/"+strconv.Itoa(w.sockets), AppendHeader(nil, e))
		return
	}
	if len(w.blob) >= blobTarget {
		w.cut()
	}
	w.blob = AppendHeader(w.blob, e)
	if stored := e.Stored(); stored > 0 {
		w.cut()
		for _, r := range refs {
			w.line = strconv.AppendUint(w.line[:0], uint64(r.Pack), 10)
			w.line = append(w.line, '/')
			w.line = strconv.AppendUint(w.line, uint64(r.Ordinal), 10)
			w.listLine(w.line)
		}
		w.blob = append(w.blob, zeros[:pad(stored)]...)
	}
}

// cut makes a member of the headers gathered so far.
func (w *Writer) cut() {
	if len(w.blob) == 0 {
		return
	}
	w.number++
	name := "h/" + strconv.Itoa(w.number)
	w.member(name, w.blob)
	w.blob = w.blob[:0]
	w.listLine([]byte(name))
}

func (w *Writer) listLine(line []byte) {
	w.list.mac.Write(line)
	w.list.mac.Write([]byte{'\n'})
	w.list.raw = append(append(w.list.raw, line...), '\n')
	w.list.length += int64(len(line)) + 1
	w.list.squeeze(w.zstd)
}

func (w *Writer) member(name string, data []byte) {
	w.headers.mac.Write([]byte(name))
	w.headers.mac.Write([]byte{0})
	w.headers.mac.Write(data)
	w.headers.raw = appendMember(w.headers.raw, name, data)
	w.headers.squeeze(w.zstd)
}

func appendMember(out []byte, name string, data []byte) []byte {
	var h [512]byte
	fill(&h, &Entry{Kind: File, Mode: 0o600}, name, int64(len(data)))
	out = append(append(out, h[:]...), data...)
	return append(out, zeros[:pad(int64(len(data)))]...)
}

const manifestFrame = 1 << 20

func (s *section) squeeze(enc *zstd.Encoder) {
	if len(s.raw) >= manifestFrame {
		s.flush(enc)
	}
}

func (s *section) flush(enc *zstd.Encoder) {
	if len(s.raw) > 0 {
		s.packed = enc.EncodeAll(s.raw, s.packed)
		s.raw = s.raw[:0]
	}
}

// Seal ends the manifest with info and the packs its refs count, and returns it as an age
// file for recipient; the MAC of all parts stands at its end. The writer must not be used again.
func (w *Writer) Seal(info []byte, packs []PackLine, recipient age.Recipient) ([]byte, error) {
	w.blob = append(w.blob, make([]byte, 1024)...) // the end of the archive
	w.cut()
	lines := packLines(packs)
	mac := w.keys.MACer("manifest")
	for _, part := range []seal.MAC{w.keys.MAC("info", info), w.keys.MAC("packs", lines), w.list.mac.Sum(), w.headers.mac.Sum()} {
		mac.Write(part[:])
	}
	w.headers.raw = appendMember(w.headers.raw, "mac", []byte(mac.Sum().String()+"\n"))
	w.headers.raw = append(w.headers.raw, make([]byte, 1024)...)
	w.headers.flush(w.zstd)
	return w.encrypt(w.head(info, lines), recipient)
}

func packLines(packs []PackLine) []byte {
	var lines []byte
	for _, p := range packs {
		lines = fmt.Appendf(lines, "%s %s %s\n", p.Name, p.Epoch, p.MAC)
	}
	return lines
}

// head is what comes before the headers: info, packs, and the member header of the list.
func (w *Writer) head(info, lines []byte) []byte {
	raw := appendMember(nil, "info.json", info)
	raw = appendMember(raw, "packs", lines)
	var h [512]byte
	fill(&h, &Entry{Kind: File, Mode: 0o600}, "list", w.list.length)
	w.list.raw = append(w.list.raw, zeros[:pad(w.list.length)]...)
	w.list.flush(w.zstd)
	return w.zstd.EncodeAll(append(raw, h[:]...), nil)
}

func (w *Writer) encrypt(head []byte, recipient age.Recipient) ([]byte, error) {
	body := bytes.NewBuffer(make([]byte, 0, len(head)+len(w.list.packed)+len(w.headers.packed)+4096))
	plain, err := age.Encrypt(body, recipient)
	if err != nil {
		return nil, fmt.Errorf("seal manifest: %w", err)
	}
	for _, part := range [][]byte{head, w.list.packed, w.headers.packed} {
		if _, err := plain.Write(part); err != nil {
			return nil, fmt.Errorf("seal manifest: %w", err)
		}
	}
	if err := plain.Close(); err != nil {
		return nil, fmt.Errorf("seal manifest: %w", err)
	}
	return body.Bytes(), nil
}
