package disk_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/vault"
	"holdfast/internal/vault/disk"
	"holdfast/internal/vault/vaulttest"
)

func TestConformance(t *testing.T) {
	vaulttest.Run(t, func(t *testing.T) vault.Store { return disk.Open(filepath.Join(t.TempDir(), "repo")) })
}

// TestFullDisk writes to a device that is always full.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/dev/full", filepath.Join(dir, "tmp")); err != nil {
		t.Fatal(err)
	}
	if err := disk.Open(dir).Put(t.Context(), "packs/x", []byte("x")); err == nil {
		t.Fatal("a put without a place to write went well")
	}
	if all, err := disk.Open(dir).List(t.Context(), "packs"); err != nil || len(all) > 0 {
		t.Fatalf("something was left: %v, %v", all, err)
	}
}

func TestFileInPlaceOfDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := disk.Open(file).Put(t.Context(), "packs/x", nil); !errors.Is(err, vault.ErrForeign) {
		t.Fatalf("put: %v", err)
	}
}
