package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"holdfast/internal/vault/internal/chunk"
	"holdfast/internal/vault/internal/pack"
	"holdfast/internal/vault/internal/seal"
)

// reader reads parts and fills packs. Each has its own pack, so none waits for another.
type reader struct {
	b       *backup
	ctx     context.Context
	hasher  *seal.Hasher
	builder *pack.Builder
	number  uint32 // of the pack in the making
	open    bool
	ids     []seal.ID
	buffer  []byte // bytes read and not yet cut
}

func (b *backup) reader(ctx context.Context) error {
	builder, err := pack.NewBuilder(b.keys, b.to)
	if err != nil {
		return err
	}
	r := &reader{b: b, ctx: ctx, hasher: b.keys.Hasher(), builder: builder, buffer: make([]byte, 0, readAhead+chunk.Max)}
	for {
		p, err := receive(ctx, b.work)
		if err != nil {
			return err
		}
		if p == nil {
			return r.seal()
		}
		if err := r.read(p); err != nil {
			return err
		}
		if p.item.left.Add(-1) == 0 {
			close(p.item.done)
		}
	}
}

// read stores one part. What is wrong with a file becomes a note; the error is for the backup as a whole.
func (r *reader) read(p *part) error {
	if p.stream != nil {
		return r.readStream(p)
	}
	f, err := openQuiet(p.item.path)
	if err != nil {
		p.note = noteOf(p.item.entry.Path, err)
		return nil
	}
	defer f.Close()
	if p.note = compare(f, p); p.note.Kind == NoteSkipped {
		return nil
	}
	if err := r.readExtents(f, p); err != nil {
		return err
	}
	if n := compare(f, p); n.Kind != "" && p.note.Kind == "" {
		p.note = n
	}
	if p.read < p.length && p.note.Kind != NoteUnreadable {
		p.note = Note{Path: p.item.entry.Path, Kind: NoteShrank}
	}
	return nil
}

// openQuiet opens without leaving a trace in the access time, where that is allowed.
func openQuiet(path string) (*os.File, error) {
	const flags = os.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK
	f, err := os.OpenFile(path, flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) {
		return os.OpenFile(path, flags, 0)
	}
	return f, err
}

// compare holds an open file against what the scanner saw.
func compare(f *os.File, p *part) Note {
	var now unix.Stat_t
	path, was := p.item.entry.Path, &p.item.stat
	if err := unix.Fstat(int(f.Fd()), &now); err != nil {
		return noteOf(path, err)
	}
	switch {
	case now.Mode&unix.S_IFMT != unix.S_IFREG:
		return Note{Path: path, Kind: NoteSkipped, Detail: "it is no regular file any more"}
	case now.Size > was.Size:
		return Note{Path: path, Kind: NoteGrew}
	case now.Size < was.Size:
		return Note{Path: path, Kind: NoteShrank}
	case now.Mtim != was.Mtim || now.Ino != was.Ino || now.Dev != was.Dev:
		return Note{Path: path, Kind: NoteChanged}
	}
	return Note{}
}

// readExtents cuts the bytes of a part into chunks and stores those that are new.
func (r *reader) readExtents(f *os.File, p *part) error {
	r.buffer = r.buffer[:0]
	for _, x := range p.extents {
		for at, end := x.Offset, x.Offset+x.Length; at < end; {
			want := int(min(end-at, int64(cap(r.buffer)-len(r.buffer))))
			n, err := f.ReadAt(r.buffer[len(r.buffer):len(r.buffer)+want], at)
			at += int64(n)
			r.buffer = r.buffer[:len(r.buffer)+n]
			p.read += int64(n)
			r.b.bytes.Add(int64(n))
			if stop := n < want; stop || len(r.buffer) == cap(r.buffer) {
				if stop && err != io.EOF {
					p.note = noteOf(p.item.entry.Path, err)
				}
				if err := r.store(p, stop); err != nil || stop {
					return err
				}
			}
			if err := r.slow(n); err != nil {
				return err
			}
		}
	}
	return r.store(p, true)
}

// slow keeps to the read limit.
func (r *reader) slow(n int) error {
	return wait(r.ctx, r.b.limit, n)
}

// readStream stores what a function writes. Its error is the backup's: half a dump is no dump.
func (r *reader) readStream(p *part) error {
	r.buffer = r.buffer[:0]
	err := p.stream(r.ctx, func(data []byte) error {
		p.read += int64(len(data))
		p.length = p.read
		r.b.bytes.Add(int64(len(data)))
		r.b.total.Add(int64(len(data)))
		for len(data) > 0 {
			n := copy(r.buffer[len(r.buffer):cap(r.buffer)], data)
			r.buffer, data = r.buffer[:len(r.buffer)+n], data[n:]
			if len(r.buffer) == cap(r.buffer) {
				if err := r.store(p, false); err != nil {
					return err
				}
			}
		}
		return r.ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("back up stream %s: %w", p.item.entry.Path, err)
	}
	p.item.entry.Size = p.read
	return r.store(p, true)
}

// store cuts what is in the buffer. Unless last, it keeps what may belong to a longer chunk.
func (r *reader) store(p *part, last bool) error {
	rest := r.buffer
	for len(rest) >= chunk.Max || (last && len(rest) > 0) {
		n := r.b.cut.Next(rest, last)
		if err := r.storeChunk(p, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	r.buffer = r.buffer[:copy(r.buffer, rest)]
	return nil
}

func (r *reader) storeChunk(p *part, data []byte) error {
	id := r.hasher.ID(data)
	if !r.open {
		r.number, r.open = r.b.index.Begin(), true
	}
	at, fresh := r.b.index.Claim(id, stored{Pack: r.number, Ordinal: uint32(len(r.ids))})
	p.refs = append(p.refs, at)
	if !fresh {
		return nil
	}
	r.ids = append(r.ids, id)
	if err := r.builder.Add(id, data, r.freeBuffer); err != nil {
		return err
	}
	if r.builder.Full() {
		return r.seal()
	}
	return nil
}

// freeBuffer waits for a free buffer: this is what bounds the memory of packs on their way.
func (r *reader) freeBuffer() []byte {
	select {
	case b := <-r.b.buffers:
		if b == nil {
			b = make([]byte, 0, pack.Target+pack.Target/8)
		}
		return b
	case <-r.ctx.Done():
		return nil
	}
}

// seal ends the pack in the making and hands it to the senders.
func (r *reader) seal() error {
	s, err := r.builder.Seal()
	if err != nil || s == nil {
		return err
	}
	p := sealedPack{Sealed: s, number: r.number, ids: r.ids}
	r.open, r.ids = false, nil
	return sendTo(r.ctx, r.b.sealed, p)
}
