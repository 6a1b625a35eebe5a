package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/agent/agenttest"
	"holdfast/internal/fleet"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// TestMain lets the test binary be the keeper of a fault, as holdfast undo-timer is.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "undo-timer" {
		if err := agent.KeepFault(context.Background(), os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if err := os.RemoveAll(programDir()); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func (n *node) awaitTold(want string) {
	n.Helper()
	agenttest.Await(n.T, func() bool { return strings.HasSuffix(n.told(), want) }, func() string { return fmt.Sprintf("told %q, want ... %q", n.told(), want) })
}

func (n *node) faults() string {
	var facts fleet.NodeFacts
	n.stack.Facts(n.Context(), &facts)
	return strings.Join(facts.Faults, ", ")
}

func TestFaultStopEndsByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node("a1")
	n.deploy(w.spec("acme"), 1)
	n.awaitState("acme", fleet.StateRunning)
	pid, err := strconv.Atoi(n.mustAsk("acme", "/pid"))
	if err != nil {
		t.Fatal(err)
	}
	args := step.FaultArgs{ID: "drill-1", Fault: "stop", For: 1500 * time.Millisecond}
	if err := n.refused(step.Fire, "", 0, args); problem.KindOf(err) != problem.Conflict || err.Error() != "fault drill-1 not fired: it is not armed on node a1" {
		t.Errorf("fired without being armed: %v", err)
	}
	n.do(step.Arm, "", 0, args)
	if state := stateOf(pid); state == "T" || n.faults() != "drill-1 stop armed" {
		t.Errorf("arming injected something: process is %s, facts say %q", state, n.faults())
	}
	n.do(step.Fire, "", 0, args)
	agenttest.Await(t, func() bool { return stateOf(pid) == "T" }, func() string { return "the API is not paused but " + stateOf(pid) })
	agenttest.Await(t, func() bool { return stateOf(pid) != "T" }, func() string { return "the API is still paused" })
	if got := n.mustAsk("acme", "/pid"); got != strconv.Itoa(pid) {
		t.Errorf("the API was started anew as %s, it was only paused", got)
	}
	n.awaitTold("fault_fired/0 undo_fired/0")
	if n.faults() != "" {
		t.Errorf("facts still say %q", n.faults())
	}
}

// paused deploys acme on a node and pauses it.
func (w *world) paused(name string, args step.FaultArgs) (n *node, pid int) {
	w.Helper()
	n = w.node(name)
	n.deploy(w.spec("acme"), 1)
	n.lease("acme", 1, name)
	n.awaitState("acme", fleet.StateRunning)
	pid, err := strconv.Atoi(n.mustAsk("acme", "/pid"))
	if err != nil {
		w.Fatal(err)
	}
	args.Fault = "stop"
	n.do(step.Arm, "", 0, args)
	n.do(step.Fire, "", 0, args)
	agenttest.Await(w.T, func() bool { return stateOf(pid) == "T" }, func() string { return "the API is not paused but " + stateOf(pid) })
	return n, pid
}

// terminated tells whether the API heard that it should end: it can only do so when it runs.
func (n *node) terminated() bool {
	_, err := os.Stat(n.slotPath("acme", "s1", "state/data/terminated"))
	return err == nil
}

// toldAt is when the node says that something happened, the last time.
func (n *node) toldAt(kind string) (at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, event := range n.events {
		if event.Kind == kind {
			at = event.At
		}
	}
	return at
}

// An instance that was given away while its node was paused never wakes: its processes end as they lie, and the account
// says that it served until the pause and not a moment longer.
func TestWhatWasGivenAwayNeverWakes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n, pid := w.paused("a1", step.FaultArgs{ID: "drill-5", For: time.Second})
	injected := time.Now()
	n.word = func(context.Context) error { n.lease("acme", 2, "elsewhere"); return nil }
	n.awaitTold("fault_fired/0 stopped/1 fenced/1 undo_fired/0")
	if alive(pid) || n.terminated() {
		t.Errorf("the API woke before it ended: %s, terminated: %v", stateOf(pid), n.terminated())
	}
	if at := n.toldAt("serving_stopped"); at.After(injected) || at.Before(n.toldAt("fault_fired")) {
		t.Errorf("it is said to have served until %s, it was paused before %s", at, injected)
	}
}

// A node that cannot ask after a pause lets nothing go on: the stacks end, and start when the server has spoken.
func TestPauseEndsWithoutAWord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n, pid := w.paused("a1", step.FaultArgs{ID: "drill-6", For: time.Second})
	n.word = func(context.Context) error { return errors.New("the server is away") }
	n.awaitTold("fault_fired/0 stopped/1 undo_fired/0")
	if alive(pid) || n.terminated() {
		t.Errorf("the API woke: %s, terminated: %v", stateOf(pid), n.terminated())
	}
	n.lease("acme", 1, "a1")
	n.awaitState("acme", fleet.StateRunning)
	if got := n.told(); !strings.HasSuffix(got, "undo_fired/0 started/1") {
		t.Errorf("told %q", got)
	}
}

// The end of a pause does not hang on an agent; without one the stacks end.
func TestPauseEndsWithoutAnAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n, pid := w.paused("a1", step.FaultArgs{ID: "drill-7", For: time.Second})
	n.leave()
	agenttest.Await(t, func() bool { return !alive(pid) }, func() string { return "the API is still " + stateOf(pid) })
	n.start()
	ended := func() bool { // in either order: the new agent reads of one and finds the other
		return strings.Contains(n.told(), "undo_fired/0") && strings.Contains(n.told(), "stopped/1")
	}
	agenttest.Await(t, ended, func() string { return fmt.Sprintf("told %q, want undo_fired/0 and stopped/1", n.told()) })
	n.lease("acme", 1, "a1")
	n.awaitState("acme", fleet.StateRunning)
	if n.terminated() {
		t.Error("the API woke with nobody there to ask for it")
	}
}

// Two nodes of one name on one machine, as in two rehearsals: the fault of one leaves the other alone.
func TestFaultLeavesANamesakeAlone(t *testing.T) {
	t.Parallel()
	other := newWorld(t).node("a1")
	other.deploy(other.spec("acme"), 1)
	other.awaitState("acme", fleet.StateRunning)
	id := other.mustAsk("acme", "/id")
	for _, fault := range []string{"stop", "kill"} {
		w := newWorld(t)
		n := w.node("a1")
		n.deploy(w.spec("acme"), 1)
		n.awaitState("acme", fleet.StateRunning)
		pid, _ := strconv.Atoi(n.mustAsk("acme", "/pid"))
		args := step.FaultArgs{ID: "drill-8", Fault: fault, For: time.Hour}
		n.do(step.Arm, "", 0, args)
		n.do(step.Fire, "", 0, args)
		agenttest.Await(t, func() bool { return stateOf(pid) == "T" || !alive(pid) }, func() string { return "the API still runs" })
		if fault == "kill" {
			agenttest.Await(t, func() bool { return !alive(n.process) }, func() string { return "the agent lives" })
		}
		if got := other.mustAsk("acme", "/id"); got != id || !alive(other.process) {
			t.Errorf("%s hit the other node of that name: API %s was %s, agent is %s", fault, got, id, stateOf(other.process))
		}
		n.do(step.Undo, "", 0, args)
	}
}

// A process that was given the number of an agent that has ended is left alone.
func TestFaultLeavesAReusedNumberAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node("a1")
	args := step.FaultArgs{ID: "drill-9", Fault: "stop", For: time.Hour}
	n.do(step.Arm, "", 0, args)
	n.do(step.Fire, "", 0, args)
	path := filepath.Join(w.dir, "a1", "faults", "drill-9.json")
	agenttest.Await(t, func() bool { return stateOf(n.process) == "T" }, func() string { return "the agent is " + stateOf(n.process) })
	stranger := w.standIn()
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(body), fmt.Sprintf(`"agent":%d`, n.process), fmt.Sprintf(`"agent":%d`, stranger), 1)
	if changed == string(body) {
		t.Fatalf("the fault does not name its agent: %s", body)
	}
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(stranger, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	n.do(step.Undo, "", 0, args)
	if state := stateOf(stranger); state != "T" {
		t.Errorf("the stranger was woken: it is %s", state)
	}
}

func TestFaultUndoOnOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node("a1")
	n.deploy(w.spec("acme"), 1)
	n.awaitState("acme", fleet.StateRunning)
	pid, _ := strconv.Atoi(n.mustAsk("acme", "/pid"))
	args := step.FaultArgs{ID: "drill-2", Fault: "stop", For: time.Hour}
	n.do(step.Arm, "", 0, args)
	n.do(step.Fire, "", 0, args)
	n.do(step.Undo, "", 0, args)
	if state := stateOf(pid); state == "T" || n.faults() != "" {
		t.Errorf("after the undo the process is %s, facts say %q", state, n.faults())
	}
	n.awaitState("acme", fleet.StateRunning)
	n.do(step.Undo, "", 0, args) // again: nothing to do
}

func TestFaultKillHoldsStacksDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node("a1")
	n.deploy(w.spec("acme"), 1)
	n.awaitState("acme", fleet.StateRunning)
	id := n.mustAsk("acme", "/id")
	args := step.FaultArgs{ID: "drill-3", Fault: "kill", For: 2 * time.Second}
	n.do(step.Arm, "", 0, args)
	n.do(step.Fire, "", 0, args)
	agenttest.Await(t, func() bool { return !alive(n.process) }, func() string { return "the agent lives" })
	n.leave()
	n.start()
	n.lease("acme", 1, "a1")
	agenttest.Await(t, func() bool { return strings.Contains(n.told(), "stopped/1") }, func() string { return "told " + n.told() })
	if _, err := n.ask("acme", "/id"); err == nil {
		t.Error("a stack serves while the fault lasts")
	}
	n.awaitState("acme", fleet.StateRunning)
	agenttest.Await(t, func() bool { got, err := n.ask("acme", "/id"); return err == nil && got != id }, func() string { return "the stack did not come back" })
	agenttest.Await(t, func() bool { return strings.Contains(n.told(), "undo_fired") }, func() string { return "told " + n.told() })
	if got := strings.Replace(n.told(), " undo_fired/0", "", 1); got != "started/1 fault_fired/0 stopped/1 started/1" {
		t.Errorf("told %q", got)
	}
}

// The cut is loaded into a network of its own, for which the test must be root.
func TestFaultCut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "drill-4.json")
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"id":"drill-4","fault":"cut","for":2000000000,"allow":["192.0.2.7"],"node":"a1","boot":%q,"armed":%d,"fired":%d}`,
		strings.TrimSpace(string(boot)), bootNow(t), bootNow(t))
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	keeper := exec.Command(os.Args[0], "undo-timer", path)
	keeper.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Geteuid() != 0 {
		t.Skip("cutting a network needs root; the rules are held by TestCutRules")
	}
	if err := keeper.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- keeper.Wait() }()
	tables := func() string {
		out, err := exec.Command("nsenter", "-t", strconv.Itoa(keeper.Process.Pid), "-n", "nft", "list", "ruleset").CombinedOutput()
		if err != nil {
			return err.Error()
		}
		return string(out)
	}
	agenttest.Await(t, func() bool { return strings.Contains(tables(), "192.0.2.7") }, func() string { return "no cut: " + tables() })
	if err := <-ended; err != nil {
		t.Errorf("keeper ended with %v", err)
	}
	fault, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(fault), `"undone"`) || strings.Contains(string(fault), "residue") || strings.Contains(string(fault), "words") {
		t.Errorf("the keeper left %s, %v", fault, err)
	}
}

func stateOf(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "gone"
	}
	return strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[0]
}
