package servers

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast/lab"
)

// bootScript is the power of a server; see its first lines.
//
//go:embed boot.sh
var bootScript []byte

// process is a process of this machine that cannot be mistaken for a later one with the same number.
type process struct {
	PID     int    `json:"pid"`
	Started uint64 `json:"started"` // in clock ticks since the machine's start
}

// stat is what the kernel says of a process: its parent and when it started.
func stat(pid int) (parent int, started uint64, err error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, 0, err
	}
	// The name in parentheses may hold anything, so what follows the last one counts: state, parent, ... start time.
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return 0, 0, os.ErrProcessDone
	}
	if parent, err = strconv.Atoi(fields[1]); err != nil {
		return 0, 0, err
	}
	started, err = strconv.ParseUint(fields[19], 10, 64)
	return parent, started, err
}

func (p process) alive() bool {
	_, started, err := stat(p.PID)
	return p.PID > 0 && err == nil && started == p.Started
}

// childOf finds a child of a process; 0 when it has none.
func childOf(pid int) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("list processes: %w", err)
	}
	for _, entry := range entries {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if parent, _, err := stat(child); err == nil && parent == pid {
			return child, nil
		}
	}
	return 0, nil
}

func (s *Server) powerFile() string { return filepath.Join(s.dir, "power.json") }

// power is the process that keeps the server on; the zero process when it was never started.
func (s *Server) power() process {
	var p process
	raw, err := os.ReadFile(s.powerFile())
	if err != nil || json.Unmarshal(raw, &p) != nil {
		return process{}
	}
	return p
}

// On tells whether the server has power.
func (s *Server) On() bool { return s.power().alive() }

// init is the server's first process, by its number on this machine: the child of the child of its power. It is found
// each time, since a reboot gives another.
func (s *Server) init() (int, error) {
	if p := s.power(); p.alive() {
		waiting, err := childOf(p.PID)
		if err != nil {
			return 0, err
		}
		if waiting > 0 {
			first, err := childOf(waiting)
			if err != nil || first > 0 {
				return first, err
			}
		}
	}
	return 0, fmt.Errorf("server %s is off", s.Name)
}

// switchOn gives the server power and returns once it runs its own first process; it boots then.
func (s *Server) switchOn(ctx context.Context) error {
	if s.On() {
		return nil
	}
	for _, dir := range []string{s.dir, s.mount()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make folder of %s: %w", s.Name, err)
		}
	}
	if err := makeGroup(s.lab.group() + "/" + s.Name); err != nil {
		return err
	}
	settings := s.lab.power(s.Site, s.Name, s.lab.base)
	script := filepath.Join(s.dir, "boot.sh")
	err := errors.Join(os.WriteFile(filepath.Join(s.dir, "settings"), []byte(settings), 0o600), os.WriteFile(script, bootScript, 0o700))
	if err != nil {
		return fmt.Errorf("write boot script of %s: %w", s.Name, err)
	}
	return s.hold(ctx, exec.Command("sh", script, s.dir))
}

// hold starts the process that keeps the server on, remembers which it is, and waits for the server's first process.
// It outlives this process.
func (s *Server) hold(ctx context.Context, cmd *exec.Cmd) error {
	console, err := os.OpenFile(s.Console(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open console of %s: %w", s.Name, err)
	}
	defer console.Close()
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	go func() { _ = cmd.Wait() }() // how it ended stands on its console
	if err := s.remember(cmd.Process.Pid); err != nil {
		return errors.Join(err, cmd.Process.Kill())
	}
	err = lab.Until(ctx, 20*time.Second, 10*time.Millisecond, "start "+s.Name, func() (bool, string) {
		if !s.On() {
			return true, "" // nothing to wait for; told below
		}
		first, err := s.init()
		if err != nil {
			return false, err.Error()
		}
		return programOf(first) == "systemd", "it mounts its file systems"
	})
	if err == nil && !s.On() {
		err = fmt.Errorf("start %s: it went off at once: see %s", s.Name, s.Console())
	}
	return err
}

func (s *Server) remember(pid int) error {
	_, started, err := stat(pid)
	if err != nil {
		return fmt.Errorf("%s has no power: %w: see %s", s.Name, err, s.Console())
	}
	raw, err := json.Marshal(process{PID: pid, Started: started})
	if err != nil {
		return err
	}
	return os.WriteFile(s.powerFile(), raw, 0o600)
}

// programOf is the name of the program that a process runs.
func programOf(pid int) string {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// switchOff takes the server's power: every process ends at once, what was not on its disk is lost. It returns when the
// kernel has let go of its disk.
func (s *Server) switchOff(ctx context.Context) error {
	p := s.power()
	if p.alive() {
		if first, err := s.init(); err == nil {
			_ = syscall.Kill(first, syscall.SIGKILL) // it may have ended already
		} else {
			_ = syscall.Kill(p.PID, syscall.SIGKILL) // between two boots: nothing runs in it
		}
	}
	return s.waitOff(ctx, 20*time.Second)
}

// shutDown lets the server end its services first, as its power button does.
func (s *Server) shutDown(ctx context.Context) error {
	if first, err := s.init(); err == nil {
		const rtmin = 34                                 // as the C library counts; systemd powers off at RTMIN+4
		_ = syscall.Kill(first, syscall.Signal(rtmin+4)) // it may have ended already
	}
	return s.waitOff(ctx, 90*time.Second)
}

func (s *Server) waitOff(ctx context.Context, within time.Duration) error {
	return lab.Until(ctx, within, 20*time.Millisecond, "switch "+s.Name+" off", func() (bool, string) {
		if s.On() {
			return false, "its processes have not ended"
		}
		used, err := output(ctx, "losetup", "-n", "-O", "NAME", "-j", s.disk())
		return err == nil && len(strings.TrimSpace(string(used))) == 0, "its disk is still in use"
	})
}
