package e2e_test

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"holdfast/lab"
)

// victim is who is killed at a boundary.
type victim string

const (
	serverKilled victim = "server"
	agentKilled  victim = "agent"
)

// TestKillAtEveryStepBoundary kills the control plane, and then the agent that works, with SIGKILL at every event of a
// deploy, a backup and a restore: each ends as if it had not been interrupted, with one copy of the instance and all
// its data.
func TestKillAtEveryStepBoundary(t *testing.T) {
	w := begin(t, 2)
	c := w.Customers[0]
	same := func() *lab.Customer { return c }
	for _, who := range []victim{serverKilled, agentKilled} {
		w.atEveryBoundary("deploy", who, w.newcomer, func(*lab.Customer) operation {
			return w.start("apply", "-f", w.Fleet, "--yes", "--detach")
		})
		w.atEveryBoundary("backup", who, same, func(c *lab.Customer) operation {
			return w.start("backup", "run", "instance/"+c.Instance, "--detach")
		})
		w.atEveryBoundary("restore", who, same, func(c *lab.Customer) operation {
			return w.start("restore", "instance/"+c.Instance, "--detach")
		})
	}
}

// newcomer declares a customer that was not there before, on a node of its own choice.
func (w *world) newcomer() *lab.Customer {
	w.Helper()
	w.newcomers++
	c := &lab.Customer{Instance: fmt.Sprintf("newcomer%d", w.newcomers), Site: lab.SiteA}
	w.must(w.DeclareCustomer(w.ctx, c))
	w.Admit(c)
	return c
}

// atEveryBoundary runs the operation again and again, each time with a kill one event later, until it ends before.
func (w *world) atEveryBoundary(name string, who victim, whose func() *lab.Customer, start func(*lab.Customer) operation) {
	w.Helper()
	for n := 1; ; n++ {
		c := whose()
		o := start(c)
		at, killed := w.atEvent(o.ID, n, func(e event) { w.kill(who, e, c) })
		if !killed {
			w.Logf("%s: the %s was killed at each of %d events", name, who, n-1)
			return
		}
		w.revive(who)
		what := fmt.Sprintf("%s, %s killed at event %d (%s %s)", name, who, n, at.Step, at.State)
		if end := w.ended(o.ID); end.State != "done" {
			w.Fatalf("%s: it ended %s: %s", what, end.State, end.Why)
		}
		w.whole(what, c)
	}
}

func (w *world) start(args ...string) operation {
	w.Helper()
	var o operation
	w.must(w.JSON(w.ctx, &o, args...))
	return o
}

// kill kills the server, or the agent of the event's node; an event without a node is about where the instance is.
func (w *world) kill(who victim, e event, c *lab.Customer) {
	w.Helper()
	if who == serverKilled {
		w.KillServer()
		return
	}
	node := e.Node
	for _, up := range w.copies(c.Instance) {
		node = up
	}
	if node == "" {
		node = c.Site + "-n1"
	}
	w.KillAgent(node)
}

func (w *world) revive(who victim) {
	w.Helper()
	if who == serverKilled {
		w.must(w.StartServer(w.ctx))
		return
	}
	w.must(w.StartDead())
}

// whole checks that the instance serves, from exactly one place, with everything that was ever acknowledged before
// its newest snapshot.
func (w *world) whole(what string, c *lab.Customer) {
	w.Helper()
	if err := c.WaitServes(w.ctx, time.Minute); err != nil {
		w.Fatalf("%s: %v", what, err)
	}
	found, err := c.Verify(w.ctx, time.Now())
	if err != nil {
		w.Fatalf("%s: %v", what, err)
	}
	if len(found.Missing) > 0 {
		w.Fatalf("%s: missing %s", what, strings.Join(found.Missing, ", "))
	}
	w.must(lab.Until(w.ctx, 30*time.Second, 100*time.Millisecond, what+": one copy of "+c.Instance, func() (bool, string) {
		up := w.copies(c.Instance)
		return len(up) == 1, fmt.Sprintf("it is up on %v", up)
	}))
}

// hunted is who is killed again and again while an operation runs.
type hunted struct {
	name   string
	kill   func()
	revive func()
}

func (w *world) theServer() hunted {
	return hunted{"server", w.KillServer, func() { w.must(w.StartServer(w.ctx)) }}
}

// theAgents are those of one end of an operation: of all nodes that may be it.
func (w *world) theAgents(end string, nodes ...string) hunted {
	kill := func() {
		for _, node := range nodes {
			w.KillAgent(node)
		}
	}
	return hunted{end, kill, func() {
		for _, node := range nodes {
			w.must(w.StartNode(node))
		}
	}}
}

// TestHuntThroughRecoveryAndHome kills one party at every event of the recovery of a lost site, and another at every
// event of the move back: the control plane, and the agent of each end that a step has. Nobody gets far: each is killed
// again at the next event that it lives to see. Every time the instance is rebuilt with all its data, once, and the
// dead site is fenced when it comes back. The backup and the restore in place are hunted at the end that
// TestKillAtEveryStepBoundary leaves out, the vault.
func TestHuntThroughRecoveryAndHome(t *testing.T) {
	w := begin(t, 2)
	c := w.In(lab.SiteA)[0]
	here := []string{lab.SiteA + "-n1", lab.SiteA + "-n2"}
	there := []string{lab.SiteB + "-n1", lab.SiteB + "-n2"}
	vault := w.theAgents("vault's agent", lab.SiteB+"-vault")
	for _, round := range []struct{ away, home hunted }{
		{w.theServer(), w.theServer()},
		{w.theAgents("target's agent", there...), w.theAgents("source's agent", there...)},
		{vault, w.theAgents("target's agent", here...)},
		{w.theAgents("edge's agent", "edge1"), vault},
	} {
		w.through("backup", c, w.start("backup", "run", "instance/"+c.Instance, "--detach"), vault)
		w.recoverHunted(round.away, c)
		w.back(c)
		w.through("move home", c, w.start("apply", "-f", w.Fleet, "--home", "--yes", "--detach"), round.home)
	}
	w.through("restore", c, w.start("restore", "instance/"+c.Instance, "--detach"), vault)
}

// through hunts the victim through an operation and looks at what came of it.
func (w *world) through(name string, c *lab.Customer, o operation, who hunted) {
	w.Helper()
	what := fmt.Sprintf("%s, %s killed at every event", name, who.name)
	n := w.hunt(o.ID, who)
	if end := w.ended(o.ID); end.State != "done" {
		w.Fatalf("%s: it ended %s: %s", what, end.State, end.Why)
	}
	w.once(what, o.ID)
	w.whole(what, c)
	w.Logf("%s: %d kills", what, n)
}

// hunt kills the victim at the first event that tells of a step in a state, of every step and state, and starts it
// again each time, until the operation has ended.
func (w *world) hunt(id string, who hunted) (kills int) {
	w.Helper()
	seen := map[string]bool{}
	for {
		_, killed := w.watch(id, func(e event) bool {
			boundary := e.Step + " " + e.State
			if seen[boundary] {
				return false
			}
			seen[boundary] = true
			who.kill()
			return true
		})
		switch {
		case !killed && !seen[" done"]:
			w.Fatalf("operation %s was not watched to its end: seen %v", id, seen)
		case !killed:
			return len(seen)
		}
		who.revive()
	}
}

// once checks that every step of the operation that was done was done once.
func (w *world) once(what, id string) {
	w.Helper()
	done := map[string]int{}
	w.watch(id, func(e event) bool {
		if e.Step != "" && e.State == "done" {
			done[e.Step]++
		}
		return false
	})
	if len(done) == 0 {
		w.Fatalf("%s: no step was done", what)
	}
	for step, times := range done {
		if times != 1 {
			w.Fatalf("%s: step %s was done %d times", what, step, times)
		}
	}
}

// recoverHunted loses the site and recovers it.
func (w *world) recoverHunted(who hunted, c *lab.Customer) {
	w.Helper()
	o, ended := w.loseAndRecover()
	w.through("recovery", c, o, who)
	ended()
}

// loseAndRecover loses the site and begins its recovery; ended waits until that is over.
func (w *world) loseAndRecover() (o operation, ended func()) {
	w.Helper()
	_, err := w.LoseSite(w.ctx, lab.SiteA)
	w.must(err)
	recovering := w.Command(w.ctx, "recover", "lose-"+lab.SiteA, "--yes", "--force")
	w.must(recovering.Start())
	var open []operation
	w.must(lab.Until(w.ctx, 30*time.Second, 50*time.Millisecond, "begin the recovery", func() (bool, string) {
		err := w.JSON(w.ctx, &open, "op", "list", "--open", "--kind", "recover")
		return err == nil && len(open) == 1, fmt.Sprint(err)
	}))
	return open[0], func() {
		w.Helper()
		_ = recovering.Wait() // what counts is what the server says of it
		w.must(lab.Until(w.ctx, 3*time.Minute, 200*time.Millisecond, "end the recovery", func() (bool, string) {
			var runs []struct{ Phase string }
			err := w.JSON(w.ctx, &runs, "drill", "list")
			return err == nil && len(runs) > 0 && runs[0].Phase == "done", fmt.Sprint(err, runs)
		}))
	}
}

// TestKillDuringRecovery kills the control plane, and then the agents that restore, at one moment of a recovery and
// leaves them alone for the rest of it. The moments are spread over it; with HOLDFAST_E2E=full they are all that there
// are.
func TestKillDuringRecovery(t *testing.T) {
	w := begin(t, 2)
	c := w.In(lab.SiteA)[0]
	first, step, last := 9, 7, 16
	if os.Getenv("HOLDFAST_E2E") == "full" {
		first, step, last = 1, 1, math.MaxInt
	}
	for _, who := range []victim{serverKilled, agentKilled} {
		for n, killed := first, true; killed && n <= last; n += step {
			w.holdfast("backup", "run", "instance/"+c.Instance)
			killed = w.recoverWithKill(who, n, c)
			w.goHome(c)
		}
	}
}

// recoverWithKill loses the site, recovers, and kills at the nth event, if there is one.
func (w *world) recoverWithKill(who victim, n int, c *lab.Customer) (killed bool) {
	w.Helper()
	o, ended := w.loseAndRecover()
	at, killed := w.atEvent(o.ID, n, func(e event) {
		if who == agentKilled && !strings.HasPrefix(e.Node, lab.SiteB) {
			e.Node = lab.SiteB + "-n1"
		}
		w.kill(who, e, &lab.Customer{Instance: "nobody", Site: lab.SiteB})
	})
	if killed {
		w.reviveSite(who)
	}
	what := fmt.Sprintf("recovery, %s killed at event %d (%s %s)", who, n, at.Step, at.State)
	if end := w.ended(o.ID); end.State != "done" {
		w.Fatalf("%s: it ended %s: %s", what, end.State, end.Why)
	}
	w.once(what, o.ID)
	w.whole(what, c)
	ended()
	return killed
}

// reviveSite starts what was killed on purpose, and leaves the lost site lost.
func (w *world) reviveSite(who victim) {
	w.Helper()
	if who == serverKilled {
		w.must(w.StartServer(w.ctx))
		return
	}
	w.must(w.StartDeadOf(lab.SiteB))
}

// goHome brings the lost site back and applies the fleet, which moves the instance to where it is declared.
func (w *world) goHome(c *lab.Customer) {
	w.Helper()
	w.back(c)
	w.holdfast("apply", "-f", w.Fleet, "--home", "--yes")
	w.whole("moved home", c)
}

// back brings the lost site back and waits until its stale copy is fenced.
func (w *world) back(c *lab.Customer) {
	w.Helper()
	w.must(w.ReturnSite(lab.SiteA))
	w.must(lab.Until(w.ctx, time.Minute, 100*time.Millisecond, "fence the stale copy", func() (bool, string) {
		up := w.copies(c.Instance)
		return len(up) == 1 && strings.HasPrefix(up[0], lab.SiteB), fmt.Sprintf("it is up on %v", up)
	}))
	w.must(w.AllSeen(w.ctx))
}
