package dash

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
)

// Folder keeps files by the hash of their bytes; what is in it is never changed.
type Folder struct{ path string }

// File names bytes in the folder.
type File struct {
	SHA256 string `json:"sha256" bson:"sha256"` // hex; also its name
	Size   int64  `json:"size" bson:"size"`
}

var fileName = regexp.MustCompile(`^[0-9a-f]{64}$`)

// OpenFolder makes the folder unless it is there.
func OpenFolder(path string) (Folder, error) {
	if err := os.MkdirAll(path, 0o750); err != nil {
		return Folder{}, fmt.Errorf("make storage folder: %w", err)
	}
	return Folder{path}, nil
}

// Put stores bytes durably and gives their name.
func (f Folder) Put(body io.Reader) (File, error) {
	tmp, err := os.CreateTemp(f.path, ".put-*")
	if err != nil {
		return File{}, fmt.Errorf("store file: %w", err)
	}
	defer os.Remove(tmp.Name())
	hash := sha256.New()
	size, err := io.Copy(io.MultiWriter(tmp, hash), body)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return File{}, fmt.Errorf("store file: %w", err)
	}
	file := File{SHA256: hex.EncodeToString(hash.Sum(nil)), Size: size}
	if err := os.Rename(tmp.Name(), f.place(file.SHA256)); err != nil {
		return File{}, fmt.Errorf("store file: %w", err)
	}
	return file, syncDir(f.path)
}

// Open opens a file for reading; a name that is none of ours is ErrNotFound.
func (f Folder) Open(name string) (*os.File, error) {
	if !fileName.MatchString(name) {
		return nil, fmt.Errorf("file %q: %w", name, ErrNotFound)
	}
	file, err := os.Open(f.place(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("file %s: %w", name, ErrNotFound)
	}
	return file, err
}

// Check reads a file whole and tells whether it is what its name says.
func (f Folder) Check(file File) error {
	in, err := f.Open(file.SHA256)
	if err != nil {
		return err
	}
	defer in.Close()
	hash := sha256.New()
	size, err := io.Copy(hash, in)
	if err != nil {
		return fmt.Errorf("read file %s: %w", file.SHA256, err)
	}
	if size != file.Size || hex.EncodeToString(hash.Sum(nil)) != file.SHA256 {
		return fmt.Errorf("file %s: its bytes are not what was stored", file.SHA256)
	}
	return nil
}

// Writable tells whether the folder takes files.
func (f Folder) Writable() error {
	probe, err := os.CreateTemp(f.path, ".ready-*")
	if err != nil {
		return fmt.Errorf("write to storage folder: %w", err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

func (f Folder) place(name string) string { return filepath.Join(f.path, name) }

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
