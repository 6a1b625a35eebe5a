package agent_test

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/fleet"
	"holdfast/internal/problem"
	"holdfast/internal/secret"
	"holdfast/internal/step"
	"holdfast/internal/vault"
	"holdfast/internal/vault/disk"
)

// vaultNode is a node that keeps the world's one repository, of acme.
func (w *world) vaultNode(name string) *node {
	w.Helper()
	n := w.node(name)
	n.leave()
	n.kept = &agent.KeptRepositories{
		Names: func(context.Context) ([]string, error) { return []string{"acme"}, nil },
		Open: func(_ context.Context, instance string) (vault.Store, error) {
			if instance != "acme" {
				return disk.Open(filepath.Join(n.dir, "nothing", instance)), nil
			}
			return disk.Open(filepath.Join(n.dir, "vault")), nil
		},
	}
	n.start()
	return n
}

// A vault lets go by the instance's rules, keeps what was proven even by its own word, and says exactly what is left.
// The node that backs up goes on as before, and what is left can be restored.
func TestPruneOnTheVault(t *testing.T) {
	w := newWorld(t)
	n, kept := w.node("a1"), w.vaultNode("vb")
	spec := w.spec("acme")
	n.deploy(spec, 1)
	n.awaitState("acme", fleet.StateRunning)
	var made []step.BackupResult
	for _, line := range []string{"one", "two", "three", "four"} {
		n.fill("acme", "s1", line)
		made = append(made, n.backup(spec, 1))
	}
	rules := step.PruneArgs{KeepDaily: 1, KeepLast: 1, Hold: time.Hour, Proven: map[string]time.Time{made[1].Snapshot: time.Now()}}
	for range 2 { // an order that is done again does no more
		var result step.PruneResult
		kept.unmarshal(kept.do(step.Prune, "acme", 1, rules), &result)
		want := []string{made[1].Snapshot, made[3].Snapshot}
		slices.Sort(want)
		slices.Sort(result.Snapshots)
		if !slices.Equal(result.Snapshots, want) {
			t.Fatalf("the vault holds %v, want the proven and the newest, %v", result.Snapshots, want)
		}
		rules.Proven = nil // the repository knows it by now
	}
	n.restore(spec, "s2", 1, made[1])
	if got := n.holds("acme", "s2"); got != "data=[one two] db=[one two] docs=one two" {
		t.Errorf("after the prune the proven snapshot holds %s", got)
	}
	if err := n.refused(step.Fetch, "acme", 1, n.fetchArgs(spec, "s3", made[0])); problem.KindOf(err) != problem.NotFound {
		t.Errorf("a snapshot that was let go: %v", err)
	}
	n.fill("acme", "s2", "five")
	n.backup(spec, 1)
}

func TestPruneThatIsRefused(t *testing.T) {
	w := newWorld(t)
	kept, plain := w.vaultNode("vb"), w.node("a1")
	rules := step.PruneArgs{KeepDaily: 1, KeepLast: 1}
	if err := plain.refused(step.Prune, "acme", 1, rules); problem.KindOf(err) != problem.Invalid || err.Error() != "node a1 is no vault" {
		t.Errorf("on a node that keeps nothing: %v", err)
	}
	if err := kept.refused(step.Prune, "acme", 1, step.PruneArgs{}); problem.KindOf(err) != problem.Invalid {
		t.Errorf("by rules that keep nothing: %v", err)
	}
	if err := kept.refused(step.Prune, "other", 1, rules); problem.KindOf(err) != problem.NotFound {
		t.Errorf("of an instance without a repository: %v", err)
	}
}

// A backup that is told to changes the writer key and the epoch first. Done again after a crash it goes on with the
// epoch that it had begun; what was written before and after can be restored.
func TestBackupRotatesKeyAndEpoch(t *testing.T) {
	w := newWorld(t)
	n := w.node("a1")
	spec := w.spec("acme")
	n.deploy(spec, 1)
	n.awaitState("acme", fleet.StateRunning)
	n.fill("acme", "s1", "one")
	first := n.backup(spec, 1)
	again := func(key []byte, rotate bool) (made step.BackupResult) {
		t.Helper()
		args := step.BackupArgs{Spec: spec, Rotate: rotate, Custodians: []string{n.custodian.Recipient().String()}}
		plain, err := secret.OpenBytes(n.custodian, key)
		if err != nil {
			t.Fatal(err)
		}
		if args.Repository.WriterKey, err = secret.SealBytes(n.identity.Recipient().String(), plain); err != nil {
			t.Fatal(err)
		}
		n.unmarshal(n.do(step.Backup, "acme", 1, args), &made)
		return made
	}
	n.fill("acme", "s1", "two")
	if made := again(first.WriterKey, false); len(made.WriterKey) > 0 || len(n.epochs()) != 1 {
		t.Fatalf("a backup that was not told to rotate: epochs %v", n.epochs())
	}
	rotated := again(first.WriterKey, true)
	twice := again(first.WriterKey, true)
	if len(rotated.WriterKey) == 0 || len(twice.WriterKey) == 0 || len(n.epochs()) != 2 {
		t.Fatalf("two orders to rotate one key made epochs %v", n.epochs())
	}
	n.fill("acme", "s1", "three")
	last := again(rotated.WriterKey, false)
	if len(last.WriterKey) > 0 || len(n.epochs()) != 2 {
		t.Errorf("the new key is not written with: epochs %v", n.epochs())
	}
	n.restore(spec, "s2", 1, last)
	if got := n.holds("acme", "s2"); got != "data=[one two three] db=[one two three] docs=one two three" {
		t.Errorf("restored over two epochs: %s", got)
	}
}

// epochs are those of the world's repository.
func (w *world) epochs() []vault.EpochInfo {
	w.Helper()
	repository, err := vault.Open(w.Context(), disk.Open(filepath.Join(w.dir, "vault")))
	if err != nil {
		w.Fatal(err)
	}
	all, err := repository.Epochs(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	return all
}
