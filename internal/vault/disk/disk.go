// Package disk keeps a repository in a directory of this machine.
//
// An object is written into tmp/, synced, and linked to its name, so that a name always
// has whole bytes behind it and is never given twice.
package disk

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"holdfast/internal/vault"
)

// Store is a directory.
type Store struct{ dir string }

// Open returns the store of a directory; Put creates it when it is not there yet.
func Open(dir string) *Store { return &Store{dir} }

// Put implements vault.Store.
func (s *Store) Put(ctx context.Context, name string, body []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	path, err := s.path(name)
	if err != nil {
		return err
	}
	temp, err := s.write(body)
	if err != nil {
		return translate(err)
	}
	defer os.Remove(temp)
	if err := s.link(temp, path); err != nil {
		return translate(err)
	}
	return syncDir(filepath.Dir(path))
}

// write puts bytes on the disk under a name that no reader looks for.
func (s *Store) write(body []byte) (string, error) {
	temp := filepath.Join(s.dir, "tmp", rand.Text())
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(temp), 0o700); err != nil {
			return "", err
		}
		f, err = os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if err != nil {
		return "", err
	}
	_, err = f.Write(body)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(temp)
		return "", err
	}
	return temp, nil
}

// link gives the temporary file its name; it fails when the name is taken.
func (s *Store) link(temp, path string) error {
	err := os.Link(temp, path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		err = os.Link(temp, path)
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return translate(err)
	}
	return translate(errors.Join(d.Sync(), d.Close()))
}

// Get implements vault.Store.
func (s *Store) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path, err := s.path(name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, translate(err)
	}
	if length < 0 {
		length = 1<<62 - offset
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, offset, length), f}, nil
}

// List implements vault.Store.
func (s *Store) List(ctx context.Context, folder string) ([]vault.Object, error) {
	path, err := s.path(folder)
	if err != nil {
		return nil, err
	}
	all, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, translate(err)
	}
	out := make([]vault.Object, 0, len(all))
	for _, d := range all {
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, translate(err)
		}
		if info.Mode().IsRegular() {
			out = append(out, vault.Object{Name: join(folder, d.Name()), Size: info.Size(), Time: info.ModTime()})
		}
	}
	return out, ctx.Err()
}

// Delete implements vault.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	path, err := s.path(name)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return translate(err)
	}
	return nil
}

// Close implements vault.Store; there is nothing to free.
func (s *Store) Close() error { return nil }

// path refuses names that would leave the directory.
func (s *Store) path(name string) (string, error) {
	if name == "" {
		return s.dir, nil
	}
	if !filepath.IsLocal(name) || strings.Count(name, "/") > 1 {
		return "", fmt.Errorf("object name %q: %w", name, vault.ErrDenied)
	}
	return filepath.Join(s.dir, filepath.FromSlash(name)), nil
}

func join(folder, name string) string {
	if folder == "" {
		return name
	}
	return folder + "/" + name
}

// translate gives the errors of the system the sentinels of vault.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", vault.ErrNotFound, err)
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w: %w", vault.ErrExists, err)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w: %w", vault.ErrForeign, err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: %w", vault.ErrDenied, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", vault.ErrFull, err)
	}
	return err
}
