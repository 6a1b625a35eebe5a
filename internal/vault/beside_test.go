package vault_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/vault"
	"holdfast/internal/vault/vaulttest"
)

// blocked is a source whose stream waits: begun is closed when it runs, and it ends when release is closed.
func blocked(name string, begun chan<- struct{}, release <-chan struct{}) vault.Source {
	return vault.Source{Name: name, Stream: func(ctx context.Context, w io.Writer) error {
		begun <- struct{}{}
		select {
		case <-release:
			_, err := io.WriteString(w, "content of "+name)
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
}

func TestSecondBackupAtOnceIsRefused(t *testing.T) {
	p := newPlace(t)
	begun, release := make(chan struct{}, 1), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		_, err := p.repo.Backup(t.Context(), p.key, vault.BackupOptions{Sources: []vault.Source{blocked("a", begun, release)}})
		first <- err
	}()
	<-begun
	o := vault.BackupOptions{Sources: []vault.Source{{Name: "d", Path: t.TempDir()}}}
	if _, err := p.repo.Backup(t.Context(), p.key, o); !errors.Is(err, vault.ErrLocked) {
		t.Errorf("second backup: %v", err)
	}
	waiting := make(chan error, 1)
	go func() {
		o.Wait = time.Minute
		_, err := p.repo.Backup(t.Context(), p.key, o)
		waiting <- err
	}()
	close(release)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err := <-waiting; err != nil {
		t.Errorf("the one that waited: %v", err)
	}
	if left, err := p.store.List(t.Context(), "locks"); err != nil || len(left) > 0 {
		t.Errorf("locks left: %v, %v", left, err)
	}
}

// TestLeaseOfAnotherMachineEnds has a lock of a machine that never answers again.
func TestLeaseOfAnotherMachineEnds(t *testing.T) {
	now := time.Now()
	store := &vaulttest.Memory{Clock: func() time.Time { return now }}
	p := newPlaceIn(t, store)
	note, err := json.Marshal(map[string]any{"kind": "backup", "node": "elsewhere", "boot": "other", "pid": 1, "started": "1", "began": now})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), "locks/ABCDEFGHIJKLMNOPQRSTUVWXYZ.json", note); err != nil {
		t.Fatal(err)
	}
	o := vault.BackupOptions{Sources: []vault.Source{{Name: "d", Path: t.TempDir()}}}
	if _, err := p.repo.Backup(t.Context(), p.key, o); !errors.Is(err, vault.ErrLocked) || !strings.Contains(err.Error(), "elsewhere") {
		t.Fatalf("while the lease runs: %v", err)
	}
	now = now.Add(3 * time.Minute)
	if _, err := p.repo.Backup(t.Context(), p.key, o); err != nil {
		t.Fatalf("after its end: %v", err)
	}
}

// TestPruneBesideABackup forgets, while a backup runs, the snapshot whose packs the backup refers to.
func TestPruneBesideABackup(t *testing.T) {
	p, src := newPlace(t), t.TempDir()
	vaulttest.MakeTree(t, src, 5, 30)
	old := p.backup(t, vault.Source{Name: "data", Path: src})
	p.backup(t, vault.Source{Name: "other", Path: t.TempDir()})
	begun, release := make(chan struct{}, 1), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := p.repo.Backup(t.Context(), p.key, vault.BackupOptions{Cache: p.cache, Sources: []vault.Source{{Name: "data", Path: src}, blocked("z", begun, release)}})
		done <- err
	}()
	<-begun
	for range 2 {
		plan, err := p.repo.Prune(t.Context(), vault.PruneOptions{Keep: vault.Keep{Last: 1}, MaxShare: 1, Now: time.Now().Add(48 * time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range plan.Delete {
			if strings.HasPrefix(d.Object, "packs/") {
				t.Errorf("%s was deleted while a backup runs", d.Object)
			}
		}
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := p.repo.Snapshot(t.Context(), old.ID); !errors.Is(err, vault.ErrNotFound) {
		t.Errorf("the old snapshot: %v", err)
	}
	p.sound(t, "after prune beside a backup")
	out := t.TempDir()
	p.restore(t, vault.RestoreOptions{To: out})
	expectSame(t, src, filepath.Join(out, "data"))
}

// TestFilesThatChangeWhileTheyAreRead keeps all readers busy with slow files until the scan is over and files were changed.
func TestFilesThatChangeWhileTheyAreRead(t *testing.T) {
	p, src := newPlace(t), t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"changed", "grew", "same", "shrank", "vanished", "zz"} {
		write(name, "the first text of "+name)
	}
	readers := max(2, min(runtime.NumCPU(), 8))
	for i := range readers {
		write(fmt.Sprintf("a%d", i), strings.Repeat(fmt.Sprintf("%07d\n", i), 50_000))
	}
	scanned := make(chan struct{})
	sources := []vault.Source{{Name: "data", Path: src}, {Name: "last", Path: t.TempDir()}}
	var once sync.Once
	o := vault.BackupOptions{Sources: sources, ReadLimit: readers * 64 << 10, Skip: func(path string) bool {
		if strings.HasSuffix(path, "/zz") {
			once.Do(func() { close(scanned) })
		}
		return false
	}}
	done := make(chan error, 1)
	go func() { _, err := p.repo.Backup(t.Context(), p.key, o); done <- err }()
	<-scanned
	write("changed", "another text, as long!!! ")
	write("grew", "the first text of grew, and more")
	write("shrank", "short")
	if err := os.Remove(filepath.Join(src, "vanished")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	c, err := p.repo.Contents(t.Context(), "latest", p.identities(t, "latest"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range c.Notes {
		got = append(got, strings.TrimPrefix(n.Path, "data/")+" "+n.Kind)
	}
	if want := []string{"changed changed", "grew grew", "shrank shrank", "vanished vanished"}; !slices.Equal(got, want) {
		t.Errorf("notes %q, want %q", got, want)
	}
	out := t.TempDir()
	p.restore(t, vault.RestoreOptions{To: out})
	for name, want := range map[string]string{"same": "the first text of same", "grew": "the first text of grew", "shrank": "short"} {
		if text, err := os.ReadFile(filepath.Join(out, "data", name)); err != nil || string(text) != want {
			t.Errorf("%s came back as %q, %v", name, text, err)
		}
	}
}

// TestUnreadableMakesIncomplete has a file that nobody can read: the kernel answers with an error.
func TestUnreadableMakesIncomplete(t *testing.T) {
	p, src := newPlace(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "good"), []byte("good"), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := p.repo.Backup(t.Context(), p.key, vault.BackupOptions{Sources: []vault.Source{{Name: "d", Path: src}, {Name: "bad", Path: "/sys/class/net/lo/duplex"}}})
	if !errors.Is(err, vault.ErrIncomplete) || !info.Incomplete || !strings.Contains(err.Error(), "bad") {
		t.Fatalf("%+v, %v", info, err)
	}
}

// TestFaultsOfTheStore breaks every operation once, with each kind of trouble: the error comes out, what is listed is
// whole, and the next backup works.
func TestFaultsOfTheStore(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, trouble := range []error{syscall.ENOSPC, syscall.EIO, vault.ErrDenied} {
		for at := int64(1); ; at++ {
			memory := &vaulttest.Memory{}
			p := newPlaceIn(t, memory)
			var count atomic.Int64
			faulty := &vaulttest.Faulty{Store: memory, Before: func(op, name string) error {
				if count.Add(1) == at && op != "delete" {
					return trouble
				}
				return nil
			}}
			r, err := vault.Open(t.Context(), faulty)
			if err == nil {
				_, err = r.Backup(t.Context(), p.key, vault.BackupOptions{Sources: []vault.Source{{Name: "data", Path: src}}})
			}
			if count.Load() < at {
				if at < 8 {
					t.Fatalf("only %d operations: the test proves nothing", at-1)
				}
				break
			}
			all, listErr := p.repo.ListSnapshots(t.Context())
			if listErr != nil || err != nil && len(all) > 0 || err == nil && len(all) != 1 {
				t.Fatalf("operation %d broken by %v: error %v, %d snapshots, %v", at, trouble, err, len(all), listErr)
			}
			if err != nil && !errors.Is(err, trouble) {
				t.Errorf("operation %d broken by %v: the error is %v", at, trouble, err)
			}
			p.backup(t, vault.Source{Name: "data", Path: src})
			p.sound(t, fmt.Sprintf("operation %d broken by %v", at, trouble))
		}
	}
}

// TestLockThatCouldNotBeGivenBack lets the store go away before a backup could delete its lock. The process lives on, and
// its next backup does not wait for the end of a lease that it knows nobody holds.
func TestLockThatCouldNotBeGivenBack(t *testing.T) {
	memory := &vaulttest.Memory{}
	p := newPlaceIn(t, memory)
	gone := errors.New("connection lost")
	faulty := &vaulttest.Faulty{Store: memory, Before: func(op, name string) error {
		if op == "delete" && strings.HasPrefix(name, "locks/") {
			return gone
		}
		return nil
	}}
	r, err := vault.Open(t.Context(), faulty)
	if err != nil {
		t.Fatal(err)
	}
	o := vault.BackupOptions{Sources: []vault.Source{{Name: "d", Path: t.TempDir()}}}
	if _, err := r.Backup(t.Context(), p.key, o); err != nil {
		t.Fatal(err)
	}
	locks := func() int {
		return len(slices.DeleteFunc(memory.Names(), func(name string) bool { return !strings.HasPrefix(name, "locks/") }))
	}
	if locks() != 1 {
		t.Fatalf("%d locks were left behind: the test proves nothing", locks())
	}
	if _, err := p.repo.Backup(t.Context(), p.key, o); err != nil || locks() != 0 {
		t.Errorf("the next backup: %v, %d locks", err, locks())
	}
}
