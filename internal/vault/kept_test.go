package vault_test

import (
	"context"
	"flag"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/vault"
	"holdfast/internal/vault/disk"
	"holdfast/internal/vault/vaulttest"
)

var keep = flag.Bool("keep", false, "make the kept repository anew: only for a new format")

const kept = "testdata/kept"

// TestKeep makes the kept repository when asked to; it is then committed, and never made again.
func TestKeep(t *testing.T) {
	if !*keep {
		return
	}
	if err := os.RemoveAll(kept); err != nil {
		t.Fatal(err)
	}
	src := t.TempDir()
	vaulttest.MakeTree(t, src, 11, 30)
	if err := unix.Setxattr(filepath.Join(src), "user.holdfast", []byte("kept\x00"), 0); err != nil {
		t.Fatal(err)
	}
	key := vaulttest.NewKey(t)
	store := disk.Open(filepath.Join(kept, "repository"))
	r, writer, err := vault.Init(t.Context(), store, vault.InitOptions{Instance: "kept", Recipients: []string{key.Public}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := r.Backup(t.Context(), writer, vault.BackupOptions{Sources: []vault.Source{{Name: "data", Path: src}, {Name: "dump", Stream: func(_ context.Context, w io.Writer) error {
			_, err := io.WriteString(w, "a dump")
			return err
		}}}}); err != nil {
			t.Fatal(err)
		}
		if writer, err = r.Rotate(t.Context(), writer, writer.Began); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(src, "second day"), []byte("new"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(src, "second day")); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	restoreKept(t, key.Secret, filepath.Join(kept, "repository"), out)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(kept, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("secret.asc", key.Secret)
	write("tree.txt", strings.Join(describeData(t, out), "\n")+"\n")
}

// describeData describes what was restored; for a user who may not set owners, without them.
func describeData(t *testing.T, dir string) []string {
	return vaulttest.Describe(t, filepath.Join(dir, "data"))
}

func restoreKept(t *testing.T, secret, dir, out string) {
	t.Helper()
	p := &place{store: disk.Open(dir), people: vaulttest.Key{Secret: secret}}
	var err error
	if p.repo, err = vault.Open(t.Context(), p.store); err != nil {
		t.Fatal(err)
	}
	if _, err := p.repo.Check(t.Context(), vault.CheckOptions{Identities: p.identities(t, ""), ReadData: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.repo.Restore(t.Context(), vault.RestoreOptions{Snapshot: "latest", Identities: p.identities(t, "latest"), To: out}); err != nil {
		t.Fatal(err)
	}
}

func keptFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(kept, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func expectKept(t *testing.T, out string) {
	t.Helper()
	want := strings.Split(strings.TrimSpace(keptFile(t, "tree.txt")), "\n")
	if d := vaulttest.Diff(want, describeData(t, out)); len(d) > 0 {
		t.Fatalf("%d differences:\n%s", len(d), strings.Join(d[:min(10, len(d))], "\n"))
	}
}

// TestKeptRepository reads what the first version of this format wrote.
func TestKeptRepository(t *testing.T) {
	out := t.TempDir()
	restoreKept(t, keptFile(t, "secret.asc"), filepath.Join(kept, "repository"), out)
	expectKept(t, out)
}

// TestWayBackWithoutUs restores it with the script in it and the stock tools.
func TestWayBackWithoutUs(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"gpg", "age", "zstd", "tar"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("the way back cannot be tried: install %s", tool)
		}
	}
	work := t.TempDir()
	repository := filepath.Join(work, "repository")
	if err := os.CopyFS(repository, os.DirFS(filepath.Join(kept, "repository"))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(work, "secret.asc"), []byte(keptFile(t, "secret.asc")), fs.FileMode(0o600)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "restore.sh", "../secret.asc", "../out")
	cmd.Dir = repository
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + work} // our own program is not there
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	expectKept(t, filepath.Join(work, "out"))
	if left, err := filepath.Glob(filepath.Join(work, "out", ".restore*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestNewRepositoriesCarryTheScript looks into a fresh repository for the way back.
func TestNewRepositoriesCarryTheScript(t *testing.T) {
	p := newPlace(t)
	for _, name := range []string{"restore.sh", "RESTORE.md"} {
		text, err := os.ReadFile(filepath.Join(p.dir, name))
		if err != nil || len(text) < 500 {
			t.Errorf("%s: %d bytes, %v", name, len(text), err)
		}
	}
}
