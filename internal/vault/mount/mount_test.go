package mount_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"holdfast/internal/vault"
	"holdfast/internal/vault/mount"
	"holdfast/internal/vault/vaulttest"
)

// mounted backs a tree up and shows its snapshots; the tree, and where they are shown.
func mounted(t *testing.T) (src, dir string) {
	t.Helper()
	store, people := &vaulttest.Memory{}, vaulttest.NewKey(t)
	repo, key, err := vault.Init(t.Context(), store, vault.InitOptions{Instance: "acme", Recipients: []string{people.Public}})
	if err != nil {
		t.Fatal(err)
	}
	src, dir = t.TempDir(), t.TempDir()
	vaulttest.MakeTree(t, src, 21, 60)
	for range 2 {
		if _, err := repo.Backup(t.Context(), key, vault.BackupOptions{Sources: []vault.Source{{Name: "data", Path: src}}}); err != nil {
			t.Fatal(err)
		}
	}
	envelopes, err := repo.Envelopes(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	id, err := vault.OpenEnvelopePGP(envelopes[0], people.Secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	all, err := repo.ListSnapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	show(t, dir, all, func(ctx context.Context, s string) (*vault.View, error) {
		return repo.View(ctx, s, []vault.EpochIdentity{id})
	})
	return src, dir
}

// show mounts until the test ends.
func show(t *testing.T, dir string, all []vault.SnapshotInfo, open mount.Open) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- mount.Run(ctx, dir, all, open, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		t.Fatalf("not mounted: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("after the end there is %v, %v", left, err)
		}
	})
}

// needFUSE wants the error of a system without FUSE to say so, and tells whether the rest can be tried.
func needFUSE(t *testing.T) bool {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err == nil {
		f.Close()
		return true
	}
	err = mount.Run(t.Context(), t.TempDir(), nil, nil, func() { t.Error("mounted without /dev/fuse") })
	if !errors.Is(err, mount.ErrMissing) {
		t.Errorf("without /dev/fuse: %v", err)
	}
	return false
}

// TestReadThroughTheMount compares all that is shown with what was backed up.
func TestReadThroughTheMount(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	src, dir := mounted(t)
	if all, err := os.ReadDir(dir); err != nil || len(all) != 3 {
		t.Fatalf("%d names, %v; want two snapshots and latest", len(all), err)
	}
	want, got := vaulttest.Describe(t, src), vaulttest.Describe(t, filepath.Join(dir, "latest", "data"))
	if d := vaulttest.Diff(want, got); len(d) > 0 {
		t.Fatalf("%d differences:\n%s", len(d), strings.Join(d[:min(12, len(d))], "\n"))
	}
	expectParts(t, src, filepath.Join(dir, "latest", "data"))
}

// expectParts reads the middle of each file, as programs do that seek.
func expectParts(t *testing.T, src, shown string) {
	t.Helper()
	read := 0
	err := filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		want, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		f, err := os.Open(filepath.Join(shown, name))
		if err != nil {
			return err
		}
		defer f.Close()
		part := make([]byte, len(want)/3)
		if n, err := f.ReadAt(part, int64(len(want)/3)); n != len(part) || !bytes.Equal(part, want[len(want)/3:][:n]) {
			t.Errorf("%q: %d bytes from the middle, %v", name, n, err)
		}
		read++
		return nil
	})
	if err != nil || read < 20 {
		t.Fatalf("%d files, %v", read, err)
	}
}

// TestMountTakesNoWrites tries all that would change something.
func TestMountTakesNoWrites(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	src, dir := mounted(t)
	file := ""
	err := filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && file == "" {
			file, err = filepath.Rel(src, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "latest", "data", file)
	_, createErr := os.Create(filepath.Join(dir, "new"))
	_, inside := os.Create(filepath.Join(dir, "latest", "data", "new"))
	_, appended := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	for what, err := range map[string]error{
		"create":           createErr,
		"create inside":    inside,
		"open for writing": appended,
		"remove":           os.Remove(file),
		"rename":           os.Rename(file, file+".new"),
		"make a directory": os.Mkdir(filepath.Join(dir, "latest", "sub"), 0o755),
		"truncate":         os.Truncate(file, 0),
		"change the mode":  os.Chmod(file, 0o777),
		"link":             os.Symlink("x", filepath.Join(dir, "latest", "link")),
	} {
		if !errors.Is(err, syscall.EROFS) && !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EACCES) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestDamageThroughTheMount shows an error, and never wrong bytes.
func TestDamageThroughTheMount(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	dir := t.TempDir()
	all := []vault.SnapshotInfo{{ID: strings.Repeat("0", 64)}}
	show(t, dir, all, func(context.Context, string) (*vault.View, error) { return nil, vault.ErrDamaged })
	if names, err := os.ReadDir(filepath.Join(dir, "latest")); !errors.Is(err, syscall.EIO) {
		t.Fatalf("%v, %v", names, err)
	}
}
