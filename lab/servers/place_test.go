package servers

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// However many want it, one at a time holds a lock, and none of it is left.
func TestLockIsHeldByOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "lab.lock")
	var holding, held atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			unlock, err := lock(context.Background(), path)
			if err != nil {
				t.Error(err)
				return
			}
			if now := holding.Add(1); now != 1 {
				t.Errorf("%d hold it", now)
			}
			held.Add(1)
			holding.Add(-1)
			unlock()
		})
	}
	all.Wait()
	if held.Load() != 8 {
		t.Errorf("%d of 8 held it", held.Load())
	}
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its folder: %v", err)
	}
}
