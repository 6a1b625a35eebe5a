package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Store keeps named objects. Names are a file name, or a folder and a file name with one
// slash between. Implementations are safe for concurrent use, and pass vaulttest.Run.
type Store interface {
	// Put stores an object whole or not at all, durably, and never over another one:
	// then the error is ErrExists. It does not keep body.
	Put(ctx context.Context, name string, body []byte) error
	// Get reads length bytes from offset, or to the end when length is negative. A range
	// beyond the end gives what there is. The error is ErrNotFound for an unknown name.
	Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error)
	// List gives the objects of a folder ("" for the root) in any order; a folder that does not exist is empty.
	List(ctx context.Context, folder string) ([]Object, error)
	// Delete removes an object. One that is not there is no error.
	Delete(ctx context.Context, name string) error
	// Close frees connections.
	Close() error
}

// Object is what a Store lists.
type Object struct {
	Name string    // with its folder
	Size int64     // in bytes
	Time time.Time // when it was stored, by the clock of the store
}

// Folders and files of a repository.
const (
	configName     = "config.json"
	sumsName       = "sums"
	readmeName     = "RESTORE.md"
	scriptName     = "restore.sh"
	epochFolder    = "epochs"
	packFolder     = "packs"
	indexFolder    = "index"
	manifestFolder = "manifests"
	snapshotFolder = "snapshots"
	lockFolder     = "locks"
	proofFolder    = "proofs"
	pruneFolder    = "condemned"
	uploadFolder   = "tmp" // of stores that need one to put atomically
)

// maxSmall bounds objects that are read whole into memory, except packs.
const maxSmall = 1 << 30

// read gives a whole object.
func read(ctx context.Context, s Store, name string) ([]byte, error) {
	r, err := s.Get(ctx, name, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxSmall+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > maxSmall {
		return nil, fmt.Errorf("read %s: longer than %d bytes: %w", name, maxSmall, ErrDamaged)
	}
	return data, nil
}

// put stores an object that is named by its content, so that finding it there already is as good.
func put(ctx context.Context, s Store, name string, body []byte) error {
	if err := s.Put(ctx, name, body); err != nil && !errors.Is(err, ErrExists) {
		return fmt.Errorf("store %s: %w", name, err)
	}
	return nil
}
