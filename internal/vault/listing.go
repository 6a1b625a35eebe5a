package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"holdfast/internal/vault/internal/pack"
	"holdfast/internal/vault/internal/tree"
)

// Entry is one file system object of a snapshot, for people and programs to look at.
type Entry struct {
	Path    string            `json:"path"`
	Kind    string            `json:"kind"` // file, directory, symlink, hardlink, fifo, socket, char, block
	Mode    uint32            `json:"mode"`
	UID     uint32            `json:"uid"`
	GID     uint32            `json:"gid"`
	Size    int64             `json:"size"`
	ModTime time.Time         `json:"mtime"`
	Link    string            `json:"link,omitempty"`
	Sparse  bool              `json:"sparse,omitempty"`
	Xattrs  map[string][]byte `json:"xattrs,omitempty"`
}

func kindName(k byte) string {
	switch k {
	case tree.File:
		return "file"
	case tree.Directory:
		return "directory"
	case tree.Symlink:
		return "symlink"
	case tree.HardLink:
		return "hardlink"
	case tree.Fifo:
		return "fifo"
	case tree.Socket:
		return "socket"
	case tree.CharDev:
		return "char"
	case tree.BlockDev:
		return "block"
	}
	return "unknown"
}

func entryOf(e *tree.Entry) Entry {
	out := Entry{Path: e.Path, Kind: kindName(e.Kind), Mode: e.Mode, UID: e.UID, GID: e.GID, Size: e.Size, ModTime: e.ModTime, Link: e.Link, Sparse: e.Sparse}
	for _, x := range e.Xattrs {
		if out.Xattrs == nil {
			out.Xattrs = map[string][]byte{}
		}
		out.Xattrs[x.Name] = []byte(x.Value)
	}
	return out
}

// Contents is what the manifest of a snapshot says.
type Contents struct {
	Snapshot SnapshotInfo    `json:"snapshot"`
	Sources  []string        `json:"sources"`
	Notes    []Note          `json:"notes,omitempty"`
	Meta     json.RawMessage `json:"meta,omitempty"`
	Entries  []Entry         `json:"entries"`
}

// Contents lists a snapshot, or some paths of it, in the order of the backup.
func (r *Repository) Contents(ctx context.Context, snapshot string, ids []EpochIdentity, paths []string) (Contents, error) {
	s, err := r.open(ctx, snapshot, ids)
	if err != nil {
		return Contents{}, err
	}
	entries, err := selectPaths(s.entries, paths)
	if err != nil {
		return Contents{}, err
	}
	out := Contents{Snapshot: s.info, Sources: s.about.Sources, Notes: s.about.Notes, Meta: s.about.Meta, Entries: make([]Entry, 0, len(entries))}
	for i := range entries {
		out.Entries = append(out.Entries, entryOf(&entries[i].Entry))
	}
	return out, nil
}

// Change is one difference between two snapshots.
type Change struct {
	Path string `json:"path"`
	Kind string `json:"kind"` // added, removed, content, metadata, type
	Was  int64  `json:"was"`  // size in bytes
	Is   int64  `json:"is"`
}

// Diff compares two snapshots. Contents are compared by their chunks: where the chunks are the same the
// bytes are, where they differ the bytes were stored anew.
func (r *Repository) Diff(ctx context.Context, from, to string, ids []EpochIdentity) ([]Change, error) {
	a, err := r.open(ctx, from, ids)
	if err != nil {
		return nil, err
	}
	b, err := r.open(ctx, to, ids)
	if err != nil {
		return nil, err
	}
	return diff(a, b), nil
}

func diff(a, b *opened) []Change {
	old := make(map[string]*fileEntry, len(a.entries))
	for i := range a.entries {
		old[a.entries[i].Path] = &a.entries[i]
	}
	out := []Change{}
	for i := range b.entries {
		e := &b.entries[i]
		was, there := old[e.Path]
		delete(old, e.Path)
		if !there {
			out = append(out, Change{e.Path, "added", 0, e.Size})
		} else if kind := compareEntries(a, was, b, e); kind != "" {
			out = append(out, Change{e.Path, kind, was.Size, e.Size})
		}
	}
	for i := range a.entries {
		if e := &a.entries[i]; old[e.Path] != nil {
			out = append(out, Change{e.Path, "removed", e.Size, 0})
		}
	}
	return out
}

func compareEntries(a *opened, was *fileEntry, b *opened, is *fileEntry) string {
	if was.Kind != is.Kind {
		return "type"
	}
	if was.Size != is.Size || len(was.refs) != len(is.refs) {
		return "content"
	}
	for i, r := range was.refs {
		s := is.refs[i]
		if r.Ordinal != s.Ordinal || a.packs[r.Pack-1].Name != b.packs[s.Pack-1].Name {
			return "content"
		}
	}
	x, y := was.Entry, is.Entry
	if !x.ModTime.Equal(y.ModTime) || x.Mode != y.Mode || x.UID != y.UID || x.GID != y.GID || x.Link != y.Link || len(x.Xattrs) != len(y.Xattrs) {
		return "metadata"
	}
	for i := range x.Xattrs {
		if x.Xattrs[i] != y.Xattrs[i] {
			return "metadata"
		}
	}
	return ""
}

// WriteTar writes a snapshot, or some paths of it, as a pax tar archive. Sockets, which tar does not know, are
// left out. The archive is whole when the error is nil; it then ends with its two empty blocks.
func (r *Repository) WriteTar(ctx context.Context, o RestoreOptions, w io.Writer) error {
	s, err := r.open(ctx, o.Snapshot, o.Identities)
	if err != nil {
		return err
	}
	if err := s.listSizes(ctx); err != nil {
		return err
	}
	if s.entries, err = selectPaths(s.entries, o.Paths); err != nil {
		return err
	}
	c := newChunkReader(s)
	var zeros [1024]byte
	for i := range s.entries {
		e := &s.entries[i]
		if e.Kind == tree.Socket {
			continue
		}
		if _, err := w.Write(tree.AppendHeader(nil, &e.Entry)); err != nil {
			return fmt.Errorf("write archive: %w", err)
		}
		n, err := c.copyFile(ctx, w, e)
		if err != nil {
			return err
		}
		if _, err := w.Write(zeros[:pack.Padding(n)]); err != nil {
			return fmt.Errorf("write archive: %w", err)
		}
	}
	_, err = w.Write(zeros[:])
	return err
}

// chunkReader reads chunks one after the other, for streams and mounts. It keeps the frames it used last,
// and is for one goroutine at a time.
type chunkReader struct {
	s      *opened
	packs  map[uint32]*openTable
	order  []uint32 // of packs, the one used last at the end
	frames map[frameKey][]byte
	recent []frameKey
	reader *pack.Reader
}

type frameKey struct{ pack, frame uint32 }

type openTable struct {
	table *pack.Table
	plain io.ReaderAt
	file  *packFile
	size  int64
}

// What a chunkReader holds at most: frames of half a megabyte, and tables.
const (
	keepFrames = 96
	keepTables = 32
)

func newChunkReader(s *opened) *chunkReader {
	return &chunkReader{s: s, packs: map[uint32]*openTable{}, frames: map[frameKey][]byte{}}
}

func (c *chunkReader) copyFile(ctx context.Context, w io.Writer, e *fileEntry) (int64, error) {
	sum := int64(0)
	for _, ref := range e.refs {
		data, err := c.chunk(ctx, ref)
		if err != nil {
			return sum, fmt.Errorf("read %q: %w", e.Path, err)
		}
		if _, err := w.Write(data); err != nil {
			return sum, fmt.Errorf("write archive: %w", err)
		}
		sum += int64(len(data))
	}
	if sum != e.Stored() {
		return sum, fmt.Errorf("read %q: %w: its chunks are %d bytes long, want %d", e.Path, ErrDamaged, sum, e.Stored())
	}
	return sum, nil
}

// chunk gives a chunk, proven; the bytes are valid until the frame is dropped, long after the next few calls.
func (c *chunkReader) chunk(ctx context.Context, ref tree.Ref) ([]byte, error) {
	if c.reader == nil {
		var err error
		if c.reader, err = pack.NewReader(c.s.keys); err != nil {
			return nil, err
		}
	}
	t, err := c.table(ctx, ref.Pack)
	if err != nil {
		return nil, err
	}
	if int(ref.Ordinal) >= len(t.table.Chunks) {
		return nil, fmt.Errorf("%s: %w: it has no chunk %d", t.file.name, ErrDamaged, ref.Ordinal)
	}
	ch := t.table.Chunks[ref.Ordinal]
	raw, err := c.frame(ctx, t, frameKey{ref.Pack, ch.Frame})
	if err != nil {
		return nil, err
	}
	data, err := c.reader.Chunk(raw, ch)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", t.file.name, ErrDamaged, err)
	}
	return data, nil
}

func (c *chunkReader) table(ctx context.Context, number uint32) (*openTable, error) {
	if t := c.packs[number]; t != nil {
		t.file.ctx = ctx
		return t, nil
	}
	f, id, err := c.s.file(ctx, number)
	if err != nil {
		return nil, err
	}
	table, plain, size, err := c.s.table(f, id, number, c.reader)
	if err != nil {
		return nil, err
	}
	if len(c.order) >= keepTables {
		delete(c.packs, c.order[0])
		c.order = c.order[1:]
	}
	t := &openTable{table, plain, f, size}
	c.packs[number] = t
	c.order = append(c.order, number)
	return t, nil
}

// frame reads a frame and what follows it: streams go forward.
func (c *chunkReader) frame(ctx context.Context, t *openTable, key frameKey) ([]byte, error) {
	if raw, ok := c.frames[key]; ok {
		return raw, nil
	}
	x := t.table.Frames[key.frame]
	ends := t.file.held
	if err := t.file.ahead([]span{{x.Offset, int64(x.Length)}}, t.size); err != nil {
		return nil, gone(err)
	}
	raw, err := c.reader.Frame(t.plain, x)
	t.file.held = ends
	if err != nil {
		if ctx.Err() != nil || !errors.Is(err, io.EOF) && errors.Is(err, ErrDenied) {
			return nil, err
		}
		return nil, fmt.Errorf("%s: %w: %w", t.file.name, ErrDamaged, err)
	}
	if len(c.recent) >= keepFrames {
		delete(c.frames, c.recent[0])
		c.recent = c.recent[1:]
	}
	raw = append([]byte(nil), raw...)
	c.frames[key] = raw
	c.recent = append(c.recent, key)
	return raw, nil
}
