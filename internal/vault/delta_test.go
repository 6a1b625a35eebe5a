package vault_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/vault"
)

// TestDeltaTouchesOnlyWhatIsWrong restores over a tree that is right: no change time moves, so that the next backup of the
// tree has nothing to read. Then each kind of thing is made wrong, and comes back.
func TestDeltaTouchesOnlyWhatIsWrong(t *testing.T) {
	t.Parallel()
	p, src, out := newPlace(t), t.TempDir(), t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(src, "dir"), 0o750),
		os.WriteFile(filepath.Join(src, "dir", "file"), []byte("content"), 0o640),
		os.WriteFile(filepath.Join(src, "dir", "other"), []byte("content"), 0o600),
		os.Symlink("dir/file", filepath.Join(src, "link")),
		os.Symlink("dir/file", filepath.Join(src, "link2")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	p.backup(t, vault.Source{Name: "data", Path: src})
	p.restore(t, vault.RestoreOptions{To: out})
	before := changeTimes(t, filepath.Join(out, "data"))
	p.restore(t, vault.RestoreOptions{To: out, Delta: true})
	for name, at := range changeTimes(t, filepath.Join(out, "data")) {
		if at != before[name] {
			t.Errorf("%s was right, and was touched", name)
		}
	}
	at := func(name string) string { return filepath.Join(out, "data", name) }
	for _, err := range []error{
		os.Chmod(at("dir/file"), 0o777),
		os.Chmod(at("dir"), 0o700),
		os.Chtimes(at("dir/other"), time.Now(), time.Now()),
		os.Chtimes(at(""), time.Now(), time.Now()),
		os.Remove(at("link")), os.Symlink("elsewhere", at("link")),
		unix.UtimesNanoAt(unix.AT_FDCWD, at("link2"), []unix.Timespec{{Sec: 1}, {Sec: 1}}, unix.AT_SYMLINK_NOFOLLOW),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	p.restore(t, vault.RestoreOptions{To: out, Delta: true})
	expectSame(t, src, filepath.Join(out, "data"))
}

func changeTimes(t *testing.T, root string) map[string]unix.Timespec {
	t.Helper()
	out := map[string]unix.Timespec{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		out[path] = st.Ctim
		return err
	})
	if err != nil || len(out) == 0 {
		t.Fatal(err, len(out))
	}
	return out
}
