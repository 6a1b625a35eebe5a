package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"github.com/pkg/sftp"

	"holdfast/internal/vault"
)

// Bucket is an object storage that tells the length of one object without a list of its folder.
type Bucket interface {
	vault.Store
	// Size is an object's length in bytes. The error is vault.ErrNotFound for an unknown name.
	Size(ctx context.Context, name string) (int64, error)
}

// ServeBucket is Serve for a repository in an object storage: the client has the same rights, and sees neither the
// storage nor its credentials. Uploads wait in a folder below spool until they are whole; what a session that broke
// left there goes with it.
func ServeBucket(conn io.ReadWriteCloser, repository Bucket, spool string, g Grant) error {
	dir, err := os.MkdirTemp(spool, "upload-")
	if err != nil {
		return fmt.Errorf("make room for uploads: %w", err)
	}
	return serveShelf(conn, &objects{store: repository, spool: dir}, g)
}

// objects is a shelf in an object storage.
type objects struct {
	store Bucket
	spool string
}

func (o *objects) close() { _ = os.RemoveAll(o.spool) }

func (o *objects) local(upload string) string { return filepath.Join(o.spool, upload) }

func (o *objects) create(upload string) (io.WriterAt, error) {
	file, err := openRegular(o.local(upload), os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	return file, nil // not durable yet: the client's success is the answer to its rename, which comes from the storage
}

func (o *objects) keep(ctx context.Context, upload, folder, name string) error {
	body, err := os.ReadFile(o.local(upload))
	if err != nil {
		return plain(err)
	}
	if err := o.store.Put(ctx, path.Join(folder, name), body); err != nil {
		return said(err)
	}
	return plain(os.Remove(o.local(upload)))
}

func (o *objects) remove(ctx context.Context, folder, name string) error {
	if folder == "tmp" {
		return plain(os.Remove(o.local(name)))
	}
	if _, err := o.store.Size(ctx, path.Join(folder, name)); err != nil {
		return said(err)
	}
	return said(o.store.Delete(ctx, path.Join(folder, name)))
}

// mkdir has nothing to do: an object storage has no folders.
func (o *objects) mkdir(string) error { return nil }

func (o *objects) list(ctx context.Context, folder string) ([]fs.FileInfo, error) {
	if folder == "tmp" {
		return nil, nil // each session has its own, which is its own business
	}
	all, err := o.store.List(ctx, folder)
	if err != nil {
		return nil, said(err)
	}
	out := make([]fs.FileInfo, len(all))
	for i, object := range all {
		out[i] = entry{name: path.Base(object.Name), size: object.Size, time: object.Time}
	}
	return out, nil
}

func (o *objects) stat(ctx context.Context, folder, name string) (fs.FileInfo, error) {
	if name == "" {
		return entry{name: folder, folder: true}, nil
	}
	if folder == "tmp" {
		info, err := os.Lstat(o.local(name))
		return info, plain(err)
	}
	size, err := o.store.Size(ctx, path.Join(folder, name))
	return entry{name: name, size: size}, said(err)
}

func (o *objects) ancestor() (fs.FileInfo, error) { return entry{name: "/", folder: true}, nil }

func (o *objects) open(ctx context.Context, folder, name string) (io.ReaderAt, error) {
	name = path.Join(folder, name)
	size, err := o.store.Size(ctx, name)
	if err != nil {
		return nil, said(err)
	}
	return &ranges{ctx: ctx, store: o.store, name: name, size: size, kept: map[int64][]byte{}}, nil
}

// A client asks for a pack in hundreds of small pieces; the storage is asked for few large ones.
const (
	rangeLength = 4 << 20
	rangesKept  = 4
)

// ranges reads one object. The pieces that were read last are kept, for requests come side by side.
type ranges struct {
	ctx   context.Context
	store vault.Store
	name  string
	size  int64

	mu    sync.Mutex // guards the rest; held while the storage is asked, so that no piece is fetched twice
	kept  map[int64][]byte
	order []int64 // of kept, oldest first
}

// ReadAt implements io.ReaderAt.
func (r *ranges) ReadAt(p []byte, at int64) (n int, err error) {
	for n < len(p) && at < r.size {
		piece, err := r.piece(at / rangeLength)
		if err != nil {
			return n, said(err)
		}
		inside := at % rangeLength
		if inside >= int64(len(piece)) {
			return n, io.ErrUnexpectedEOF
		}
		moved := copy(p[n:], piece[inside:])
		n, at = n+moved, at+int64(moved)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (r *ranges) piece(number int64) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if piece, ok := r.kept[number]; ok {
		return piece, nil
	}
	body, err := r.store.Get(r.ctx, r.name, number*rangeLength, rangeLength)
	if err != nil {
		return nil, err
	}
	piece, err := io.ReadAll(body)
	if err := errors.Join(err, body.Close()); err != nil {
		return nil, err
	}
	if r.order = append(r.order, number); len(r.order) > rangesKept {
		delete(r.kept, r.order[0])
		r.order = r.order[1:]
	}
	r.kept[number] = piece
	return piece, nil
}

// said turns a storage's error into what SFTP can say.
func said(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, vault.ErrNotFound):
		return sftp.ErrSSHFxNoSuchFile
	case errors.Is(err, vault.ErrExists):
		return fs.ErrExist
	case errors.Is(err, vault.ErrDenied):
		return denied
	}
	return fmt.Errorf("the object storage behind this vault: %w", err)
}

// entry is an object, or a folder of them, as a client sees it.
type entry struct {
	name   string
	size   int64
	time   time.Time
	folder bool
}

func (e entry) Name() string       { return e.name }
func (e entry) Size() int64        { return e.size }
func (e entry) ModTime() time.Time { return e.time }
func (e entry) IsDir() bool        { return e.folder }
func (e entry) Sys() any           { return nil }
func (e entry) Mode() fs.FileMode {
	if e.folder {
		return fs.ModeDir | 0o700
	}
	return 0o600
}
