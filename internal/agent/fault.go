package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/link"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// A fault is kept by a process of its own, the keeper, started when the fault is armed. The keeper injects it when
// the agent says fire, holds it, ends it and looks whether it really ended: all that goes on when the agent dies,
// which is what one of the faults does. What was agreed lies in faults/ID.json, so that an agent that starts can
// start the keeper again.

// armedFor is how long an armed fault waits to be fired before it is dropped.
const armedFor = time.Hour

// Fault is faults/ID.json: the agreement between agent and keeper. Moments on the boot clock are nanoseconds since
// the machine's boot, which no change of the wall clock moves.
type Fault struct {
	step.FaultArgs
	Node     string    `json:"node"`
	Agent    int       `json:"agent"`   // process of the agent that fired it: a kill ends it first, a pause stops it first
	Started  uint64    `json:"started"` // start of that process: the number alone may be somebody else's by now
	Restart  []string  `json:"restart"` // starts the agent again when a kill is over
	Dir      string    `json:"dir"`     // where Restart runs
	Data     string    `json:"data"`    // of the agent
	Boot     string    `json:"boot"`
	Armed    int64     `json:"armed"` // boot clock
	Fired    int64     `json:"fired"` // boot clock; 0 = not yet
	Injected time.Time `json:"injected,omitzero"`
	Woken    time.Time `json:"woken,omitzero"` // when the first paused stack was let go on
	Undone   time.Time `json:"undone,omitzero"`
	Residue  string    `json:"residue,omitempty"` // what the end did not end
	Words    string    `json:"words,omitempty"`   // why it was not injected
}

// over tells whether the fault must not be active any more.
func (f Fault) over(boot string, now int64) bool {
	if f.Boot != boot || !f.Undone.IsZero() {
		return true
	}
	if f.Fired == 0 {
		return now-f.Armed > int64(armedFor)
	}
	return now-f.Fired >= int64(f.For)
}

var faultID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func (s *Stack) faultDir() string { return filepath.Join(s.cfg.Data, "faults") }

func (s *Stack) faultPath(id string) string { return filepath.Join(s.faultDir(), id+".json") }

// doFault arms, fires or ends a fault.
func (s *Stack) doFault(ctx context.Context, order step.Order) (json.RawMessage, error) {
	return with(order, func(args step.FaultArgs) (any, error) {
		if !faultID.MatchString(args.ID) {
			return nil, problem.New(problem.Invalid, "", "fault %q: that is no name of a drill", args.ID)
		}
		if order.Step.Kind == step.Arm {
			return nil, s.arm(args)
		}
		if order.Step.Kind == step.Fire {
			return nil, s.fire(ctx, args)
		}
		return nil, s.undo(ctx, args)
	})
}

// faultDone tells whether the effect of an order about a fault stands.
func (s *Stack) faultDone(order step.Order) (bool, error) {
	var args step.FaultArgs
	if err := json.Unmarshal(order.Step.Args, &args); err != nil {
		return false, err
	}
	f, err := readFault(s.faultPath(args.ID))
	if errors.Is(err, os.ErrNotExist) {
		return order.Step.Kind == step.Undo, nil
	}
	if order.Step.Kind == step.Arm {
		return err == nil && kept(s.faultPath(args.ID)), err
	}
	if order.Step.Kind == step.Fire {
		return !f.Injected.IsZero(), err
	}
	return !f.Undone.IsZero(), err
}

// arm writes the fault and its end down and starts the keeper. It injects nothing.
func (s *Stack) arm(args step.FaultArgs) error {
	if args.For <= 0 || args.For > 24*time.Hour {
		return problem.New(problem.Invalid, "give the fault an end between a second and a day", "fault %s not armed: it has no end", args.ID)
	}
	if !slices.Contains([]string{"cut", "kill", "stop"}, args.Fault) {
		return problem.New(problem.Invalid, "use cut, kill or stop", "fault %s not armed: %q is not known", args.ID, args.Fault)
	}
	if args.Fault == "cut" {
		args.Allow = append(slices.Clone(args.Allow), s.cfg.Management...)
		if _, err := cutRules(args); err != nil {
			return problem.Wrap(err, problem.Invalid, "give addresses, networks or address:port", "fault %s not armed", args.ID)
		}
	}
	boot, now, err := bootClock()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.faultDir(), 0o700); err != nil {
		return fmt.Errorf("arm fault: %w", err)
	}
	path := s.faultPath(args.ID)
	if _, err := os.Stat(path); err != nil {
		wd, err := os.Getwd()
		if err != nil {
			return fmt.Errorf("arm fault: %w", err)
		}
		f := Fault{FaultArgs: args, Node: s.cfg.Node, Restart: s.cfg.Restart, Dir: wd, Data: s.cfg.Data, Boot: boot, Armed: now}
		if err := writeJSON(path, f); err != nil {
			return err
		}
	}
	return s.keep(path)
}

// keep starts the keeper of a fault unless one is at work, and waits until it is.
func (s *Stack) keep(path string) error {
	if len(s.cfg.Keeper) == 0 {
		return problem.New(problem.Unavailable, "", "fault not armed: node %s has no keeper for it", s.cfg.Node)
	}
	if kept(path) {
		return nil
	}
	command := exec.Command(s.cfg.Keeper[0], append(slices.Clone(s.cfg.Keeper[1:]), path)...)
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	command.Env = WithMark(os.Environ(), "") // else it would meet its own fault
	if err := command.Start(); err != nil {
		return fmt.Errorf("start keeper of fault: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if kept(path) {
			return nil
		}
		select {
		case err := <-ended:
			if f, readErr := readFault(path); kept(path) || readErr == nil && !f.Undone.IsZero() {
				return nil
			}
			return problem.New(problem.Unavailable, "", "fault not armed: its keeper ended at once: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return problem.New(problem.Unavailable, "", "fault not armed: its keeper did not take it up")
}

// fire lets the keeper inject an armed fault and waits until it has. A kill ends this process while it waits.
func (s *Stack) fire(ctx context.Context, args step.FaultArgs) error {
	path := s.faultPath(args.ID)
	f, err := readFault(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && (!f.Undone.IsZero() || !kept(path)) {
		return problem.New(problem.Conflict, "arm it first", "fault %s not fired: it is not armed on node %s", args.ID, s.cfg.Node)
	}
	if err != nil {
		return err
	}
	if f.Fired == 0 {
		if err := s.fireNow(path, f); err != nil {
			return err
		}
	}
	for f.Injected.IsZero() {
		if !pause(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
		if f, err = readFault(path); err != nil {
			return err
		}
		if f.Words != "" {
			return problem.New(problem.Unavailable, "look at nft on the node", "fault %s not injected: %s", args.ID, f.Words)
		}
	}
	return nil
}

// fireNow tells the event before the fault can keep it from being told.
func (s *Stack) fireNow(path string, f Fault) error {
	_, now, err := bootClock()
	if err != nil {
		return err
	}
	event := link.Event{Kind: "fault_fired", Note: f.Fault, At: s.cfg.Now(), Labels: map[string]string{"drill": f.ID, "fault": f.Fault, "for": f.For.String()}}
	if err := s.cfg.Emit(event); err != nil {
		return fmt.Errorf("fire fault %s: %w", f.ID, err)
	}
	f.Fired, f.Agent = now, s.cfg.Process
	f.Started, _ = Started(f.Agent) // it lives: it is this process
	return writeJSON(path, f)
}

// undo ends a fault now.
func (s *Stack) undo(ctx context.Context, args step.FaultArgs) error {
	path := s.faultPath(args.ID)
	if err := os.WriteFile(path+".end", nil, 0o600); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("end fault: %w", err)
	}
	for {
		f, err := readFault(path)
		if errors.Is(err, os.ErrNotExist) || err == nil && !f.Undone.IsZero() {
			return firstOf(s.residue(f), s.tellFaults())
		}
		if err == nil && !kept(path) {
			err = s.keep(path)
		}
		if err != nil {
			return err
		}
		if !pause(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
	}
}

func (s *Stack) residue(f Fault) error {
	if f.Residue == "" {
		return nil
	}
	return problem.New(problem.Partial, "look at the node, and start it anew if need be", "fault %s ended on node %s and left: %s", f.ID, s.cfg.Node, f.Residue)
}

// resumeFaults starts keepers that are gone. While a kill lasts, this node starts no stack.
func (s *Stack) resumeFaults() {
	for _, path := range s.faultFiles() {
		f, err := readFault(path)
		if err == nil && f.Undone.IsZero() {
			err = s.keep(path)
		}
		if err != nil {
			s.cfg.Log.Error("keep fault", "file", path, "error", err)
		}
	}
	if err := s.tellFaults(); err != nil {
		s.cfg.Log.Error("tell of faults", "error", err)
	}
}

// tellFaults tells of every fault that has ended, and then forgets it.
func (s *Stack) tellFaults() error {
	for _, path := range s.faultFiles() {
		f, err := readFault(path)
		if err != nil || f.Undone.IsZero() {
			continue
		}
		event := link.Event{Kind: "undo_fired", Note: f.Residue, At: f.Undone, Labels: map[string]string{"drill": f.ID, "fault": f.Fault}}
		if f.Fired > 0 {
			if err := s.cfg.Emit(event); err != nil {
				return fmt.Errorf("tell of fault %s: %w", f.ID, err)
			}
		}
		for _, end := range []string{".end", ".lock", wakingEnd, heardEnd, ""} {
			if err := os.Remove(path + end); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("forget fault %s: %w", f.ID, err)
			}
		}
	}
	return nil
}

// held tells whether a fault keeps every stack of the node down.
func (s *Stack) held() bool {
	boot, now, err := bootClock()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(s.faultFiles(), func(path string) bool {
		f, err := readFault(path)
		return err == nil && f.Fault == "kill" && f.Fired > 0 && !f.over(boot, now)
	})
}

// pausedSince tells when a fault paused the stacks of this node, while they are.
func (s *Stack) pausedSince() (since time.Time, paused bool) {
	for _, path := range s.faultFiles() {
		f, err := readFault(path)
		if err == nil && f.Fault == "stop" && !f.Injected.IsZero() && f.Woken.IsZero() && f.Undone.IsZero() {
			return f.Injected, true
		}
	}
	return time.Time{}, false
}

func (s *Stack) faultFiles() []string {
	files, err := filepath.Glob(filepath.Join(s.faultDir(), "*.json"))
	if err != nil {
		return nil
	}
	return files
}

// faults names what is armed or active.
func (s *Stack) faults() []string {
	var all []string
	for _, path := range s.faultFiles() {
		if f, err := readFault(path); err == nil && f.Undone.IsZero() {
			word := "armed"
			if f.Fired > 0 {
				word = "active"
			}
			all = append(all, strings.Join([]string{f.ID, f.Fault, word}, " "))
		}
	}
	return all
}

func readFault(path string) (Fault, error) {
	var f Fault
	body, err := os.ReadFile(path)
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(body, &f); err != nil {
		return f, fmt.Errorf("read fault %s: %w", filepath.Base(path), err)
	}
	return f, nil
}

// kept tells whether a keeper is at work: it locks a file for as long as it lives.
func kept(path string) bool {
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false
	}
	defer lock.Close()
	asked := unix.Flock_t{Type: unix.F_WRLCK} // only asked for, never taken: a keeper that starts now must get it
	return unix.FcntlFlock(lock.Fd(), unix.F_OFD_GETLK, &asked) == nil && asked.Type != unix.F_UNLCK
}

func bootClock() (boot string, nanoseconds int64, err error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", 0, fmt.Errorf("read boot id: %w", err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return "", 0, fmt.Errorf("read boot clock: %w", err)
	}
	return strings.TrimSpace(string(text)), now.Nano(), nil
}
