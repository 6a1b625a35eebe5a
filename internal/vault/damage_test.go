package vault_test

import (
	"bytes"
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

// smallPlace is a repository in memory with two snapshots of a few small files, and three packs.
func smallPlace(t *testing.T) (*place, *vaulttest.Memory, string) {
	t.Helper()
	return smallPlaceIn(t)
}

func smallPlaceIn(t testing.TB) (*place, *vaulttest.Memory, string) {
	t.Helper()
	store := &vaulttest.Memory{}
	p, src := newPlaceIn(t, store), t.TempDir()
	for _, name := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(src, name), []byte("the content of "+name), 0o600); err != nil {
			t.Fatal(err)
		}
		p.backup(t, vault.Source{Name: "data", Path: src})
	}
	return p, store, src
}

// check opens the repository anew, as someone would who only has the store.
func check(t *testing.T, s vault.Store, ids []vault.EpochIdentity) (vault.CheckReport, error) {
	t.Helper()
	r, err := vault.Open(t.Context(), s)
	if err != nil {
		return vault.CheckReport{}, err
	}
	return r.Check(t.Context(), vault.CheckOptions{Identities: ids, ReadData: len(ids) > 0})
}

// names tells whether the error or the report of a check names an object. The fixed files are held
// against each other: damage to sums may be named as damage to what it lists.
func names(report vault.CheckReport, err error, object string) bool {
	if !errors.Is(err, vault.ErrDamaged) && !errors.Is(err, vault.ErrNewerFormat) && !errors.Is(err, vault.ErrForeign) {
		return false
	}
	if object == "sums" {
		return true
	}
	found := slices.ContainsFunc(report.Findings, func(f vault.Finding) bool { return f.Object == object })
	return found || strings.Contains(err.Error(), object) || object == "config.json"
}

func TestWholeRepositoryHasNoFindings(t *testing.T) {
	p, store, _ := smallPlace(t)
	report, err := check(t, store, p.identities(t, ""))
	if err != nil || len(report.Findings) > 0 || report.Read == 0 || report.Snapshots != 2 {
		t.Fatalf("%+v, %v", report, err)
	}
}

// TestEveryFlippedBitIsNamed flips a bit in every few bytes of every object; without any key the check must name it.
func TestEveryFlippedBitIsNamed(t *testing.T) {
	t.Parallel()
	_, store, _ := smallPlace(t)
	folders := map[string][]string{}
	for _, name := range store.Names() {
		folder, _, deep := strings.Cut(name, "/")
		if !deep {
			folder = "root"
		}
		folders[folder] = append(folders[folder], name)
	}
	if len(folders) != 6 {
		t.Fatalf("folders %v", folders)
	}
	for folder, names := range folders {
		t.Run(folder, func(t *testing.T) {
			for _, name := range names {
				flipBits(t, store.Clone(), name)
			}
		})
	}
}

func flipBits(t *testing.T, store *vaulttest.Memory, name string) {
	t.Helper()
	body := store.Body(name)
	for at := 0; at < len(body); at += max(1, len(body)/150) {
		bad := bytes.Clone(body)
		bad[at] ^= 1 << (at % 8)
		store.Set(name, bad)
		if report, err := check(t, store, nil); !names(report, err, name) {
			t.Fatalf("%s: bit %d of byte %d flipped: %v, %+v", name, at%8, at, err, report.Findings)
		}
	}
}

func TestTruncatedMissingAndSwappedAreNamed(t *testing.T) {
	_, store, _ := smallPlace(t)
	var packs []string
	for _, name := range store.Names() {
		if strings.HasPrefix(name, "packs/") {
			packs = append(packs, name)
		}
		body := store.Body(name)
		store.Set(name, body[:len(body)-1])
		if report, err := check(t, store, nil); !names(report, err, name) {
			t.Errorf("%s cut short: %v", name, err)
		}
		store.Set(name, body)
	}
	a, b := store.Body(packs[0]), store.Body(packs[1])
	store.Set(packs[0], b)
	store.Set(packs[1], a)
	for _, name := range packs[:2] {
		if report, err := check(t, store, nil); !names(report, err, name) {
			t.Errorf("%s swapped: %v", name, err)
		}
	}
}

// TestEveryMissingObjectIsNamed removes each object that a snapshot needs.
func TestEveryMissingObjectIsNamed(t *testing.T) {
	_, store, _ := smallPlace(t)
	for _, name := range store.Names() {
		if strings.HasPrefix(name, "snapshots/") || name == "config.json" || strings.HasPrefix(name, "epochs/") && strings.HasSuffix(name, ".json") {
			continue // a snapshot that is gone was forgotten, a repository without configuration is none
		}
		less := store.Clone()
		if err := less.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		report, err := check(t, less, nil)
		named := strings.HasPrefix(name, "index/") || strings.HasPrefix(name, "epochs/") || names(report, err, name) // the first two are named by what lacks them
		if !errors.Is(err, vault.ErrDamaged) || !named {
			t.Errorf("%s removed: %v, %+v", name, err, report.Findings)
		}
	}
}

// TestOldListingIsNoticed serves the index as it was before the second snapshot.
func TestOldListingIsNoticed(t *testing.T) {
	p, store, src := smallPlace(t)
	old := store.Names()
	if err := os.WriteFile(filepath.Join(src, "three"), []byte("something new"), 0o600); err != nil {
		t.Fatal(err)
	}
	info := p.backup(t, vault.Source{Name: "data", Path: src})
	for _, name := range store.Names() {
		if strings.HasPrefix(name, "index/") && !slices.Contains(old, name) {
			if err := store.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	report, err := check(t, store, nil)
	if !errors.Is(err, vault.ErrDamaged) || !slices.ContainsFunc(report.Findings, func(f vault.Finding) bool {
		return slices.Contains(f.Snapshots, info.Short()) && strings.Contains(f.Problem, "no index describes it")
	}) {
		t.Fatalf("an old index was not noticed: %v, %+v", err, report)
	}
}

// TestForgedPackIsNoticed is a vault that makes up a pack: it knows the epoch's public key, and the names are right.
func TestForgedPackIsNoticed(t *testing.T) {
	p, store, _ := smallPlace(t)
	other, otherStore := newPlaceIn(t, &vaulttest.Memory{}), (*vaulttest.Memory)(nil)
	otherStore = other.store.(*vaulttest.Memory)
	other.key.Recipient = p.key.Recipient
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "one"), []byte("another content of one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := other.repo.Backup(t.Context(), other.key, vault.BackupOptions{Sources: []vault.Source{{Name: "data", Path: src}}}); err != nil {
		t.Fatal(err)
	}
	var forged []byte
	for _, name := range otherStore.Names() {
		if strings.HasPrefix(name, "packs/") {
			forged = otherStore.Body(name)
		}
	}
	for _, name := range store.Names() {
		if strings.HasPrefix(name, "packs/") {
			store.Set(name, forged)
		}
	}
	_, err := p.repo.Restore(t.Context(), vault.RestoreOptions{Snapshot: "latest", Identities: p.identities(t, "latest"), To: t.TempDir()})
	if !errors.Is(err, vault.ErrDamaged) {
		t.Fatalf("a forged pack was restored: %v", err)
	}
}

// TestRestIsRestored damages one pack of several: what does not need it comes back, what does is named and left out.
func TestRestIsRestored(t *testing.T) {
	p, store, src := smallPlace(t)
	info, err := p.repo.Snapshot(t.Context(), "latest")
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Packs) < 2 {
		t.Fatalf("the snapshot needs %d packs, the test wants 2", len(info.Packs))
	}
	bad := "packs/" + info.Packs[0]
	body := store.Body(bad)
	body[len(body)/2] ^= 1
	store.Set(bad, body)
	out := t.TempDir()
	result, err := p.repo.Restore(t.Context(), vault.RestoreOptions{Snapshot: "latest", Identities: p.identities(t, "latest"), To: out})
	if !errors.Is(err, vault.ErrDamaged) || len(result.Damaged) != 1 {
		t.Fatalf("%v, damaged %q", err, result.Damaged)
	}
	restored := 0
	for _, name := range []string{"one", "two"} {
		want, err := os.ReadFile(filepath.Join(src, name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(out, "data", name))
		lost := slices.Contains(result.Damaged, "data/"+name)
		if lost != (err != nil) || !lost && !bytes.Equal(got, want) {
			t.Errorf("%s: lost %v, %v", name, lost, err)
		}
		if !lost {
			restored++
		}
	}
	if restored != 1 {
		t.Errorf("%d files restored, want 1", restored)
	}
	if _, err := os.Stat(filepath.Join(out, ".holdfast-restore-unfinished")); err != nil {
		t.Errorf("the mark of an unfinished restore is gone: %v", err)
	}
}

func TestWrongKeys(t *testing.T) {
	p, _, _ := smallPlace(t)
	other, _, _ := smallPlace(t)
	envelopes, err := p.repo.Envelopes(t.Context(), "latest")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vault.OpenEnvelopePGP(envelopes[0], other.people.Secret, nil); !errors.Is(err, vault.ErrWrongKey) {
		t.Errorf("another instance's key: %v", err)
	}
	if _, err := vault.OpenEnvelopePGP(envelopes[0], p.people.Public, nil); !errors.Is(err, vault.ErrWrongKey) {
		t.Errorf("a public key: %v", err)
	}
	if _, err := p.repo.Restore(t.Context(), vault.RestoreOptions{Snapshot: "latest", Identities: other.identities(t, "latest"), To: t.TempDir()}); !errors.Is(err, vault.ErrWrongKey) {
		t.Errorf("restore with another's identities: %v", err)
	}
	if _, err := p.repo.Backup(t.Context(), other.key, vault.BackupOptions{Sources: []vault.Source{{Name: "d", Path: t.TempDir()}}}); !errors.Is(err, vault.ErrWrongKey) {
		t.Errorf("backup with another's writer key: %v", err)
	}
}

// TestSizesAloneTellOfDamage is the quick check, which reads no pack.
func TestSizesAloneTellOfDamage(t *testing.T) {
	p, store, _ := smallPlace(t)
	for _, name := range store.Names() {
		if !strings.HasPrefix(name, "packs/") {
			continue
		}
		body := store.Body(name)
		store.Set(name, body[:len(body)-1])
		report, err := p.repo.Check(t.Context(), vault.CheckOptions{PresenceOnly: true})
		if !names(report, err, name) {
			t.Errorf("%s cut short: %v", name, err)
		}
		store.Set(name, body)
	}
}

// TestDamagedPackIsStoredAgain lets a backup find that a pack it could refer to is shorter than it was.
func TestDamagedPackIsStoredAgain(t *testing.T) {
	p, store, src := smallPlace(t)
	for _, name := range store.Names() {
		if strings.HasPrefix(name, "packs/") {
			body := store.Body(name)
			store.Set(name, body[:len(body)-1])
		}
	}
	p.backup(t, vault.Source{Name: "data", Path: src})
	out := t.TempDir()
	p.restore(t, vault.RestoreOptions{To: out})
	expectSame(t, src, filepath.Join(out, "data"))
}

// TestCopyLeavesDamageBehind copies what is whole, and names what is not.
func TestCopyLeavesDamageBehind(t *testing.T) {
	p, store, _ := smallPlace(t)
	all, err := p.repo.ListSnapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	only := slices.IndexFunc(all[1].Packs, func(n string) bool { return !slices.Contains(all[0].Packs, n) })
	bad := "packs/" + all[1].Packs[only]
	body := store.Body(bad)
	body[len(body)/2] ^= 1
	store.Set(bad, body)
	second := &vaulttest.Memory{}
	info, err := p.repo.Copy(t.Context(), second, vault.CopyOptions{})
	if !errors.Is(err, vault.ErrDamaged) || info.Snapshots != 1 || len(info.Findings) != 1 || info.Findings[0].Object != bad {
		t.Fatalf("%v, %+v", err, info)
	}
	if slices.Contains(second.Names(), bad) {
		t.Error("the damaged pack was copied")
	}
	if report, err := check(t, second, p.identities(t, "")); err != nil || report.Snapshots != 1 {
		t.Errorf("the copy: %v, %+v", err, report)
	}
	other, _, _ := smallPlace(t)
	if _, err := p.repo.Copy(t.Context(), other.store, vault.CopyOptions{}); !errors.Is(err, vault.ErrForeign) {
		t.Errorf("over another repository: %v", err)
	}
}

// TestSwappedEnvelopes gives the envelope of one epoch for another.
func TestSwappedEnvelopes(t *testing.T) {
	p, _, _ := smallPlace(t)
	if _, err := p.repo.Rotate(t.Context(), p.key, time.Now()); err != nil {
		t.Fatal(err)
	}
	all, err := p.repo.Envelopes(t.Context(), "")
	if err != nil || len(all) != 2 {
		t.Fatalf("%d envelopes, %v", len(all), err)
	}
	all[0].Epoch = all[1].Epoch
	if _, err := vault.OpenEnvelopePGP(all[0], p.people.Secret, nil); !errors.Is(err, vault.ErrDamaged) {
		t.Errorf("an envelope of another epoch: %v", err)
	}
	text, err := p.identities(t, "")[0].MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var id vault.EpochIdentity
	if err := id.UnmarshalText(bytes.Replace(text, []byte("# epoch "), []byte("# epoch 0"), 1)); !errors.Is(err, vault.ErrWrongKey) {
		t.Errorf("an identity under another name: %v", err)
	}
}

// TestDamagedManifestIsNamed restores from a manifest that was changed.
func TestDamagedManifestIsNamed(t *testing.T) {
	p, store, _ := smallPlace(t)
	info, err := p.repo.Snapshot(t.Context(), "latest")
	if err != nil {
		t.Fatal(err)
	}
	body := store.Body(info.Manifest)
	body[len(body)-1] ^= 1
	store.Set(info.Manifest, body)
	_, err = p.repo.Restore(t.Context(), vault.RestoreOptions{Snapshot: "latest", Identities: p.identities(t, ""), To: t.TempDir()})
	if !errors.Is(err, vault.ErrDamaged) || !strings.Contains(err.Error(), info.Manifest+": its bytes differ from its name") {
		t.Fatalf("restore: %v", err)
	}
}

// TestSumsHaveNoOtherLines adds one, as someone would who wants a file of his own believed.
func TestSumsHaveNoOtherLines(t *testing.T) {
	_, store, _ := smallPlace(t)
	store.Set("sums", append(store.Body("sums"), strings.Repeat("0", 64)+"  evil.sh\n"...))
	if report, err := check(t, store, nil); !errors.Is(err, vault.ErrDamaged) || report.Findings[0].Object != "sums" {
		t.Fatalf("%v, %+v", err, report.Findings)
	}
}
