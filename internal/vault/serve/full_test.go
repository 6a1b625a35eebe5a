package serve_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"holdfast/internal/vault"
	"holdfast/internal/vault/serve"
	"holdfast/internal/vault/sftp"
	"holdfast/internal/vault/vaulttest"
)

// TestAFullDiskOnTheVault runs its story in a mount namespace of its own, on a file system that is really full: a
// backup that does not fit is refused with the reason, what was there stays whole, and the next one fits once there is
// room.
func TestAFullDiskOnTheVault(t *testing.T) {
	if disk := os.Getenv("HOLDFAST_TEST_SMALL_DISK"); disk != "" {
		fullDisk(t, disk)
		return
	}
	again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAFullDiskOnTheVault$", "-test.v")
	again.Env = append(os.Environ(), "HOLDFAST_TEST_SMALL_DISK="+t.TempDir())
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if id := os.Getuid(); id != 0 {
		again.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		again.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: id, Size: 1}}
		again.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if out, err := again.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestAFullDiskOnTheVault") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func fullDisk(t *testing.T, disk string) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", disk, "tmpfs", 0, "size=6m"); err != nil {
		t.Fatal(err)
	}
	people := vaulttest.NewKey(t)
	store := node(t, disk)
	repo, key, err := vault.Init(t.Context(), store, vault.InitOptions{Instance: "acme", Recipients: []string{people.Public}})
	if err != nil {
		t.Fatal(err)
	}
	small, large := t.TempDir(), t.TempDir()
	noise(t, small, 1<<20)
	noise(t, large, 12<<20)
	first, err := repo.Backup(t.Context(), key, vault.BackupOptions{Sources: []vault.Source{{Name: "d", Path: small}}})
	if err != nil {
		t.Fatal(err)
	}

	_, err = repo.Backup(t.Context(), key, vault.BackupOptions{Sources: []vault.Source{{Name: "d", Path: large}}})
	if err == nil || !errors.Is(err, vault.ErrFull) || !strings.Contains(err.Error(), "the disk of the vault is full") {
		t.Fatalf("a backup that does not fit: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(disk, "acme", "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	snapshots, err := repo.ListSnapshots(t.Context())
	if err != nil || len(snapshots) != 1 || snapshots[0].ID != first.ID {
		t.Fatalf("snapshots are %+v, %v", snapshots, err)
	}
	if err := unix.Mount("small", disk, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Backup(t.Context(), key, vault.BackupOptions{Sources: []vault.Source{{Name: "d", Path: large}}}); err != nil {
		t.Fatalf("with room again: %v", err)
	}
}

func noise(t *testing.T, dir string, n int) {
	t.Helper()
	body := make([]byte, n)
	vaulttest.Noise(uint64(n), body)
	if err := os.WriteFile(filepath.Join(dir, "noise"), body, 0o600); err != nil {
		t.Fatal(err)
	}
}

// node is a store as a node has it: over SFTP, with the right to add.
func node(t *testing.T, root string) vault.Store {
	t.Helper()
	signer := func() ssh.Signer {
		_, private, _ := ed25519.GenerateKey(rand.Reader) // crypto/rand ends the program instead of failing
		s, err := ssh.NewSignerFromKey(private)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	host, mine, ready, done := signer(), signer(), make(chan net.Addr, 1), make(chan error, 1)
	ctx, end := context.WithCancel(context.Background())
	l := &serve.Listener{Addr: "127.0.0.1:0", Root: root, HostKey: host, Ready: func(a net.Addr) { ready <- a },
		Authorize: func(string, ssh.PublicKey) (serve.Grant, bool) {
			return serve.Grant{Prefix: "acme", Rights: serve.Rights{Write: true}}, true
		}}
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() { end(); <-done })
	store, err := sftp.Open(t.Context(), sftp.Config{Addr: (<-ready).String(), User: "acme", Path: "/acme", Patience: 10 * time.Second,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(mine)}, HostKey: ssh.FixedHostKey(host.PublicKey())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}
