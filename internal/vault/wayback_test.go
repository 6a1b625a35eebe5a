package vault_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/vault"
	"holdfast/internal/vault/vaulttest"
)

// wayBackTools is all that restore.sh may use: a shell, gpg, age, zstd, tar and the tools of every Unix.
var wayBackTools = []string{"sh", "gpg", "gpg-agent", "gpgconf", "age", "zstd", "tar", "sha256sum", "xargs", "sed", "sort", "tail", "cut", "cat", "basename", "dirname", "mkdir", "mktemp", "rm", "pwd"}

// bareMachine is a folder with links to these tools and nothing else, for PATH.
func bareMachine(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, tool := range wayBackTools {
		at, err := exec.LookPath(tool)
		if err != nil {
			t.Fatalf("the way back cannot be tried: install %s", tool)
		}
		if err := os.Symlink(at, filepath.Join(dir, tool)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestWayBackIsWholeAndFast restores with restore.sh on a machine that has nothing of ours: byte-identical, with owners,
// times, attributes, links and holes, and in at most five times our own time.
func TestWayBackIsWholeAndFast(t *testing.T) {
	p, src, work := newPlace(t), t.TempDir(), t.TempDir()
	vaulttest.MakeTree(t, src, 31, 250)
	for i := range 2 { // something to carry, beside names
		body := make([]byte, 16<<20)
		vaulttest.Noise(uint64(i), body)
		if err := os.WriteFile(filepath.Join(src, "big"+string(rune('a'+i))), body, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	p.backup(t, vault.Source{Name: "data", Path: src})
	secret := filepath.Join(work, "secret.asc")
	if err := os.WriteFile(secret, []byte(p.people.Secret), 0o600); err != nil {
		t.Fatal(err)
	}
	path := bareMachine(t)

	// On a machine with other work one round tells little: the best of a few counts.
	ours, theirs := time.Hour, time.Hour
	for round := range 4 {
		out := filepath.Join(work, "ours"+string(rune('0'+round)))
		began := time.Now()
		p.restore(t, vault.RestoreOptions{To: out})
		ours = min(ours, time.Since(began))
		expectSame(t, src, filepath.Join(out, "data"))

		out = filepath.Join(work, "theirs"+string(rune('0'+round)))
		cmd := exec.Command(filepath.Join(path, "sh"), "restore.sh", secret, out)
		cmd.Dir, cmd.Env = p.dir, []string{"PATH=" + path, "HOME=" + work}
		began = time.Now()
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		theirs = min(theirs, time.Since(began))
		expectSameButSockets(t, src, filepath.Join(out, "data"))
		if theirs <= most(ours) {
			t.Logf("restore.sh took %v, we took %v", theirs, ours)
			return
		}
	}
	t.Errorf("restore.sh took %v, we took %v: more than five times as long", theirs, ours)
}

// most is what restore.sh may take: a second for gpg and its agent, which does not grow with the data, and five times ours.
func most(ours time.Duration) time.Duration { return 5*ours + time.Second }

// expectSameButSockets is expectSame for tar, which knows no sockets.
func expectSameButSockets(t *testing.T, want, got string) {
	t.Helper()
	var lines []string
	for _, l := range vaulttest.Describe(t, want) {
		if !strings.Contains(l, " mode 14") {
			lines = append(lines, l)
		}
	}
	if d := vaulttest.Diff(lines, vaulttest.Describe(t, got)); len(d) > 0 {
		t.Fatalf("trees differ in %d lines:\n%s", len(d), strings.Join(d[:min(len(d), 12)], "\n"))
	}
}
