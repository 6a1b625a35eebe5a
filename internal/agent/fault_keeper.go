package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
		f.signalAgent(syscall.SIGSTOP)
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
		residue, err := f.undo(ctx, path)
		if err != nil {
			return err
		}
		if f, err = readFault(path); err != nil {
			return err
		}
		f.Residue, f.Undone = residue, time.Now()
		if !f.Woken.IsZero() {
			f.Undone = f.Woken
		}
		if err := writeJSON(path, f); err != nil {
			return err
		}
	}
	if f.Fault == "kill" && !f.Injected.IsZero() {
		return f.startAgent()
	}
	return nil
}

func (f Fault) undo(ctx context.Context, path string) (residue string, err error) {
	switch {
	case f.Fault == "stop" && !f.Injected.IsZero():
		return f.wake(ctx, path)
	case f.Fault == "cut":
		return f.mend(ctx), nil
	}
	return "", nil
}

func (f Fault) mend(ctx context.Context) (residue string) {
	for range 50 {
		_ = exec.Command("nft", "delete", "table", "inet", cutTable(f.ID)).Run() // it may never have been made; the list tells
		tables, err := exec.Command("nft", "list", "tables").CombinedOutput()
		if err == nil && !strings.Contains(string(tables), cutTable(f.ID)) {
			return ""
		}
		residue = "table inet " + cutTable(f.ID) + " of nftables"
		pause(ctx, keeperStep)
	}
	return residue
}

func (f Fault) mark() string { return Mark(f.Node, f.Data) }

// signalAgent reaches the agent that fired the fault, and no process that was given its number since.
func (f Fault) signalAgent(sig syscall.Signal) {
	if start, alive := Started(f.Agent); f.Agent > 0 && alive && start == f.Started {
		_ = syscall.Kill(f.Agent, sig) // it may have ended meanwhile
	}
}

// kill ends the agent before the stacks, so that it cannot start them again. An agent that somebody starts
// meanwhile lives: it finds the fault's file and starts no stack.
func (f Fault) kill() {
	if f.Injected.IsZero() {
		f.signalAgent(syscall.SIGKILL)
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
	log, err := os.OpenFile(filepath.Join(f.Data, "agent-restarted.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
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
		if Paused(pid) {
			paused = append(paused, "paused process "+strconv.Itoa(pid))
		}
	}
	return strings.Join(paused, ", ")
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
