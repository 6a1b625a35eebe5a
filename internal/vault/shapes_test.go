package vault_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/vault"
	"holdfast/internal/vault/vaulttest"
)

// TestThousandShapes round-trips a thousand random trees, each changed once and backed up again.
func TestThousandShapes(t *testing.T) {
	shapes := 1000
	if testing.Short() {
		shapes = 50
	}
	base := t.TempDir()
	var p *place
	for seed := range uint64(shapes) {
		if seed%40 == 0 {
			p = newPlaceIn(t, &vaulttest.Memory{})
		}
		dir := filepath.Join(base, fmt.Sprint(seed))
		src, out := filepath.Join(dir, "src"), filepath.Join(dir, "out")
		if err := os.MkdirAll(src, 0o755); err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(seed, 2))
		vaulttest.MakeTree(t, src, seed, 1+rng.IntN(8))
		first := p.backup(t, vault.Source{Name: ".", Path: src})
		p.restore(t, vault.RestoreOptions{Snapshot: first.ID, To: out})
		expectSame(t, src, out)
		vaulttest.MakeTree(t, src, seed+uint64(shapes), 1+rng.IntN(3))
		second := p.backup(t, vault.Source{Name: ".", Path: src})
		p.restore(t, vault.RestoreOptions{Snapshot: second.ID, To: out, Delta: true, Delete: true})
		expectSame(t, src, out)
		if _, err := p.repo.Forget(t.Context(), []string{first.ID}, second.Time); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}
