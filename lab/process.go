package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// NodeVariable marks every process that belongs to a node, whoever started it, so that the loss of a node can be
// total: the agent, the edge, and the stacks that outlive both.
const NodeVariable = "HOLDFAST_NODE"

// process is one program of the lab, in its own process group, with its output in a file.
type process struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{}
}

// start runs program with its output appended to logPath. The process does not end with ctx: a lab's processes are
// lost on purpose or taken down by name.
func start(logPath string, env []string, program string, args ...string) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", filepath.Base(program), err)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", program, err), log.Close())
	}
	p := &process{cmd: cmd, log: log, done: make(chan struct{})}
	go p.reap()
	return p, nil
}

func (p *process) reap() {
	_ = p.cmd.Wait() // how it ended stands in its log
	_ = p.log.Close()
	close(p.done)
}

// alive tells whether the process still runs.
func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stop asks the process to end and waits for it, at most grace; then it is killed.
func (p *process) stop(grace time.Duration) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.done:
	case <-time.After(grace):
		_ = p.cmd.Process.Kill() // likewise
		<-p.done
	}
}

// processesOf finds every process on this machine whose environment says that it belongs to node in the lab at dir:
// a stack's environment is its own, but names its data below dir.
func processesOf(node, dir string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		if err != nil {
			continue // it ended, or is another user's
		}
		if hasVariable(env, NodeVariable+"="+node) && bytes.Contains(env, []byte(dir)) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// dirVariable tells the processes of two labs on one machine apart.
const dirVariable = "HOLDFAST_LAB"

func hasVariable(environ []byte, variable string) bool {
	for _, v := range bytes.Split(environ, []byte{0}) {
		if string(v) == variable {
			return true
		}
	}
	return false
}

// killAll sends SIGKILL to every process of the nodes, again and again until none is left: what is being started
// while it looks is found by the next look.
func killAll(ctx context.Context, dir string, nodes ...string) (int, error) {
	killed := map[int]bool{}
	for {
		left := 0
		for _, node := range nodes {
			pids, err := processesOf(node, dir)
			if err != nil {
				return len(killed), err
			}
			for _, pid := range pids {
				left++
				killed[pid] = true
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended already
			}
		}
		if left == 0 {
			return len(killed), nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return len(killed), err
		}
	}
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Until polls ready every step until it is true, and gives its last reason when the deadline passes.
func Until(ctx context.Context, within, step time.Duration, what string, ready func() (bool, string)) error {
	end := time.Now().Add(within)
	for {
		ok, why := ready()
		if ok {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: not within %s: %s", what, within, why)
		}
		if err := pause(ctx, step); err != nil {
			return err
		}
	}
}
