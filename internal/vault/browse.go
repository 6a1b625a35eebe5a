package vault

import (
	"context"
	"fmt"
	"io"
	"sort"
	"sync"

	"holdfast/internal/vault/internal/pack"
	"holdfast/internal/vault/internal/tree"
)

// View is an open snapshot whose files can be read in any place, for mounts and other programs. It is
// safe for concurrent use.
type View struct {
	s       *opened
	entries []Entry
	starts  map[int][]int64 // for a file that was read: where each of its chunks begins, and the end

	mu     sync.Mutex // guards starts and chunks
	chunks *chunkReader
}

// View opens a snapshot to look into it.
func (r *Repository) View(ctx context.Context, snapshot string, ids []EpochIdentity) (*View, error) {
	s, err := r.open(ctx, snapshot, ids)
	if err != nil {
		return nil, err
	}
	if err := s.listSizes(ctx); err != nil {
		return nil, err
	}
	v := &View{s: s, starts: map[int][]int64{}, chunks: newChunkReader(s)}
	for i := range s.entries {
		v.entries = append(v.entries, entryOf(&s.entries[i].Entry))
	}
	return v, nil
}

// Snapshot tells which one it is.
func (v *View) Snapshot() SnapshotInfo { return v.s.info }

// Entries gives all entries in the order of the backup; their place there is their number.
func (v *View) Entries() []Entry { return v.entries }

// ReadAt reads from the file with a number. It returns io.EOF at the end, as io.ReaderAt does.
func (v *View) ReadAt(ctx context.Context, number int, p []byte, at int64) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	e := &v.s.entries[number]
	if e.Kind != tree.File {
		return 0, fmt.Errorf("read %q: it is no file: %w", e.Path, ErrNotFound)
	}
	if at >= e.Size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), e.Size-at)]
	clear(p)
	starts, err := v.startsOf(ctx, number)
	if err != nil {
		return 0, err
	}
	for _, x := range extentsOf(&e.Entry) {
		if err := v.readExtent(ctx, e, starts, x, p, at); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// placed is an extent and where it begins in the stored bytes.
type placed struct {
	tree.Extent
	stored int64
}

func extentsOf(e *tree.Entry) []placed {
	if !e.Sparse {
		return []placed{{tree.Extent{Length: e.Size}, 0}}
	}
	var out []placed
	at := int64(0)
	for _, x := range e.Extents {
		out = append(out, placed{x, at})
		at += x.Length
	}
	return out
}

// startsOf learns the lengths of a file's chunks.
func (v *View) startsOf(ctx context.Context, number int) ([]int64, error) {
	if known := v.starts[number]; known != nil {
		return known, nil
	}
	if v.chunks.reader == nil {
		var err error
		if v.chunks.reader, err = pack.NewReader(v.s.keys); err != nil {
			return nil, err
		}
	}
	e := &v.s.entries[number]
	out := []int64{0}
	for _, ref := range e.refs {
		t, err := v.chunks.table(ctx, ref.Pack)
		if err != nil {
			return nil, err
		}
		if int(ref.Ordinal) >= len(t.table.Chunks) {
			return nil, fmt.Errorf("read %q: %w: pack %s has no chunk %d", e.Path, ErrDamaged, t.file.name, ref.Ordinal)
		}
		out = append(out, out[len(out)-1]+int64(t.table.Chunks[ref.Ordinal].Length))
	}
	if out[len(out)-1] != e.Stored() {
		return nil, fmt.Errorf("read %q: %w: its chunks have another length", e.Path, ErrDamaged)
	}
	v.starts[number] = out
	return out, nil
}

// readExtent copies what an extent has of the wanted range.
func (v *View) readExtent(ctx context.Context, e *fileEntry, starts []int64, x placed, p []byte, at int64) error {
	from, to := max(at, x.Offset), min(at+int64(len(p)), x.Offset+x.Length)
	for from < to {
		stored := x.stored + from - x.Offset
		i := sort.Search(len(starts), func(i int) bool { return starts[i] > stored }) - 1
		data, err := v.chunks.chunk(ctx, e.refs[i])
		if err != nil {
			return err
		}
		n := copy(p[from-at:to-at], data[stored-starts[i]:])
		from += int64(n)
	}
	return nil
}
