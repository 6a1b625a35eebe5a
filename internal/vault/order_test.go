package vault_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/internal/vault"
)

// A folder is looked at when the dump before it has ended: what a dumped document names was written while it ran.
func TestFolderComesAfterTheDumpBeforeIt(t *testing.T) {
	p, files, out := newPlace(t), t.TempDir(), t.TempDir()
	looked := make(chan struct{})
	var once sync.Once
	dump := vault.Source{Name: "dump", Stream: func(_ context.Context, w io.Writer) error {
		select {
		case <-looked:
			t.Error("the folder was looked at while the dump ran")
		case <-time.After(200 * time.Millisecond):
		}
		if err := os.WriteFile(filepath.Join(files, "named-by-the-dump"), []byte("x"), 0o600); err != nil {
			return err
		}
		_, err := fmt.Fprint(w, "named-by-the-dump")
		return err
	}}
	_, err := p.repo.Backup(t.Context(), p.key, vault.BackupOptions{
		Sources: []vault.Source{dump, {Name: "files", Path: files}},
		Skip:    func(string) bool { once.Do(func() { close(looked) }); return false },
	})
	if err != nil {
		t.Fatal(err)
	}
	p.restore(t, vault.RestoreOptions{To: out})
	if _, err := os.Stat(filepath.Join(out, "files", "named-by-the-dump")); err != nil {
		t.Error(err)
	}
}
