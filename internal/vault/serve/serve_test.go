package serve_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkg/sftp"

	"holdfast/internal/vault"
	"holdfast/internal/vault/disk"
	"holdfast/internal/vault/serve"
	"holdfast/internal/vault/vaulttest"
)

// fixture is a vault with the repositories of two instances, each with one snapshot.
type fixture struct {
	root     string
	pack     string // of acme
	manifest string
}

func newFixture(t *testing.T) fixture {
	t.Helper()
	f := fixture{root: t.TempDir()}
	for _, instance := range []string{"acme", "other"} {
		store := disk.Open(filepath.Join(f.root, instance))
		repo, key, err := vault.Init(t.Context(), store, vault.InitOptions{Instance: instance, Recipients: []string{vaulttest.NewKey(t).Public}})
		if err != nil {
			t.Fatal(err)
		}
		src := t.TempDir()
		vaulttest.MakeTree(t, src, 1, 20)
		info, err := repo.Backup(t.Context(), key, vault.BackupOptions{Sources: []vault.Source{{Name: "d", Path: src}}})
		if err != nil {
			t.Fatal(err)
		}
		if instance == "acme" {
			f.pack, f.manifest = "/acme/packs/"+info.Packs[0], "/acme/"+info.Manifest
		}
	}
	return f
}

func (f fixture) client(t *testing.T, rights serve.Rights) *sftp.Client {
	t.Helper()
	here, there := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- serve.Serve(there, f.root, serve.Grant{Prefix: "acme", Rights: rights}) }()
	c, err := sftp.NewClientPipe(here, here)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); here.Close(); <-done })
	return c
}

func read(c *sftp.Client, path string) error {
	f, err := c.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 1))
	return err
}

// TestNodeCannot holds what makes a vault append-only: with the rights of a node, nothing that is
// there is deleted, changed, replaced, or read beyond what a writer needs.
func TestNodeCannot(t *testing.T) {
	f := newFixture(t)
	c := f.client(t, serve.Rights{Write: true})
	before := vaulttest.Describe(t, f.root)
	upload := func(path string) error {
		w, err := c.OpenFile(path, os.O_WRONLY|os.O_CREATE)
		if err == nil {
			w.Close()
		}
		return err
	}
	other := func(folder string) string {
		all, err := os.ReadDir(filepath.Join(f.root, "other", folder))
		if err != nil || len(all) == 0 {
			t.Fatal(err)
		}
		return "/other/" + folder + "/" + all[0].Name()
	}
	for what, err := range map[string]error{
		"delete a pack":               c.Remove(f.pack),
		"delete the configuration":    c.Remove("/acme/config.json"),
		"remove a folder":             c.RemoveDirectory("/acme/packs"),
		"open a pack for writing":     upload(f.pack),
		"truncate a pack":             c.Truncate(f.pack, 0),
		"change a mode":               c.Chmod(f.pack, 0o777),
		"move a pack away":            c.Rename(f.pack, "/acme/tmp/AAAAAAAAAAAAAAAAAAAAAAAAAA"),
		"read a pack":                 read(c, f.pack),
		"read a manifest":             read(c, f.manifest),
		"read another's pack":         read(c, other("packs")),
		"read another's index":        read(c, other("index")),
		"read by climbing":            read(c, "/acme/../other/config.json"),
		"read what is not ours":       read(c, "/etc/passwd"),
		"write in another repository": upload("/other/tmp/AAAAAAAAAAAAAAAAAAAAAAAAAA"),
		"write a strange name":        upload("/acme/tmp/x"),
		"make a link out":             c.Symlink("/etc/passwd", "/acme/packs/x"),
		"make a hard link":            c.Link(f.pack, "/acme/tmp/AAAAAAAAAAAAAAAAAAAAAAAAAB"),
		"make a folder elsewhere":     c.Mkdir("/acme/elsewhere"),
	} {
		if err == nil {
			t.Errorf("a node could %s", what)
		}
	}
	if _, err := c.ReadDir("/other"); err == nil {
		t.Error("a node could list another repository")
	}
	if d := vaulttest.Diff(before, vaulttest.Describe(t, f.root)); len(d) > 0 {
		t.Errorf("something changed:\n%s", strings.Join(d, "\n"))
	}
}

// TestRenameNeverReplaces tries both renames of SFTP.
func TestRenameNeverReplaces(t *testing.T) {
	f := newFixture(t)
	c := f.client(t, serve.Rights{Write: true})
	before := vaulttest.Describe(t, filepath.Join(f.root, "acme", "packs"))
	for _, rename := range []func(a, b string) error{c.Rename, c.PosixRename} {
		w, err := c.OpenFile("/acme/tmp/AAAAAAAAAAAAAAAAAAAAAAAAAA", os.O_WRONLY|os.O_CREATE|os.O_EXCL)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("evil")); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := rename("/acme/tmp/AAAAAAAAAAAAAAAAAAAAAAAAAA", f.pack); err == nil {
			t.Error("a pack was replaced")
		}
		_ = c.Remove("/acme/tmp/AAAAAAAAAAAAAAAAAAAAAAAAAA")
	}
	if d := vaulttest.Diff(before, vaulttest.Describe(t, filepath.Join(f.root, "acme", "packs"))); len(d) > 0 {
		t.Errorf("packs changed: %q", d)
	}
}

func TestReaderCannotWrite(t *testing.T) {
	f := newFixture(t)
	c := f.client(t, serve.Rights{Read: true})
	if err := read(c, f.pack); err != nil {
		t.Errorf("read a pack: %v", err)
	}
	if _, err := c.OpenFile("/acme/tmp/AAAAAAAAAAAAAAAAAAAAAAAAAA", os.O_WRONLY|os.O_CREATE); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("write: %v", err)
	}
	if err := c.Remove(f.pack); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("delete: %v", err)
	}
	if err := read(c, "/other/config.json"); err == nil {
		t.Error("read another's configuration")
	}
}

// TestBrokenUploadIsRemoved hangs up in the middle of an upload.
func TestBrokenUploadIsRemoved(t *testing.T) {
	f := newFixture(t)
	here, there := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- serve.Serve(there, f.root, serve.Grant{Prefix: "acme", Rights: serve.Rights{Write: true}})
	}()
	c, err := sftp.NewClientPipe(here, here)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.OpenFile("/acme/tmp/AAAAAAAAAAAAAAAAAAAAAAAAAA", os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	here.Close()
	<-done
	if all, err := os.ReadDir(filepath.Join(f.root, "acme", "tmp")); err != nil || len(all) > 0 {
		t.Errorf("left behind: %v, %v", all, err)
	}
}
