package vault_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/vault"
	"holdfast/internal/vault/vaulttest"
)

// impostor is what a vault can make: a repository of the same ID and name, sealed to the same public key, that opens
// with the right secret key and holds something else.
func impostor(t *testing.T, p *place) *vaulttest.Memory {
	t.Helper()
	store, src := &vaulttest.Memory{}, t.TempDir()
	r, key, err := vault.Init(t.Context(), store, vault.InitOptions{Instance: "acme", Recipients: []string{p.people.Public}})
	if err != nil {
		t.Fatal(err)
	}
	own := store.Body("config.json")
	store.Set("config.json", []byte(strings.Replace(string(own), r.Config().ID, p.repo.Config().ID, 1)))
	if r, err = vault.Open(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	key.Repository = p.repo.Config().ID
	// The envelope names the impostor's first ID; one is made anew that names the copied one.
	if key, err = r.Join(t.Context(), []string{p.people.Public}, nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "one"), []byte("what the vault wants you to have"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Backup(t.Context(), key, vault.BackupOptions{Sources: []vault.Source{{Name: "data", Path: src}}, Now: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	return store
}

// open looks at a store as someone who knows something of the repository.
func (p *place) openKnowing(t *testing.T, s vault.Store, k vault.Known) (*place, error) {
	t.Helper()
	r, err := vault.Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	q := *p
	q.repo, q.store = r, s
	return &q, r.Expect(k)
}

func TestFalseRepositoryIsNoticed(t *testing.T) {
	p, _, _ := smallPlace(t)
	false1 := impostor(t, p)
	unknowing, err := p.openKnowing(t, false1, vault.Known{})
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	unknowing.restore(t, vault.RestoreOptions{To: out}) // the false one is good enough to deceive who knows nothing
	if text, err := os.ReadFile(filepath.Join(out, "data", "one")); err != nil || !strings.Contains(string(text), "wants you to have") {
		t.Fatalf("the impostor gave %q, %v: the test proves nothing", text, err)
	}
	for what, known := range map[string]vault.Known{
		"the recovery card":     {Writers: []string{p.key.Fingerprint()}},
		"the writer's name":     {Writers: []string{p.key.Fingerprint()[:16]}},
		"what was seen before":  p.repo.Learned(),
		"another and this card": {Writers: []string{strings.Repeat("0", 32), p.key.Fingerprint()}},
	} {
		q, err := p.openKnowing(t, false1, known)
		if err != nil {
			t.Fatal(err)
		}
		o := vault.RestoreOptions{Snapshot: "latest", Identities: q.identities(t, ""), To: t.TempDir()}
		if _, err := q.repo.Restore(t.Context(), o); !errors.Is(err, vault.ErrImpostor) || !strings.Contains(err.Error(), p.key.Fingerprint()[:16]) {
			t.Errorf("knowing %s: restore gave %v", what, err)
		}
		if _, err := q.repo.Check(t.Context(), vault.CheckOptions{Identities: o.Identities}); !errors.Is(err, vault.ErrImpostor) {
			t.Errorf("knowing %s: check gave %v", what, err)
		}
	}
	if _, err := p.openKnowing(t, false1, vault.Known{Repository: strings.Repeat("0", 32)}); !errors.Is(err, vault.ErrImpostor) {
		t.Errorf("another ID: %v", err)
	}
}

// TestReaderWithIdentitiesOfItsOwn is the control plane, which keeps the envelopes: it need not know anything more.
func TestReaderWithIdentitiesOfItsOwn(t *testing.T) {
	p, _, _ := smallPlace(t)
	q, err := p.openKnowing(t, impostor(t, p), vault.Known{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.repo.Restore(t.Context(), vault.RestoreOptions{Snapshot: "latest", Identities: p.identities(t, ""), To: t.TempDir()}); !errors.Is(err, vault.ErrWrongKey) {
		t.Fatalf("restore gave %v", err)
	}
	info, err := p.repo.Snapshot(t.Context(), "latest")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.repo.Snapshot(t.Context(), info.ID); !errors.Is(err, vault.ErrNotFound) {
		t.Fatalf("a snapshot of the catalogue: %v", err)
	}
}

// TestWriterNoticesAnImpostor must not write where nobody could open what is written.
func TestWriterNoticesAnImpostor(t *testing.T) {
	p, _, src := smallPlace(t)
	q, err := p.openKnowing(t, impostor(t, p), vault.Known{})
	if err != nil {
		t.Fatal(err)
	}
	before := q.store.(*vaulttest.Memory).Names()
	_, err = q.repo.Backup(t.Context(), p.key, vault.BackupOptions{Sources: []vault.Source{{Name: "data", Path: src}}})
	if !errors.Is(err, vault.ErrImpostor) {
		t.Fatalf("backup gave %v", err)
	}
	if after := q.store.(*vaulttest.Memory).Names(); !slices.Equal(before, after) {
		t.Errorf("it wrote %q", after)
	}
}

// TestRollbackIsNamed serves the repository as it was before the newest snapshot.
func TestRollbackIsNamed(t *testing.T) {
	p, store, src := smallPlace(t)
	old := store.Clone()
	newest := p.backup(t, vault.Source{Name: "data", Path: src})
	known := p.repo.Learned()
	if known.Newest != newest.ID {
		t.Fatalf("known is %+v, want %s", known, newest.Short())
	}
	q, err := p.openKnowing(t, old, known)
	if err != nil {
		t.Fatal(err)
	}
	_, err = q.repo.Snapshot(t.Context(), "latest")
	if !errors.Is(err, vault.ErrRolledBack) || !strings.Contains(err.Error(), newest.Short()) {
		t.Errorf("latest of an old listing: %v", err)
	}
	report, err := q.repo.Check(t.Context(), vault.CheckOptions{})
	if !errors.Is(err, vault.ErrDamaged) || !strings.Contains(report.Findings[0].Object, newest.ID) {
		t.Errorf("check of an old listing: %v, %+v", err, report.Findings)
	}
	var heard []vault.Note
	info, err := q.repo.Backup(t.Context(), p.key, vault.BackupOptions{Sources: []vault.Source{{Name: "data", Path: src}}, Cache: p.cache,
		Warn: func(n vault.Note) { heard = append(heard, n) }})
	if err != nil || len(heard) != 1 || heard[0].Kind != vault.NoteRolledBack || info.Notes != 1 || info.Incomplete {
		t.Errorf("backup over an old listing: %v, heard %+v, %+v", err, heard, info)
	}
}

// TestForgettingIsNoRollback prunes the newest one by name where it is known.
func TestForgettingIsNoRollback(t *testing.T) {
	p, _, _ := smallPlace(t)
	all, err := p.repo.ListSnapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.repo.MarkProven(t.Context(), all[0].ID, "test", time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.repo.Forget(t.Context(), []string{"latest"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	q, err := p.openKnowing(t, p.store, p.repo.Learned())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := q.repo.Snapshot(t.Context(), "latest"); err != nil || got.ID != all[0].ID {
		t.Fatalf("latest is %s, %v", got.Short(), err)
	}
}
