package e2e_test

import (
	"fmt"
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

// TestKillDuringRecovery kills the control plane, and then an agent that restores, in the middle of the recovery of a
// lost site, at moments spread over it. Every time the instance is rebuilt in the other site, the dead site is fenced
// when it comes back, and an apply moves the instance home.
func TestKillDuringRecovery(t *testing.T) {
	w := begin(t, 2)
	c := w.In(lab.SiteA)[0]
	for _, who := range []victim{serverKilled, agentKilled} {
		for _, n := range []int{2, 9, 16, 23} {
			w.holdfast("backup", "run", "instance/"+c.Instance)
			w.recoverWithKill(who, n, c)
			w.goHome(c)
		}
	}
}

// recoverWithKill loses the site, recovers, and kills at the nth event.
func (w *world) recoverWithKill(who victim, n int, c *lab.Customer) {
	w.Helper()
	_, err := w.LoseSite(w.ctx, lab.SiteA)
	w.must(err)
	recovering := w.Command(w.ctx, "recover", "lose-"+lab.SiteA, "--yes", "--force")
	w.must(recovering.Start())
	defer func() { _ = recovering.Wait() }() // what counts is what the operation came to
	var open []operation
	w.must(lab.Until(w.ctx, 30*time.Second, 50*time.Millisecond, "begin the recovery", func() (bool, string) {
		err := w.JSON(w.ctx, &open, "op", "list", "--open", "--kind", "recover")
		return err == nil && len(open) == 1, fmt.Sprint(err)
	}))
	at, _ := w.atEvent(open[0].ID, n, func(e event) {
		if who == agentKilled && !strings.HasPrefix(e.Node, lab.SiteB) {
			e.Node = lab.SiteB + "-n1"
		}
		w.kill(who, e, &lab.Customer{Instance: "nobody", Site: lab.SiteB})
	})
	w.reviveSite(who)
	what := fmt.Sprintf("recovery, %s killed at event %d (%s %s)", who, n, at.Step, at.State)
	if end := w.ended(open[0].ID); end.State != "done" {
		w.Fatalf("%s: it ended %s: %s", what, end.State, end.Why)
	}
	w.whole(what, c)
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

// goHome brings the lost site back, waits until its stale copy is fenced, and applies the fleet, which moves the
// instance to where it is declared.
func (w *world) goHome(c *lab.Customer) {
	w.Helper()
	w.must(w.ReturnSite(lab.SiteA))
	w.must(lab.Until(w.ctx, time.Minute, 100*time.Millisecond, "fence the stale copy", func() (bool, string) {
		up := w.copies(c.Instance)
		return len(up) == 1 && strings.HasPrefix(up[0], lab.SiteB), fmt.Sprintf("it is up on %v", up)
	}))
	w.must(w.AllSeen(w.ctx))
	w.holdfast("apply", "-f", w.Fleet, "--yes")
	w.whole("moved home", c)
}
