package exec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/agent"
)

// note is the content of run/SERVICE.REPLICA.pid: "PID START BOOT HASH". A PID of 0 means that a start was begun;
// the process, if there is one, is then found by its environment.
type note struct {
	pid   int
	start uint64 // clock ticks since boot
	boot  string
	hash  string // of the launch
}

func readNote(path string) (note, bool) {
	text, err := os.ReadFile(path)
	fields := strings.Fields(string(text))
	if err != nil || len(fields) != 4 {
		return note{}, false
	}
	pid, errPid := strconv.Atoi(fields[0])
	start, errStart := strconv.ParseUint(fields[1], 10, 64)
	return note{pid, start, fields[2], fields[3]}, errPid == nil && errStart == nil
}

// write replaces the note in one piece. It need not survive a power loss: no process does either.
func (n note) write(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	text := fmt.Sprintf("%d %d %s %s\n", n.pid, n.start, n.boot, n.hash)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return fmt.Errorf("write process note: %w", err)
	}
	return os.Rename(path+".new", path)
}

// process is one live service process, started by this agent or by one before it.
type process struct {
	pid   int
	start uint64
	since time.Time
	gone  chan struct{} // closed once the process has ended and its ending is known
	how   string        // the ending in words; read after gone
}

// watch follows a process until it ends. Child is set when the process is our own, which alone gives an exit code.
func watch(pid int, since time.Time, child *os.Process) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	start, alive := agent.Started(pid)
	p := &process{pid: pid, start: start, since: since, gone: make(chan struct{})}
	if !alive && child == nil {
		return nil, errors.Join(fmt.Errorf("process %d has ended", pid), unix.Close(fd))
	}
	go p.await(os.NewFile(uintptr(fd), "pidfd"), child)
	return p, nil
}

// await blocks in the poller, not in a thread, so hundreds of services cost hundreds of goroutines and no more.
func (p *process) await(pidfd *os.File, child *os.Process) {
	defer close(p.gone)
	defer pidfd.Close()
	if conn, err := pidfd.SyscallConn(); err == nil {
		// An error means that the poller cannot follow the file; then ended polls below.
		_ = conn.Read(func(fd uintptr) bool { return ended(int(fd), 0) })
	}
	for fd := int(pidfd.Fd()); !ended(fd, time.Second); {
	}
	p.signal(syscall.SIGKILL) // what the service left in its group holds its ports and files
	p.how = ending(child)
}

func ended(pidfd int, wait time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(wait.Milliseconds()))
	return err == nil && n > 0
}

func ending(child *os.Process) string {
	if child == nil {
		return "ended while adopted, exit code unknown"
	}
	state, err := child.Wait()
	if err != nil {
		return "ended, exit code unknown: " + err.Error()
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return "killed by signal " + status.Signal().String()
	}
	return fmt.Sprintf("ended with exit code %d", state.ExitCode())
}

// signal reaches the whole process group; services lead a session, so the group is theirs alone.
func (p *process) signal(sig syscall.Signal) {
	_ = syscall.Kill(-p.pid, sig) // ESRCH means that the group has ended, which is what the caller waits for
}

// terminate asks the group to end, and ends it after grace. A paused process cannot hear the question: it would only
// do so when somebody wakes it, and work on until then; it is ended as it is.
func (p *process) terminate(grace time.Duration) {
	if agent.Paused(p.pid) {
		grace = 0
	} else {
		p.signal(syscall.SIGTERM)
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.gone:
		return
	case <-timer.C:
	}
	p.signal(syscall.SIGKILL)
	<-p.gone
}

// adopt finds the process that an earlier agent started for the note at path. A number that was given to another
// process since, or that belongs to another run of the machine, is not taken.
func adopt(path string) (*process, note) {
	n, ok := readNote(path)
	boot, err := bootID()
	if !ok || err != nil || n.boot != boot {
		return nil, note{}
	}
	if n.pid == 0 {
		return adoptMarked(path, n)
	}
	if start, alive := agent.Started(n.pid); !alive || start != n.start {
		return nil, note{}
	}
	p, err := watch(n.pid, startTime(n.start), nil)
	if err != nil || p.start != n.start {
		return nil, note{}
	}
	return p, n
}

// adoptMarked finds the leader that was started just before the agent could write its number down.
func adoptMarked(path string, n note) (*process, note) {
	for _, pid := range agent.Marked(runMark(path)) {
		if group, err := syscall.Getpgid(pid); err != nil || group != pid {
			continue
		}
		p, err := watch(pid, time.Now(), nil)
		if err != nil {
			continue
		}
		n.pid, n.start = p.pid, p.start
		return p, n
	}
	return nil, note{}
}

// startTime turns clock ticks since boot into a moment. Ticks are hundredths of a second on every Linux port.
func startTime(ticks uint64) time.Time {
	var info unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &info); err != nil {
		return time.Now()
	}
	booted := time.Now().Add(-time.Duration(info.Nano()))
	return booted.Add(time.Duration(ticks) * 10 * time.Millisecond).Round(10 * time.Millisecond)
}

// sweep ends what dead services left behind: children that outlived their leader while no agent watched.
func sweep(path string) {
	for _, pid := range agent.Marked(runMark(path)) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it ended by itself, or is a new process of ours gone the same way
	}
}

// runMark is the environment entry that ties a process to its note.
func runMark(path string) string { return "HOLDFAST_RUN=" + path }
