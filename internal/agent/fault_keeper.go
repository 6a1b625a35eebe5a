package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keeperStep is how often a keeper looks at its file and holds its fault.
const keeperStep = 100 * time.Millisecond

// KeepFault is the keeper of the fault whose file is at path; "holdfast undo-timer FILE" runs it. It returns when the
// fault has ended, or at once when another keeper is at work.
func KeepFault(ctx context.Context, path string) error {
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("keep fault: %w", err)
	}
	defer lock.Close()
	if err := unix.FcntlFlock(lock.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		return nil //nolint:nilerr // another keeper holds it, and one is enough
	}
	for {
		f, err := readFault(path)
		if err != nil {
			return err
		}
		boot, now, err := bootClock()
		if err != nil {
			return err
		}
		if _, ended := os.Stat(path + ".end"); ended == nil || f.over(boot, now) {
			return f.end(ctx, path)
		}
		if f.Fired > 0 {
			if err := f.hold(path); err != nil {
				return err
			}
		}
		if !pause(ctx, keeperStep) {
			return ctx.Err()
		}
	}
}

// hold injects the fault, again and again: what is killed may be started by somebody else meanwhile.
func (f Fault) hold(path string) error {
	var err error
	switch f.Fault {
	case "kill":
		f.kill()
	case "stop":
		signalAll(f.mark(), syscall.SIGSTOP)
	case "cut":
		err = f.cut()
	}
	if err != nil {
		f.Words, f.Undone = err.Error(), time.Now()
		return writeJSON(path, f)
	}
	if !f.Injected.IsZero() {
		return nil
	}
	f.Injected = time.Now()
	return writeJSON(path, f)
}

// end undoes the fault, looks whether it is gone, and says so.
func (f Fault) end(ctx context.Context, path string) error {
	if f.Undone.IsZero() {
		f.Residue = f.undo(ctx)
		f.Undone = time.Now()
		if err := writeJSON(path, f); err != nil {
			return err
		}
	}
	if f.Fault == "kill" && !f.Injected.IsZero() {
		return f.startAgent()
	}
	return nil
}

// agentFirst is how long the agent is awake before its stacks are: what was placed elsewhere meanwhile is fenced while
// it is still paused, and takes no write.
const agentFirst = 3 * time.Second

func (f Fault) undo(ctx context.Context) (residue string) {
	switch f.Fault {
	case "stop":
		_ = syscall.Kill(f.Agent, syscall.SIGCONT) // it may have been started anew, which is as good
		pause(ctx, agentFirst)
		for range 50 {
			signalAll(f.mark(), syscall.SIGCONT)
			if residue = stoppedOf(f.mark()); residue == "" {
				return ""
			}
			pause(ctx, keeperStep)
		}
	case "cut":
		for range 50 {
			_ = exec.Command("nft", "delete", "table", "inet", cutTable(f.ID)).Run() // it may never have been made; the list tells
			tables, err := exec.Command("nft", "list", "tables").CombinedOutput()
			if err == nil && !strings.Contains(string(tables), cutTable(f.ID)) {
				return ""
			}
			residue = "table inet " + cutTable(f.ID) + " of nftables"
			pause(ctx, keeperStep)
		}
	}
	return residue
}

func (f Fault) mark() string { return "HOLDFAST_NODE=" + f.Node }

// kill ends the agent before the stacks, so that it cannot start them again. An agent that somebody starts
// meanwhile lives: it finds the fault's file and starts no stack.
func (f Fault) kill() {
	if f.Injected.IsZero() {
		_ = syscall.Kill(f.Agent, syscall.SIGKILL) // it may have ended already
	}
	signalAll(f.mark(), syscall.SIGKILL)
}

// startAgent starts the agent again, unless somebody has.
func (f Fault) startAgent() error {
	lock, err := lockData(f.Data)
	if err != nil || len(f.Restart) == 0 {
		return nil //nolint:nilerr // an agent is at work again, or nothing is said of how to start one
	}
	if err := lock.Close(); err != nil {
		return err
	}
	command := exec.Command(f.Restart[0], f.Restart[1:]...)
	command.Dir, command.SysProcAttr = f.Dir, &syscall.SysProcAttr{Setsid: true}
	command.Env = append(os.Environ(), f.mark()) // which this process went without, so as not to meet its own fault
	log, err := os.OpenFile(filepath.Join(f.Dir, "agent-restarted.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		defer log.Close()
		command.Stdout, command.Stderr = log, log
	}
	if err := command.Start(); err != nil {
		return fmt.Errorf("start agent of node %s again: %w", f.Node, err)
	}
	return command.Process.Release()
}

func signalAll(mark string, sig syscall.Signal) {
	for _, pid := range Marked(mark) {
		_ = syscall.Kill(pid, sig) // it may have ended meanwhile
	}
}

// stoppedOf names processes that are still paused.
func stoppedOf(mark string) string {
	var paused []string
	for _, pid := range Marked(mark) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		if rest := stat[bytes.LastIndexByte(stat, ')')+1:]; strings.HasPrefix(strings.TrimSpace(string(rest)), "T") {
			paused = append(paused, "paused process "+strconv.Itoa(pid))
		}
	}
	return strings.Join(paused, ", ")
}

// Marked lists live processes whose first environment holds entry, such as "HOLDFAST_NODE=a1": what was started with
// it and whatever that started in turn, in containers too. Processes of other users are seen by root alone.
func Marked(entry string) []int {
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return nil
	}
	var pids []int
	for _, path := range environs {
		environ, err := os.ReadFile(path)
		if err != nil || !slices.Contains(strings.Split(string(environ), "\x00"), entry) {
			continue // a process that has ended has no environment
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// cut loads the rules, whole or not at all; to load them again changes nothing.
func (f Fault) cut() error {
	rules, err := cutRules(f.FaultArgs)
	if err != nil || !f.Injected.IsZero() {
		return err
	}
	command := exec.Command("nft", "-f", "-")
	command.Stdin = strings.NewReader(rules)
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("load rules of cut: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// cutTable names the fault's own table, so that no rule of anybody else is touched.
func cutTable(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "holdfast_" + hex.EncodeToString(sum[:6])
}
