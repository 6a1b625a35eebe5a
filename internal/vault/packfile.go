package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"filippo.io/age"

	"holdfast/internal/vault/internal/pack"
)

// packFile reads ranges of a stored pack. What was fetched ahead is served from memory.
type packFile struct {
	ctx   context.Context
	store Store
	name  string
	size  int64
	held  []heldRange
	read  int64 // bytes taken from the store
}

type heldRange struct {
	at   int64
	data []byte
}

// Enough of both ends of a pack to open it and, mostly, to find its table.
const (
	packHead = 1 << 10
	packTail = 160 << 10
)

// fetch holds a range in memory.
func (f *packFile) fetch(at, length int64) error {
	length = min(length, f.size-at)
	r, err := f.store.Get(f.ctx, f.name, at, length)
	if err != nil {
		return fmt.Errorf("read %s: %w", f.name, err)
	}
	defer r.Close()
	data := make([]byte, length)
	n, err := io.ReadFull(r, data)
	f.read += int64(n)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read %s: %w: it ends after %d bytes", f.name, ErrDamaged, at+int64(n))
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", f.name, err)
	}
	f.held = append(f.held, heldRange{at, data})
	return nil
}

// ReadAt implements io.ReaderAt.
func (f *packFile) ReadAt(p []byte, at int64) (int, error) {
	for _, h := range f.held {
		if at >= h.at && at+int64(len(p)) <= h.at+int64(len(h.data)) {
			return copy(p, h.data[at-h.at:]), nil
		}
	}
	if at >= f.size {
		return 0, io.EOF
	}
	r, err := f.store.Get(f.ctx, f.name, at, int64(len(p)))
	if err != nil {
		return 0, err
	}
	defer r.Close()
	n, err := io.ReadFull(r, p)
	f.read += int64(n)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// openPack gives the decrypted bytes of a pack.
func openPack(f io.ReaderAt, size int64, id EpochIdentity) (io.ReaderAt, int64, error) {
	if id.identity == nil {
		return nil, 0, fmt.Errorf("%w: no identity for its epoch was given", ErrWrongKey)
	}
	plain, length, err := age.DecryptReaderAt(f, size, id.identity)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return plain, length, nil
}

// ends fetches what opens a pack.
func (f *packFile) ends() error {
	if f.size <= packHead+packTail {
		return f.fetch(0, f.size)
	}
	if err := f.fetch(0, packHead); err != nil {
		return err
	}
	return f.fetch(f.size-packTail, packTail)
}

// span is a range of decrypted bytes.
type span struct{ at, length int64 }

// ahead fetches the encrypted ranges of spans of the decrypted pack, joining those that lie close.
func (f *packFile) ahead(spans []span, plainSize int64) error {
	const block, overhead, close = 64 << 10, 16, 128 << 10
	blocks := (plainSize + block - 1) / block
	header := f.size - plainSize - max(blocks, 1)*overhead
	slices.SortFunc(spans, func(a, b span) int { return int(min(max(a.at-b.at, -1), 1)) })
	var want []span
	for _, s := range spans {
		first, last := s.at/block, (s.at+s.length-1)/block
		at := header + first*(block+overhead)
		end := min(header+(last+1)*(block+overhead), f.size)
		if n := len(want); n > 0 && at-(want[n-1].at+want[n-1].length) < close {
			want[n-1].length = max(want[n-1].length, end-want[n-1].at)
		} else {
			want = append(want, span{at, end - at})
		}
	}
	for _, w := range want {
		if err := f.fetch(w.at, w.length); err != nil {
			return err
		}
	}
	return nil
}

// wholePack reads all of a pack of size bytes into memory, into buffer when it is large enough. A new buffer is of the
// pack's own size: making room for the largest pack costs more than all else in a restore of a small instance.
func wholePack(ctx context.Context, s Store, name string, size int64, buffer []byte) ([]byte, error) {
	if want := min(size, 8*pack.Target) + bytes.MinRead; int64(cap(buffer)) < want {
		buffer = make([]byte, 0, want)
	}
	r, err := s.Get(ctx, name, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer r.Close()
	b := bytes.NewBuffer(buffer[:0])
	if _, err := b.ReadFrom(io.LimitReader(r, 8*pack.Target)); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b.Bytes(), nil
}
