package vault_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"holdfast/internal/vault"
	"holdfast/internal/vault/internal/seal"
	"holdfast/internal/vault/internal/tree"
	"holdfast/internal/vault/vaulttest"
)

// forge stores a snapshot as a writer can who was broken into: all keys are right, the entries are his.
func (p *place) forge(t testing.TB, change func(*vault.SnapshotInfo), packs []tree.PackLine, entries ...*tree.Entry) vault.SnapshotInfo {
	t.Helper()
	w, err := tree.NewWriter(seal.Derive([32]byte(p.key.HashKey)))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		w.Add(e, nil)
	}
	to, err := age.ParseX25519Recipient(p.key.Recipient)
	if err != nil {
		t.Fatal(err)
	}
	body, err := w.Seal(fmt.Appendf(nil, `{"format":1,"repository":%q}`, p.repo.Config().ID), packs, to)
	if err != nil {
		t.Fatal(err)
	}
	info := vault.SnapshotInfo{Format: 1, Repository: p.repo.Config().ID, Time: time.Now(), Epoch: p.key.Epoch, Epochs: []string{p.key.Epoch},
		Manifest: "manifests/" + seal.Name(body), Packs: []string{}}
	for _, l := range packs {
		info.Packs = append(info.Packs, l.Name)
	}
	if change != nil {
		change(&info)
	}
	p.put(t, info.Manifest, body)
	text, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	info.ID = seal.Name(text)
	p.put(t, "snapshots/"+info.ID+".json", text)
	return info
}

func (p *place) put(t testing.TB, name string, body []byte) {
	t.Helper()
	if err := p.store.Put(t.Context(), name, body); err != nil && !errors.Is(err, vault.ErrExists) {
		t.Fatal(err)
	}
}

// victim is a directory beside the target, which no restore may touch.
func victim(t testing.TB, base string) string {
	t.Helper()
	dir := filepath.Join(base, "victim")
	for _, sub := range []string{"", "b"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, sub, "x"), []byte("precious"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func entry(kind byte, path, link string) *tree.Entry {
	return &tree.Entry{Path: path, Kind: kind, Link: link, Mode: 0o777, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), ModTime: time.Unix(1, 2)}
}

// TestHostileEntriesStayInside has a writer that was broken into lead a restore out of its target.
func TestHostileEntriesStayInside(t *testing.T) {
	const f, d, l, h, p = tree.File, tree.Directory, tree.Symlink, tree.HardLink, tree.Fifo
	base := t.TempDir()
	out, dir := filepath.Join(base, "out"), victim(t, base)
	cases := map[string][]*tree.Entry{
		"pipe below a link":               {entry(l, "a", dir), entry(p, "a/x", "")},
		"pipe before its link":            {entry(p, "a/x", ""), entry(l, "a", dir)},
		"file below a link":               {entry(l, "a", dir), entry(f, "a/x", "")},
		"directory below a link":          {entry(l, "a", dir), entry(d, "a/b", "")},
		"deep below a link":               {entry(l, "a", dir), entry(p, "a/c/d/x", "")},
		"directory that becomes a link":   {entry(d, "a", ""), entry(p, "a/x", ""), entry(l, "a", dir)},
		"hard link through a link":        {entry(l, "a", dir), entry(h, "y", "a/x")},
		"link below a link":               {entry(l, "a", dir), entry(l, "a/x", "/etc/passwd")},
		"two files of one name":           {entry(f, "a", ""), entry(f, "a", "")},
		"the root is a link":              {entry(l, ".", dir)},
		"below a file":                    {entry(f, "a", ""), entry(p, "a/x", "")},
		"relative link, and a pipe in it": {entry(l, "a", "../victim"), entry(p, "a/x", "")},
	}
	before := vaulttest.Describe(t, dir)
	for what, entries := range cases {
		place := newPlaceIn(t, &vaulttest.Memory{})
		info := place.forge(t, nil, nil, entries...)
		for _, delta := range []bool{false, true} {
			o := vault.RestoreOptions{Snapshot: info.ID, Identities: place.identities(t, ""), To: out, Delta: delta, Delete: delta}
			if _, err := place.repo.Restore(t.Context(), o); !errors.Is(err, vault.ErrDamaged) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if d := vaulttest.Diff(before, vaulttest.Describe(t, dir)); len(d) > 0 {
			t.Fatalf("%s: the restore left its target:\n%s", what, strings.Join(d, "\n"))
		}
	}
}

// FuzzHostileEntries makes trees of any kinds and links out of a few names, which so meet often.
func FuzzHostileEntries(f *testing.F) {
	f.Add([]byte{2, 0, 1, 6, 1, 0})
	f.Add([]byte{5, 0, 0, 2, 0, 1, 6, 2, 0, 1, 3, 2})
	names := []string{"a", "a/b", "a/b/x", "a/x", "b", "b/x", ".", "x"}
	kinds := []byte{tree.File, tree.Directory, tree.Symlink, tree.HardLink, tree.Fifo, tree.Socket}
	p := newPlaceIn(f, &vaulttest.Memory{})
	ids := p.identities(f, "")
	f.Fuzz(func(t *testing.T, data []byte) {
		base := t.TempDir()
		dir, out := victim(t, base), filepath.Join(base, "out")
		links := []string{dir, "../victim", "a", "x", "."}
		var entries []*tree.Entry
		for ; len(data) >= 3 && len(entries) < 12; data = data[3:] {
			kind, link := kinds[int(data[0])%len(kinds)], links[int(data[2])%len(links)]
			if kind == tree.HardLink {
				link = names[int(data[2])%len(names)]
			}
			entries = append(entries, entry(kind, names[int(data[1])%len(names)], link))
		}
		before := vaulttest.Describe(t, dir)
		info := p.forge(t, nil, nil, entries...)
		for range 2 {
			o := vault.RestoreOptions{Snapshot: info.ID, Identities: ids, To: out, Delta: true, Delete: true}
			if _, err := p.repo.Restore(t.Context(), o); err != nil && !errors.Is(err, vault.ErrDamaged) {
				t.Logf("restore: %v", err)
			}
		}
		if d := vaulttest.Diff(before, vaulttest.Describe(t, dir)); len(d) > 0 {
			t.Fatalf("the restore left its target:\n%s", strings.Join(d, "\n"))
		}
	})
}

// TestSnapshotThatHidesWhatItNeeds has a vault shorten the readable lists: prune would then let go what is needed.
func TestSnapshotThatHidesWhatItNeeds(t *testing.T) {
	line := tree.PackLine{Name: seal.Name([]byte("a pack")), Epoch: "0123456789abcdef"}
	for what, change := range map[string]func(*vault.SnapshotInfo){
		"its list of packs differs": func(s *vault.SnapshotInfo) { s.Packs = []string{} },
		"its list of epochs lacks":  func(s *vault.SnapshotInfo) {},
	} {
		p := newPlaceIn(t, &vaulttest.Memory{})
		p.forge(t, change, []tree.PackLine{line}, entry(tree.Directory, "a", ""))
		report, err := p.repo.Check(t.Context(), vault.CheckOptions{Identities: p.identities(t, "")})
		found := false
		for _, f := range report.Findings {
			found = found || strings.Contains(f.Problem, what)
		}
		if !errors.Is(err, vault.ErrDamaged) || !found {
			t.Errorf("%s: %v, %+v", what, err, report.Findings)
		}
	}
}

// TestSnapshotOfAnotherRepository finds one that was moved here.
func TestSnapshotOfAnotherRepository(t *testing.T) {
	p := newPlaceIn(t, &vaulttest.Memory{})
	info := p.forge(t, func(s *vault.SnapshotInfo) { s.Repository = strings.Repeat("0", 32) }, nil, entry(tree.Directory, "a", ""))
	if _, err := p.repo.Snapshot(t.Context(), info.ID); !errors.Is(err, vault.ErrDamaged) {
		t.Errorf("snapshot: %v", err)
	}
	if report, err := p.repo.Check(t.Context(), vault.CheckOptions{}); !errors.Is(err, vault.ErrDamaged) {
		t.Errorf("check: %v, %+v", err, report.Findings)
	}
}

func TestOneSourceInAnother(t *testing.T) {
	p := newPlaceIn(t, &vaulttest.Memory{})
	dir := t.TempDir()
	_, err := p.repo.Backup(t.Context(), p.key, vault.BackupOptions{Sources: []vault.Source{{Name: "a/b", Path: dir}, {Name: "a", Path: dir}}})
	if !errors.Is(err, vault.ErrExists) {
		t.Fatal(err)
	}
}
