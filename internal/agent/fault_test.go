package agent_test

import (
	"context"
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
	n.leave() // the agent ends; the end of the fault must not hang on it
	agenttest.Await(t, func() bool { return stateOf(pid) != "T" }, func() string { return "the API is still paused" })
	n.start()
	n.awaitTold("undo_fired/0")
	if n.faults() != "" {
		t.Errorf("facts still say %q", n.faults())
	}
}

func TestFaultUndoOnOrder(t *testing.T) {
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

// The agent of this test is the test itself and must not be killed; a child stands in for it.
func TestFaultKillHoldsStacksDown(t *testing.T) {
	w := newWorld(t)
	n := w.node("a1")
	n.deploy(w.spec("acme"), 1)
	n.awaitState("acme", fleet.StateRunning)
	id := n.mustAsk("acme", "/id")
	child := exec.Command(w.program, "hang")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill() }) // it is dead unless the test failed
	args := step.FaultArgs{ID: "drill-3", Fault: "kill", For: 2 * time.Second}
	n.do(step.Arm, "", 0, args)
	path := filepath.Join(w.dir, "a1", "faults", "drill-3.json")
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(body), fmt.Sprintf(`"agent":%d`, os.Getpid()), fmt.Sprintf(`"agent":%d`, child.Process.Pid), 1)
	if changed == string(body) {
		t.Fatalf("the fault does not name its agent: %s", body)
	}
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	n.do(step.Fire, "", 0, args)
	if err := child.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the agent ended with %v", err)
	}
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
