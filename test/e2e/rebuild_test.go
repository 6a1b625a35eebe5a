package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/lab"
)

// TestServerLostWithItsDisk deletes all that the control plane has, while customers write. It is rebuilt from a vault's
// copy of its kit, the nodes' own records, the vaults and the fleet files: nobody is cut off meanwhile, the plan is then
// empty, and snapshots from before the loss can be restored by the custodian, on the node where the instance was and on
// one where it was before.
func TestServerLostWithItsDisk(t *testing.T) {
	w := begin(t, 3)
	w.holdfast("backup", "run", "--all")
	moved := w.Customers[0]
	home := w.copies(moved.Instance)[0]
	away := lab.SiteA + "-n1"
	if home == away {
		away = lab.SiteA + "-n2"
	}
	w.holdfast("restore", "instance/"+moved.Instance, "--to", away) // a copy that is fenced stays behind
	w.must(moved.WaitServes(w.ctx, time.Minute))
	old := w.loseServer(w.Customers)
	w.refuses("plan", "-f", w.Fleet)
	w.holdfast("adopt")
	w.holdfast("plan", "-f", w.Fleet) // exit code 0: nothing to do
	w.holdfast("apply", "-f", w.Fleet, "--yes")
	for _, c := range w.Customers {
		w.whole("after the server was rebuilt", c)
		w.holdfast("backup", "run", "instance/"+c.Instance)
		w.holdfast("restore", "instance/"+c.Instance, "--snapshot", old[c.Instance])
		w.must(c.WaitServes(w.ctx, time.Minute))
	}
	w.holdfast("backup", "run", "instance/"+moved.Instance)
	w.holdfast("restore", "instance/"+moved.Instance, "--to", home)
	w.whole("restored to where it was before", moved)
	w.holdfast("plan", "-f", w.Fleet)
	w.holdfast("audit", "verify")
}

// loseServer deletes the control plane's disk and rebuilds it up to the point where it has adopted nothing. It returns
// the newest snapshot of each customer from before.
func (w *world) loseServer(customers []*lab.Customer) map[string]string {
	w.Helper()
	old := map[string]string{}
	for _, c := range customers {
		var snapshots []struct {
			ID string `json:"id"`
		}
		w.must(w.JSON(w.ctx, &snapshots, "backup", "list", "instance/"+c.Instance))
		old[c.Instance] = snapshots[0].ID
	}
	kits := []string{filepath.Join(w.Dir, "nodes", lab.SiteA+"-vault", "server.kit"), filepath.Join(w.Dir, "nodes", lab.SiteB+"-vault", "server.kit")}
	w.must(lab.Until(w.ctx, 30*time.Second, 100*time.Millisecond, "see the kit in both vaults", func() (bool, string) {
		for _, kit := range kits {
			if _, err := os.Stat(kit); err != nil {
				return false, err.Error()
			}
		}
		return true, ""
	}))
	known, err := os.ReadFile(filepath.Join(w.Dir, "server", "admin.json")) // the operator has it elsewhere
	w.must(err)
	w.KillServer()
	w.must(os.RemoveAll(filepath.Join(w.Dir, "server")))
	w.KillAgent("edge1") // agents that start meanwhile go on with what they have
	w.must(w.StartDead())
	server := []string{"server", "rebuild", "--data", filepath.Join(w.Dir, "server"), "--key-file", filepath.Join(w.Dir, "server.key")}
	for _, kit := range kits {
		server = append(server, "--kit", kit)
	}
	out, err := w.Command(w.ctx, server...).CombinedOutput()
	if err != nil {
		w.Fatalf("rebuild: %v\n%s", err, out)
	}
	w.must(os.WriteFile(filepath.Join(w.Dir, "server", "admin.json"), known, 0o600))
	w.must(w.StartServer(w.ctx))
	w.must(w.AllSeen(w.ctx))
	for _, c := range customers {
		if err := c.Serves(w.ctx); err != nil {
			w.Fatalf("%s was cut off while the server was away: %v", c.Instance, err)
		}
	}
	return old
}

// refuses types a command that must not succeed before the server has adopted.
func (w *world) refuses(args ...string) {
	w.Helper()
	out, err := w.Notes.Run(w.ctx, args...)
	if said := fmt.Sprint(out, err); err == nil || !strings.Contains(said, "holdfast adopt") {
		w.Fatalf("holdfast %s, before adopting: %v\n%s", strings.Join(args, " "), err, out)
	}
}
