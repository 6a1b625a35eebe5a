package serve

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/pkg/sftp"
)

// folder is a shelf in a directory of this machine.
type folder struct {
	root, dir string

	mu      sync.Mutex
	uploads map[string]bool // unfinished, of this session
}

func (f *folder) local(folder, name string) string { return filepath.Join(f.dir, folder, name) }

func (f *folder) open(_ context.Context, folder, name string) (io.ReaderAt, error) {
	file, err := openRegular(f.local(folder, name), os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return file, nil
}

// openRegular opens no links and no devices.
func openRegular(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|noFollow, 0o600)
	if err != nil {
		return nil, plain(err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, denied
	}
	return f, nil
}

// plain takes the paths of this machine off an error.
func plain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return sftp.ErrSSHFxNoSuchFile
	case errors.Is(err, fs.ErrPermission):
		return denied
	case errors.Is(err, fs.ErrExist):
		return fs.ErrExist
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	var l *os.LinkError
	if errors.As(err, &l) {
		return l.Err
	}
	return err
}

func (f *folder) create(upload string) (io.WriterAt, error) {
	if err := os.MkdirAll(f.local("tmp", ""), 0o700); err != nil {
		return nil, plain(err)
	}
	file, err := openRegular(f.local("tmp", upload), os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	f.note(upload, true)
	return durable{file}, nil
}

// durable syncs before it closes: the client's success means that the bytes are on the disk.
type durable struct{ *os.File }

func (d durable) Close() error { return plain(errors.Join(d.Sync(), d.File.Close())) }

func (f *folder) note(upload string, open bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if open {
		f.uploads[upload] = true
	} else {
		delete(f.uploads, upload)
	}
}

func (f *folder) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name := range f.uploads {
		_ = os.Remove(f.local("tmp", name))
	}
}

func (f *folder) keep(_ context.Context, upload, folder, name string) error {
	from, to := f.local("tmp", upload), f.local(folder, name)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return plain(err)
	}
	if err := os.Link(from, to); err != nil {
		return plain(err)
	}
	f.note(upload, false)
	return plain(errors.Join(os.Remove(from), syncDir(filepath.Dir(to))))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *folder) remove(_ context.Context, folder, name string) error {
	return plain(os.Remove(f.local(folder, name)))
}

func (f *folder) mkdir(folder string) error { return plain(os.MkdirAll(f.local(folder, ""), 0o700)) }

func (f *folder) stat(_ context.Context, folder, name string) (fs.FileInfo, error) {
	info, err := os.Lstat(f.local(folder, name))
	return info, plain(err)
}

func (f *folder) ancestor() (fs.FileInfo, error) {
	info, err := os.Lstat(f.root)
	return info, plain(err)
}

func (f *folder) list(_ context.Context, folder string) (out []fs.FileInfo, err error) {
	all, err := os.ReadDir(f.local(folder, ""))
	if err != nil {
		return nil, plain(err)
	}
	for _, d := range all {
		if info, err := d.Info(); err == nil {
			out = append(out, info)
		}
	}
	return out, nil
}
