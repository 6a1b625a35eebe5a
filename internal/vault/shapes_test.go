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

// What TestThousandShapes is made of: groups run beside each other, and the shapes of a group share a repository.
const (
	shapeGroups    = 25
	shapesPerGroup = 40
)

// TestThousandShapes round-trips a thousand random trees, each changed once and backed up again.
func TestThousandShapes(t *testing.T) {
	for group := range uint64(shapeGroups) {
		t.Run(fmt.Sprint(group), func(t *testing.T) {
			t.Parallel()
			p := newPlaceIn(t, &vaulttest.Memory{})
			if group%10 == 0 {
				p = newPlace(t)
			}
			base := t.TempDir()
			for n := range uint64(shapesPerGroup) {
				p.roundTrip(t, filepath.Join(base, fmt.Sprint(n)), group*shapesPerGroup+n)
			}
		})
	}
}

// roundTrip backs up the tree of a seed, restores it, changes it, backs it up again and restores the difference.
func (p *place) roundTrip(t *testing.T, dir string, seed uint64) {
	t.Helper()
	const shapes = shapeGroups * shapesPerGroup
	src, out := filepath.Join(dir, "src"), filepath.Join(dir, "out")
	if err := os.MkdirAll(src, 0o755); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(seed, 2))
	vaulttest.MakeTree(t, src, seed, 1+rng.IntN(8))
	first := p.backup(t, vault.Source{Name: ".", Path: src})
	p.restore(t, vault.RestoreOptions{Snapshot: first.ID, To: out})
	expectSame(t, src, out)
	vaulttest.MakeTree(t, src, seed+shapes, 1+rng.IntN(3))
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
