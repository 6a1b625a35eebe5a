package exec_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/agent/agenttest"
	"holdfast/internal/agent/exec"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
)

// TestMain lets the test binary be an agent that brings a service up and waits: "agent DIR PROGRAM PORT [POINT]".
func TestMain(m *testing.M) {
	if len(os.Args) >= 5 && os.Args[1] == "agent" {
		beAgent(os.Args[2], os.Args[3], os.Args[4], strings.Join(os.Args[5:], ""))
	}
	os.Exit(m.Run())
}

func beAgent(dir, program, port, point string) {
	engine := exec.New(exec.Config{Node: "n1", Data: dir, ControlDir: "none", Point: func(at string) {
		if at == point {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}})
	number, err := strconv.Atoi(port)
	if err != nil {
		panic(err)
	}
	if err := engine.Up(context.Background(), oneService(dir, program, number)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	select {}
}

func TestEngine(t *testing.T) {
	program := agenttest.Build(t)
	agenttest.RunEngine(t, agenttest.Bench{
		Open:  func(*testing.T) agent.Engine { return exec.New(exec.Config{Node: "n1"}) },
		Leave: func(e agent.Engine) { e.(*exec.Engine).Close() },
		Service: func(name string) fleet.Service {
			return fleet.Service{Name: name, Artifact: program, Command: []string{"serve"}}
		},
		Listen:  func(port int) string { return "127.0.0.1:" + strconv.Itoa(port) },
		State:   func(slot agent.Slot) string { return slot.States["data"] },
		Missing: func(s fleet.Service) fleet.Service { s.Artifact += "-absent"; return s },
	})
}

// oneService is a slot with one API.
func oneService(dir, program string, port int) agent.Slot {
	return agent.Slot{
		Instance: "acme", Name: "s1", Dir: dir, Ports: map[string]int{"api.http": port},
		Spec: fleet.Spec{Instance: "acme", Services: []fleet.Service{{
			Name: "api", Artifact: program, Command: []string{"serve"}, Replicas: 1, StopGrace: 5 * time.Second,
			Env:   map[string]string{"LISTEN": "127.0.0.1:" + strconv.Itoa(port), "STATE": dir},
			Ports: []fleet.Port{{Name: "http"}}, Readiness: &fleet.Probe{HTTP: "/ready"},
		}}},
	}
}

// bench is one engine and one service of its own.
type bench struct {
	*testing.T
	slot   agent.Slot
	engine *exec.Engine
	mu     sync.Mutex
	events []link.Event
}

func newBench(t *testing.T, change func(*exec.Config, *fleet.Service)) *bench {
	t.Helper()
	b := &bench{T: t, slot: oneService(t.TempDir(), agenttest.Build(t), freePort(t))}
	cfg := exec.Config{Node: "n1", ControlDir: "none", Tend: 20 * time.Millisecond, Emit: func(e link.Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.events = append(b.events, e)
	}}
	change(&cfg, &b.slot.Spec.Services[0])
	b.engine = exec.New(cfg)
	t.Cleanup(func() {
		if err := b.engine.Down(context.Background(), b.slot); err != nil {
			t.Errorf("clean up: %v", err)
		}
		b.engine.Close()
	})
	return b
}

func (b *bench) up() {
	b.Helper()
	if err := b.engine.Up(b.Context(), b.slot); err != nil {
		b.Fatal(err)
	}
	agenttest.Await(b.T, func() bool { return b.status().Ready }, func() string { return fmt.Sprintf("not ready: %+v", b.status()) })
}

func (b *bench) status() fleet.ServiceFacts {
	b.Helper()
	all, err := b.engine.Status(b.Context(), b.slot)
	if err != nil {
		b.Fatal(err)
	}
	return all[0]
}

func (b *bench) get(path string) string {
	b.Helper()
	answer, err := agenttest.Get(b.slot.Ports["api.http"], path)
	if err != nil {
		b.Fatal(err)
	}
	return answer
}

// An agent that is killed with its service running, or in the middle of starting it, leaves one process, which the
// next agent takes over; none is started beside it.
func TestKilledAgent(t *testing.T) {
	program := agenttest.Build(t)
	for _, point := range []string{"", "exec/noted", "exec/started"} {
		t.Run("at "+point, func(t *testing.T) {
			dir, port := t.TempDir(), freePort(t)
			killed := osexec.Command(os.Args[0], "agent", dir, program, strconv.Itoa(port), point)
			if err := killed.Start(); err != nil {
				t.Fatal(err)
			}
			begun := point == "" || point == "exec/started"
			if begun {
				agenttest.Await(t, func() bool { _, err := agenttest.Get(port, "/id"); return err == nil }, func() string { return "the service did not start" })
			}
			_ = killed.Process.Kill() // it may have killed itself
			_ = killed.Wait()         // says only that it was killed
			b := &bench{T: t, slot: oneService(dir, program, port), engine: exec.New(exec.Config{Node: "n1", Data: dir, ControlDir: "none"})}
			t.Cleanup(b.engine.Close)
			before := ""
			if begun {
				before = b.get("/id")
				if b.status().Running != 1 {
					t.Fatalf("the next agent finds %+v", b.status())
				}
			}
			b.up()
			if after := b.get("/id"); begun && after != before {
				t.Error("the next agent started a second process")
			}
			if running := agent.Marked("HOLDFAST_RUN=" + filepath.Join(dir, "run", "api.1.pid")); len(running) != 1 {
				t.Errorf("%d processes run for one replica", len(running))
			}
			if err := b.engine.Down(t.Context(), b.slot); err != nil {
				t.Fatal(err)
			}
			if running := agent.Marked(agent.Mark("n1", dir)); len(running) != 0 {
				t.Errorf("%d processes outlived down", len(running))
			}
		})
	}
}

// A note whose process number was given to somebody else since is not believed, and that somebody is left alone.
func TestReusedNumberIsNotAdopted(t *testing.T) {
	b := newBench(t, func(*exec.Config, *fleet.Service) {})
	stranger := osexec.Command(b.slot.Spec.Services[0].Artifact, "hang")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Process.Kill(); _ = stranger.Wait() }()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	note := filepath.Join(b.slot.Dir, "run", "api.1.pid")
	if err := os.MkdirAll(filepath.Dir(note), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		fmt.Sprintf("%d 12345 %s abc\n", stranger.Process.Pid, strings.TrimSpace(string(boot))), // another start
		fmt.Sprintf("%d 12345 another-boot abc\n", stranger.Process.Pid),
		"no note at all\n",
	} {
		if err := os.WriteFile(note, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if facts := b.status(); facts.Running != 0 {
			t.Errorf("note %q was believed: %+v", text, facts)
		}
	}
	b.up()
	if err := b.engine.Down(t.Context(), b.slot); err != nil {
		t.Fatal(err)
	}
	if err := stranger.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the stranger was ended: %v", err)
	}
}

func TestWhatAServiceLeavesBehindIsEnded(t *testing.T) {
	b := newBench(t, func(*exec.Config, *fleet.Service) {})
	b.up()
	child, err := strconv.Atoi(b.get("/spawn"))
	if err != nil {
		t.Fatal(err)
	}
	id := b.get("/id")
	_, _ = agenttest.Get(b.slot.Ports["api.http"], "/exit?code=4") // the connection breaks, which is the point
	agenttest.Await(t, func() bool {
		got, err := agenttest.Get(b.slot.Ports["api.http"], "/id")
		return err == nil && got != id
	}, func() string { return "not started again" })
	if running := agent.Marked("HOLDFAST_RUN=" + filepath.Join(b.slot.Dir, "run", "api.1.pid")); len(running) != 1 || running[0] == child {
		t.Errorf("processes %v run, child %d was left by the service that ended", running, child)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.events) != 1 || b.events[0].Kind != "service_died" || b.events[0].Note != "ended with exit code 4" || b.events[0].Labels["service"] != "api" {
		t.Errorf("events: %+v", b.events)
	}
}

// The service writes numbered lines through several rotations; read together in order, none is missing.
func TestLogsRotateWithoutLoss(t *testing.T) {
	b := newBench(t, func(cfg *exec.Config, _ *fleet.Service) { cfg.LogSize, cfg.LogKeep = 200_000, 50 })
	b.up()
	b.get("/say?bytes=1000000")
	log := filepath.Join(b.slot.Dir, "logs", "api.1.log")
	agenttest.Await(t, func() bool { info, err := os.Stat(log); return err == nil && info.Size() <= 200_000 }, func() string { return "the log was not rotated" })
	b.get("/say?bytes=1000000")
	agenttest.Await(t, func() bool { info, err := os.Stat(log); return err == nil && info.Size() <= 200_000 }, func() string { return "the log was not rotated again" })
	older, err := filepath.Glob(log + ".*")
	if err != nil || len(older) < 2 {
		t.Fatalf("older logs: %v, %v", older, err)
	}
	var all bytes.Buffer
	for n := len(older); n >= 1; n-- {
		appendFile(t, &all, log+"."+strconv.Itoa(n))
	}
	appendFile(t, &all, log)
	lines := strings.Split(strings.TrimSpace(all.String()), "\n")
	if !strings.HasPrefix(lines[0], "app starts as") || len(lines) != 1+2*15625 {
		t.Fatalf("%d lines, the first is %q", len(lines), lines[0])
	}
	for at, line := range lines[1:] {
		if number, err := strconv.Atoi(line); err != nil || number != at%15625 {
			t.Fatalf("line %d is %q", at, line)
		}
	}
}

func appendFile(t *testing.T, to io.Writer, path string) {
	t.Helper()
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.Write(body); err != nil {
		t.Fatal(err)
	}
}

func TestMemoryIsWatchedWithoutControlGroups(t *testing.T) {
	b := newBench(t, func(_ *exec.Config, s *fleet.Service) { s.MemoryMB, s.CPUs = 100, 0.5 })
	b.up()
	if note := b.status().Note; !strings.Contains(note, "memory limit is watched by the agent") || !strings.Contains(note, "CPU limit is not enforced") {
		t.Errorf("what cannot be enforced is not said: %q", note)
	}
	_, _ = agenttest.Get(b.slot.Ports["api.http"], "/hold?mb=300") // it may not live to answer
	agenttest.Await(t, func() bool { return strings.Contains(b.status().Note, "of the 100 MB it may") }, func() string { return fmt.Sprintf("it was not ended: %+v", b.status()) })
}

func TestControlGroups(t *testing.T) {
	if _, err := os.Stat("/sys/fs/cgroup/memory/cgroup.procs"); err != nil || os.Geteuid() != 0 {
		t.Skip("limits by control groups of version 1 are NOT tested here: that needs root and such groups")
	}
	b := newBench(t, func(cfg *exec.Config, s *fleet.Service) {
		cfg.ControlDir, cfg.Node = "", "test-"+strconv.Itoa(os.Getpid())
		s.MemoryMB, s.CPUs = 100, 0.5
	})
	t.Cleanup(func() {
		for _, controller := range []string{"memory", "cpu"} {
			_ = os.Remove("/sys/fs/cgroup/" + controller + "/holdfast-test-" + strconv.Itoa(os.Getpid()))
		}
	})
	b.up()
	if note := b.status().Note; strings.Contains(note, "limit") {
		t.Fatalf("limits are not enforced: %q", note)
	}
	_, _ = agenttest.Get(b.slot.Ports["api.http"], "/hold?mb=300") // it may not live to answer
	agenttest.Await(t, func() bool { return b.status().Restarts > 0 }, func() string { return fmt.Sprintf("the kernel let it be: %+v", b.status()) })
	if note := b.status().Note; !strings.Contains(note, "killed by signal killed") {
		t.Errorf("it ended otherwise: %q", note)
	}
}

func TestABrokenProgramIsTriedAgain(t *testing.T) {
	b := newBench(t, func(_ *exec.Config, s *fleet.Service) { s.Command = []string{"fail"} })
	if err := b.engine.Up(t.Context(), b.slot); err != nil {
		t.Fatal(err)
	}
	agenttest.Await(t, func() bool { return b.status().Restarts >= 2 }, func() string { return fmt.Sprintf("%+v", b.status()) })
	if note := b.status().Note; !strings.Contains(note, "ended with exit code 3") {
		t.Errorf("status says %q", note)
	}
}
