package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/lab"
)

// TestTheVaultInTrouble lets the vault go away, hand out a damaged pack, show an old listing, and fill up, one after
// the other. Each is named by the command that meets it, nothing is restored that is wrong, what serves goes on serving
// with all its data, and once the trouble is over the next backup and restore work.
func TestTheVaultInTrouble(t *testing.T) {
	disk := smallDisk{}
	w := begin(t, 2, func(n *lab.Notes) error { return disk.under(t, n, lab.SiteB+"-vault") })
	v := vaultOf{world: w, c: w.In(lab.SiteA)[0], vault: lab.SiteB + "-vault"}
	w.holdfast("backup", "run", "--all")
	v.goesAway()
	v.corruptsAPack()
	v.servesAnOldListing()
	if disk.missing != "" {
		t.Logf("left out: a vault that is full: %s; TestAFullDiskOnTheVault holds the refusal", disk.missing)
		return
	}
	v.fillsUp()
}

// vaultOf is the vault of one customer.
type vaultOf struct {
	*world
	c     *lab.Customer
	vault string
}

func (v vaultOf) instance() string { return "instance/" + v.c.Instance }

// repository is the folder of the customer's backups, or what lies below it.
func (v vaultOf) repository(below ...string) string {
	return filepath.Join(append([]string{v.Dir, "nodes", v.vault, "vault", v.c.Instance}, below...)...)
}

// goesAway ends the vault's agent: neither a backup nor a restore can be done.
func (v vaultOf) goesAway() {
	v.Helper()
	v.KillAgent(v.vault)
	v.fails("was not opened", "backup", "run", v.instance())
	v.fails("was not opened", "restore", v.instance())
	v.must(v.StartNode(v.vault))
	v.overWith("a vault that went away")
}

// corruptsAPack flips one bit in every pack.
func (v vaultOf) corruptsAPack() {
	v.Helper()
	packs, err := filepath.Glob(v.repository("packs", "*"))
	v.must(err)
	if len(packs) == 0 {
		v.Fatal("there is no pack to damage")
	}
	for _, pack := range packs {
		v.must(flip(pack))
	}
	v.fails("damaged", "restore", v.instance())
	for _, pack := range packs {
		v.must(flip(pack))
	}
	v.overWith("a damaged pack")
}

// flip turns the bit in the middle of a file over; doing it again undoes it. Packs are read-only, for root as well.
func flip(path string) error {
	bytes, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	bytes[len(bytes)/2] ^= 1
	return errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, bytes, 0o400))
}

// servesAnOldListing puts back what the repository was before the newest snapshot.
func (v vaultOf) servesAnOldListing() {
	v.Helper()
	old, new := filepath.Join(v.TempDir(), "old"), filepath.Join(v.TempDir(), "new")
	v.must(os.CopyFS(old, os.DirFS(v.repository())))
	v.must(v.c.Add(v.ctx, "only-in-the-newest"))
	v.holdfast("backup", "run", v.instance())
	v.must(os.CopyFS(new, os.DirFS(v.repository())))
	v.replace(old)
	v.fails("snapshot", "restore", v.instance())
	v.replace(new)
	v.overWith("an old listing")
}

// replace puts another repository in the place of the customer's.
func (v vaultOf) replace(with string) {
	v.Helper()
	v.must(os.RemoveAll(v.repository()))
	v.must(os.CopyFS(v.repository(), os.DirFS(with)))
}

// fillsUp leaves no room on the vault's disk; what is there can be restored.
func (v vaultOf) fillsUp() {
	v.Helper()
	filler := filepath.Join(v.Dir, "nodes", v.vault, "vault", "filler")
	v.must(fill(filler))
	v.must(v.c.Add(v.ctx, "does-not-fit"))
	v.fails("the disk of the vault is full", "backup", "run", v.instance())
	v.must(os.Remove(filler))
	v.overWith("a full vault")
}

// fill writes to a file until there is no room at all.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// fails types a command that must end with a reason in which want stands, and looks whether the customer noticed.
func (v vaultOf) fails(want string, args ...string) {
	v.Helper()
	out, err := v.Notes.Run(v.ctx, args...)
	said := out + fmt.Sprint(err)
	if err == nil || !strings.Contains(said, want) || !strings.Contains(said, v.c.Instance) {
		v.Fatalf("holdfast %s: want a failure that names %s and says %q: %v\n%s", strings.Join(args, " "), v.c.Instance, want, err, out)
	}
	v.whole("after holdfast "+strings.Join(args, " "), v.c)
}

// overWith looks whether all is well again after a trouble.
func (v vaultOf) overWith(what string) {
	v.Helper()
	v.must(v.AllSeen(v.ctx))
	v.holdfast("backup", "run", v.instance())
	v.holdfast("restore", v.instance())
	v.whole("after "+what, v.c)
}

// smallDisk is a file system of its own for a vault; missing says why there can be none.
type smallDisk struct{ missing string }

// under mounts one where the vault keeps its repositories.
func (d *smallDisk) under(t *testing.T, n *lab.Notes, vault string) error {
	dir := filepath.Join(n.Dir, "nodes", vault, "vault")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("holdfast-vault", dir, "tmpfs", 0, "size=32m,mode=0700"); err != nil {
		d.missing = "mount a small disk: " + err.Error()
		return nil
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil { // the vault's agent may still have files open
			t.Errorf("take the small disk away: %v", err)
		}
	})
	return nil
}
