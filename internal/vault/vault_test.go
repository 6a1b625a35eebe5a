package vault_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/vault"
	"holdfast/internal/vault/disk"
	"holdfast/internal/vault/vaulttest"
)

// place is a repository on disk with the keys to it.
type place struct {
	dir, cache string
	store      vault.Store
	repo       *vault.Repository
	key        vault.WriterKey
	people     vaulttest.Key
}

func newPlace(t testing.TB) *place {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repo")
	p := newPlaceIn(t, disk.Open(dir))
	p.dir = dir
	return p
}

func newPlaceIn(t testing.TB, s vault.Store) *place {
	t.Helper()
	p := &place{store: s, cache: t.TempDir(), people: vaulttest.NewKey(t)}
	var err error
	p.repo, p.key, err = vault.Init(t.Context(), p.store, vault.InitOptions{Instance: "acme", Recipients: []string{p.people.Public}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *place) backup(t testing.TB, sources ...vault.Source) vault.SnapshotInfo {
	t.Helper()
	info, err := p.repo.Backup(t.Context(), p.key, vault.BackupOptions{Sources: sources, Cache: p.cache})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func (p *place) identities(t testing.TB, snapshot string) []vault.EpochIdentity {
	t.Helper()
	envelopes, err := p.repo.Envelopes(t.Context(), snapshot)
	if err != nil {
		t.Fatal(err)
	}
	var out []vault.EpochIdentity
	for _, e := range envelopes {
		id, err := vault.OpenEnvelopePGP(e, p.people.Secret, nil)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, id)
	}
	return out
}

func (p *place) restore(t testing.TB, o vault.RestoreOptions) vault.RestoreInfo {
	t.Helper()
	if o.Snapshot == "" {
		o.Snapshot = "latest"
	}
	o.Identities = p.identities(t, o.Snapshot)
	info, err := p.repo.Restore(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Warnings) > 0 {
		t.Fatalf("warnings: %q", info.Warnings)
	}
	return info
}

func expectSame(t testing.TB, want, got string) {
	t.Helper()
	if d := vaulttest.Diff(vaulttest.Describe(t, want), vaulttest.Describe(t, got)); len(d) > 0 {
		t.Fatalf("trees differ in %d lines:\n%s", len(d), strings.Join(d[:min(len(d), 12)], "\n"))
	}
}

func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	p, src, out := newPlace(t), t.TempDir(), filepath.Join(t.TempDir(), "out")
	vaulttest.MakeTree(t, src, 1, 300)
	info := p.backup(t, vault.Source{Name: "data", Path: src})
	got := p.restore(t, vault.RestoreOptions{To: out})
	expectSame(t, src, filepath.Join(out, "data"))
	if got.Files != info.Files || got.Bytes != info.Bytes {
		t.Errorf("restored %d files of %d bytes, the snapshot has %d of %d", got.Files, got.Bytes, info.Files, info.Bytes)
	}
	if _, err := os.Lstat(filepath.Join(out, ".holdfast-restore-unfinished")); err == nil {
		t.Error("the mark of an unfinished restore stayed")
	}
}

func TestSecondBackupAddsLittle(t *testing.T) {
	t.Parallel()
	p, src := newPlace(t), t.TempDir()
	vaulttest.MakeTree(t, src, 2, 200)
	first := p.backup(t, vault.Source{Name: "data", Path: src})
	second := p.backup(t, vault.Source{Name: "data", Path: src})
	if second.AddedBytes > first.AddedBytes/20 || second.Bytes != first.Bytes {
		t.Fatalf("the second backup added %d bytes, the first %d", second.AddedBytes, first.AddedBytes)
	}
	if err := os.RemoveAll(p.cache); err != nil {
		t.Fatal(err)
	}
	third := p.backup(t, vault.Source{Name: "data", Path: src})
	if third.AddedBytes > first.AddedBytes/20 {
		t.Fatalf("without memory the third backup added %d bytes", third.AddedBytes)
	}
	out := t.TempDir()
	p.restore(t, vault.RestoreOptions{To: out})
	expectSame(t, src, filepath.Join(out, "data"))
}

func TestStream(t *testing.T) {
	p, out := newPlace(t), t.TempDir()
	text := strings.Repeat("a line of a dump\n", 200_000)
	p.backup(t, vault.Source{Name: "dump.archive", Stream: func(_ context.Context, w io.Writer) error {
		_, err := io.Copy(w, strings.NewReader(text))
		return err
	}})
	p.restore(t, vault.RestoreOptions{To: out})
	if got, err := os.ReadFile(filepath.Join(out, "dump.archive")); err != nil || string(got) != text {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	_, err := p.repo.Backup(t.Context(), p.key, vault.BackupOptions{Sources: []vault.Source{{Name: "dump", Stream: func(_ context.Context, w io.Writer) error {
		fmt.Fprint(w, "half a d")
		return io.ErrUnexpectedEOF
	}}}})
	if err == nil {
		t.Fatal("a dump that failed made a snapshot")
	}
	if all, err := p.repo.ListSnapshots(t.Context()); err != nil || len(all) != 1 {
		t.Fatalf("%d snapshots, %v", len(all), err)
	}
}
