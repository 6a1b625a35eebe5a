package vault_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/vault"
	"holdfast/internal/vault/disk"
	"holdfast/internal/vault/vaulttest"
)

// smallDisk is a file system of a few megabytes; only root can make one, and the log says when it was not tried.
func smallDisk(t *testing.T, megabytes int) (dir string, ok bool) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("holdfast-test", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", megabytes)); err != nil {
		if os.Getuid() == 0 && !errors.Is(err, unix.EPERM) {
			t.Fatal(err)
		}
		t.Logf("a real full disk was not tried, errors alone were: mount tmpfs: %v", err)
		return "", false
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir, true
}

func fill(t *testing.T, dir string, megabytes int) {
	t.Helper()
	body := make([]byte, megabytes<<20)
	vaulttest.Noise(1, body)
	if err := os.WriteFile(filepath.Join(dir, "ballast"), body, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFullVault runs a backup into a disk that is too small, makes room, and goes on.
func TestFullVault(t *testing.T) {
	dir, ok := smallDisk(t, 64)
	if !ok {
		return
	}
	p, src := newPlaceIn(t, disk.Open(filepath.Join(dir, "repo"))), t.TempDir()
	p.backup(t, vault.Source{Name: "data", Path: src})
	fill(t, dir, 40)
	fill(t, src, 30)
	_, err := p.repo.Backup(t.Context(), p.key, vault.BackupOptions{Sources: []vault.Source{{Name: "data", Path: src}}, Cache: p.cache})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("backup into a full disk: %v", err)
	}
	if all, err := p.repo.ListSnapshots(t.Context()); err != nil || len(all) != 1 {
		t.Fatalf("%d snapshots, %v", len(all), err)
	}
	if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	p.backup(t, vault.Source{Name: "data", Path: src})
	p.sound(t, "after the disk was full")
	if left, err := os.ReadDir(filepath.Join(dir, "repo", "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
}

// TestFullTarget restores into a disk that is too small: the mark stays, and with more room the restore ends well.
func TestFullTarget(t *testing.T) {
	dir, ok := smallDisk(t, 24)
	if !ok {
		return
	}
	p, src := newPlace(t), t.TempDir()
	fill(t, src, 16)
	p.backup(t, vault.Source{Name: "data", Path: src})
	fill(t, dir, 12)
	o := vault.RestoreOptions{Snapshot: "latest", Identities: p.identities(t, ""), To: filepath.Join(dir, "out"), Delta: true}
	if _, err := p.repo.Restore(t.Context(), o); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("restore into a full disk: %v", err)
	}
	if _, err := os.Stat(filepath.Join(o.To, ".holdfast-restore-unfinished")); err != nil {
		t.Errorf("half a restore is not marked: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	p.restore(t, o)
	expectSame(t, src, filepath.Join(o.To, "data"))
}

// TestVanishedMount backs up into, and looks at, a vault whose disk is not mounted.
func TestVanishedMount(t *testing.T) {
	empty := t.TempDir()
	if _, err := vault.Open(t.Context(), disk.Open(empty)); !errors.Is(err, vault.ErrNotFound) || !strings.Contains(err.Error(), "is the disk mounted?") {
		t.Errorf("an empty place: %v", err)
	}
	p, src := newPlace(t), t.TempDir()
	p.backup(t, vault.Source{Name: "data", Path: src})
	if err := os.RemoveAll(p.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := p.repo.Backup(t.Context(), p.key, vault.BackupOptions{Sources: []vault.Source{{Name: "data", Path: src}}}); !errors.Is(err, vault.ErrImpostor) {
		t.Errorf("backup into what was unmounted since: %v", err)
	}
}

// TestFaultsOfTheStoreElsewhere breaks every operation of restore, prune, check and copy once, with each kind of trouble.
func TestFaultsOfTheStoreElsewhere(t *testing.T) {
	t.Parallel()
	whole, store, src := smallPlace(t)
	ids := whole.identities(t, "")
	works := map[string]func(r *vault.Repository, second *vaulttest.Memory, to string) error{
		"restore": func(r *vault.Repository, _ *vaulttest.Memory, to string) error {
			_, err := r.Restore(t.Context(), vault.RestoreOptions{Snapshot: "latest", Identities: ids, To: to})
			return err
		},
		"check": func(r *vault.Repository, _ *vaulttest.Memory, _ string) error {
			_, err := r.Check(t.Context(), vault.CheckOptions{Identities: ids, ReadData: true})
			return err
		},
		"prune": func(r *vault.Repository, _ *vaulttest.Memory, _ string) error {
			_, err := r.Prune(t.Context(), vault.PruneOptions{Keep: vault.Keep{Last: 1}, MaxShare: 1, Now: time.Now().Add(time.Hour)})
			return err
		},
		"copy": func(r *vault.Repository, second *vaulttest.Memory, _ string) error {
			_, err := r.Copy(t.Context(), second, vault.CopyOptions{})
			return err
		},
	}
	for name, work := range works {
		for _, trouble := range []error{syscall.ENOSPC, syscall.EIO, vault.ErrDenied} {
			for at := int64(1); ; at++ {
				var count atomic.Int64
				faulty := &vaulttest.Faulty{Store: store.Clone(), Before: func(op, _ string) error {
					if count.Add(1) == at && op != "delete" {
						return trouble
					}
					return nil
				}}
				second, to := &vaulttest.Memory{}, filepath.Join(t.TempDir(), "out")
				r, err := vault.Open(t.Context(), faulty)
				if err == nil {
					err = work(r, second, to)
				}
				if count.Load() < at {
					break
				}
				when := fmt.Sprintf("%s, operation %d broken by %v", name, at, trouble)
				if err != nil && !errors.Is(err, trouble) && !errors.Is(err, vault.ErrDamaged) {
					t.Errorf("%s: the error is %v", when, err)
				}
				after := *whole
				after.store = faulty.Store
				if after.repo, err = vault.Open(t.Context(), after.store); err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				after.sound(t, when)
				expectWholeOrMarked(t, when, src, to)
			}
		}
	}
}

// expectWholeOrMarked wants a target that is right, not there, or marked as unfinished.
func expectWholeOrMarked(t *testing.T, when, src, to string) {
	t.Helper()
	_, err := os.Stat(filepath.Join(to, "data"))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if _, err := os.Stat(filepath.Join(to, ".holdfast-restore-unfinished")); err == nil {
		return
	}
	if d := vaulttest.Diff(vaulttest.Describe(t, src), vaulttest.Describe(t, filepath.Join(to, "data"))); len(d) > 0 {
		t.Errorf("%s: half a restore is not marked: %q", when, d)
	}
}
