package vault_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/vault"
	"holdfast/internal/vault/disk"
	"holdfast/internal/vault/vaulttest"
)

// TestMain makes this program the one that is killed, when the environment asks for it.
func TestMain(m *testing.M) {
	if os.Getenv("VAULT_DIE_AT") != "" {
		if err := dieAt(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// dieAt does the work of VAULT_WORK and kills itself before or after the nth write.
func dieAt() error {
	n, err := strconv.ParseInt(os.Getenv("VAULT_DIE_AT"), 10, 64)
	if err != nil {
		return err
	}
	var count atomic.Int64
	hook := func(op, _ string) error {
		if (op == "put" || op == "delete") && count.Add(1) == n {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return nil
	}
	store := &vaulttest.Faulty{Store: disk.Open(os.Getenv("VAULT_DIR")), Before: hook}
	if os.Getenv("VAULT_AFTER") != "" {
		store.Before, store.After = nil, hook
	}
	ctx := context.Background()
	switch os.Getenv("VAULT_WORK") {
	case "backup":
		r, err := vault.Open(ctx, store)
		if err != nil {
			return err
		}
		var key vault.WriterKey
		if err := json.Unmarshal([]byte(os.Getenv("VAULT_KEY")), &key); err != nil {
			return err
		}
		_, err = r.Backup(ctx, key, vault.BackupOptions{Sources: []vault.Source{{Name: "data", Path: os.Getenv("VAULT_SRC")}}, Cache: os.Getenv("VAULT_CACHE")})
		return err
	case "prune":
		r, err := vault.Open(ctx, store)
		if err != nil {
			return err
		}
		_, err = r.Prune(ctx, vault.PruneOptions{Keep: vault.Keep{Last: 1}, MaxShare: 1, Now: time.Now()})
		return err
	case "copy":
		r, err := vault.Open(ctx, disk.Open(os.Getenv("VAULT_FROM")))
		if err != nil {
			return err
		}
		_, err = r.Copy(ctx, store, vault.CopyOptions{})
		return err
	}
	return errors.New("no such work")
}

// killed runs work in a process of its own and tells whether it died by our hand. dir is where it writes.
func killed(t *testing.T, work, dir string, at int, after bool, env ...string) bool {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, "VAULT_WORK="+work, "VAULT_DIR="+dir, "VAULT_DIE_AT="+strconv.Itoa(at))...)
	if after {
		cmd.Env = append(cmd.Env, "VAULT_AFTER=1")
	}
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	t.Fatalf("%s died by itself: %v\n%s", work, err, out)
	return false
}

// sound checks a repository with the key, and restores every snapshot that it lists.
func (p *place) sound(t *testing.T, when string) {
	t.Helper()
	ids := p.identities(t, "")
	if report, err := p.repo.Check(t.Context(), vault.CheckOptions{Identities: ids, ReadData: true}); err != nil {
		t.Fatalf("%s: %v: %+v", when, err, report.Findings)
	}
	all, err := p.repo.ListSnapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		info, err := p.repo.Restore(t.Context(), vault.RestoreOptions{Snapshot: s.ID, Identities: ids, To: t.TempDir()})
		if err != nil || info.Bytes != s.Bytes {
			t.Fatalf("%s: restore %s: %v", when, s.Short(), err)
		}
	}
}

func TestKilledAtEveryWriteOfBackup(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	vaulttest.MakeTree(t, src, 3, 25)
	for _, after := range []bool{false, true} {
		for at := 1; ; at++ {
			p := newPlace(t)
			key, err := json.Marshal(p.key)
			if err != nil {
				t.Fatal(err)
			}
			if !killed(t, "backup", p.dir, at, after, "VAULT_KEY="+string(key), "VAULT_SRC="+src, "VAULT_CACHE="+p.cache) {
				if at < 5 {
					t.Fatalf("only %d writes: the test proves nothing", at-1)
				}
				break
			}
			when := fmt.Sprintf("killed at write %d, after %v", at, after)
			p.sound(t, when)
			p.backup(t, vault.Source{Name: "data", Path: src}) // at once: a lock does not outlive its owner
			out := t.TempDir()
			p.restore(t, vault.RestoreOptions{To: out})
			expectSame(t, src, filepath.Join(out, "data"))
		}
	}
}

// TestNothingIsSentTwice kills a backup late and counts what the next one sends.
func TestNothingIsSentTwice(t *testing.T) {
	t.Parallel()
	p, src := newPlace(t), t.TempDir()
	for i := range 6 {
		body := make([]byte, 16<<20)
		vaulttest.Noise(uint64(i), body)
		if err := os.WriteFile(filepath.Join(src, strconv.Itoa(i)), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key, err := json.Marshal(p.key)
	if err != nil {
		t.Fatal(err)
	}
	// Write 1 is the lock, the next ones are packs.
	if !killed(t, "backup", p.dir, 5, true, "VAULT_KEY="+string(key), "VAULT_SRC="+src, "VAULT_CACHE="+p.cache) {
		t.Fatal("it was not killed")
	}
	stored, err := p.store.List(t.Context(), "packs")
	if err != nil {
		t.Fatal(err)
	}
	sum := int64(0)
	for _, o := range stored {
		sum += o.Size
	}
	if len(stored) < 3 {
		t.Fatalf("%d packs were stored before the end", len(stored))
	}
	info := p.backup(t, vault.Source{Name: "data", Path: src})
	if want := info.Bytes - sum + 2<<20; info.AddedBytes > want {
		t.Fatalf("%d bytes were stored, the next run sent %d of %d", sum, info.AddedBytes, info.Bytes)
	}
}

func TestKilledAtEveryWriteOfPrune(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		for at := 1; ; at++ {
			p, src := newPlace(t), t.TempDir()
			for i := range 3 {
				if err := os.WriteFile(filepath.Join(src, "file"), fmt.Appendf(nil, "content %d", i), 0o600); err != nil {
					t.Fatal(err)
				}
				p.backup(t, vault.Source{Name: "data", Path: src})
			}
			if !killed(t, "prune", p.dir, at, after) {
				if at < 6 {
					t.Fatalf("only %d writes: the test proves nothing", at-1)
				}
				break
			}
			p.sound(t, fmt.Sprintf("killed at write %d, after %v", at, after))
			if _, err := p.repo.Prune(t.Context(), vault.PruneOptions{Keep: vault.Keep{Last: 1}, MaxShare: 1, Now: time.Now()}); err != nil {
				t.Fatal(err)
			}
			p.backup(t, vault.Source{Name: "data", Path: src})
			p.sound(t, "after the next prune")
		}
	}
}

func TestKilledAtEveryWriteOfCopy(t *testing.T) {
	t.Parallel()
	p, src := newPlace(t), t.TempDir()
	vaulttest.MakeTree(t, src, 4, 25)
	p.backup(t, vault.Source{Name: "data", Path: src})
	for _, after := range []bool{false, true} {
		p.killCopies(t, after)
	}
}

func (p *place) killCopies(t *testing.T, after bool) {
	t.Helper()
	for at := 1; ; at++ {
		dir := filepath.Join(t.TempDir(), "second")
		if !killed(t, "copy", dir, at, after, "VAULT_FROM="+p.dir) {
			if at < 8 {
				t.Fatalf("only %d writes: the test proves nothing", at-1)
			}
			return
		}
		second := disk.Open(dir)
		if _, err := p.repo.Copy(t.Context(), second, vault.CopyOptions{}); err != nil {
			t.Fatalf("killed at write %d, and copied again: %v", at, err)
		}
		r, err := vault.Open(t.Context(), second)
		if err != nil {
			t.Fatal(err)
		}
		q := *p
		q.repo, q.store = r, second
		q.sound(t, fmt.Sprintf("copy killed at write %d", at))
	}
}
