package exec

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// steady is how long a process must have run for its next end to count as a first one.
const steady = 10 * time.Second

// replica keeps one replica of a service running: it starts or adopts the process and starts it again when it ends.
type replica struct {
	engine *Engine
	plan   launch
	stop   chan struct{} // closed: end the process, then done
	once   sync.Once     // closes stop
	done   chan struct{} // closed: nothing keeps the process any more

	mu       sync.Mutex // guards what stands below
	proc     *process   // nil while none runs
	restarts int
	last     string // how the last process ended
	killed   string // why this agent ended the process itself, until it has ended
}

// keep follows p, or starts a process when p is nil, until the replica is stopped or the engine closes. Closing
// leaves the process running.
func (r *replica) keep(p *process) {
	defer close(r.done)
	wait := newBackoff()
	for {
		if p == nil {
			p = r.begin()
		}
		if p != nil && !r.follow(p) {
			return
		}
		if p != nil && time.Since(p.since) > steady {
			wait.Reset()
		}
		p = nil
		if !r.rest(wait.NextBackOff()) {
			return
		}
	}
}

func newBackoff() *backoff.ExponentialBackOff {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval, wait.Multiplier = 200*time.Millisecond, 30*time.Second, 2
	return wait
}

func (r *replica) begin() *process {
	p, err := r.plan.start(r.engine.limits, r.engine.cfg.Point)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.proc = p
	if err != nil {
		r.last = err.Error()
	}
	return p
}

// follow waits until the process ends by itself (true) or is no longer ours to keep (false).
func (r *replica) follow(p *process) bool {
	select {
	case <-p.gone:
		r.note(p)
		return true
	case <-r.stop:
		p.terminate(r.plan.grace)
		r.forget()
		return false
	case <-r.engine.closed:
		return false
	}
}

// rest waits before the next start; false when there will be none.
func (r *replica) rest(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.stop:
		r.forget()
	case <-r.engine.closed:
	}
	return false
}

func (r *replica) note(p *process) {
	r.mu.Lock()
	r.proc = nil
	r.restarts++
	r.last = p.how
	if r.killed != "" {
		r.last, r.killed = r.killed, ""
	}
	last := r.last
	r.mu.Unlock()
	r.engine.died(r.plan, last)
}

// forget leaves no trace of a replica that was stopped on order.
func (r *replica) forget() {
	r.mu.Lock()
	r.proc = nil
	r.mu.Unlock()
	sweep(r.plan.path)
	_ = os.Remove(r.plan.path) // absent when no start succeeded
	r.engine.limits.remove(r.plan.path)
}

// stopping tells whether the replica's end was ordered, perhaps by a call that did not wait for it.
func (r *replica) stopping() bool {
	select {
	case <-r.stop:
		return true
	default:
		return false
	}
}

func (r *replica) running() *process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.proc
}

// tend rotates the log and holds the memory limit where the kernel does not.
func (r *replica) tend(size int64, keep int) {
	if err := rotate(r.plan.log, size, keep); err != nil && !os.IsNotExist(err) {
		r.say("log not rotated: " + err.Error())
	}
	p := r.running()
	if p == nil || r.plan.MemoryMB == 0 || r.engine.limits.holds(r.engine.limits.memory, r.plan.path, p.pid) {
		return
	}
	if used := residentMB(p.pid); used > r.plan.MemoryMB {
		r.mu.Lock()
		r.killed = fmt.Sprintf("killed: used %d MB of the %d MB it may", used, r.plan.MemoryMB)
		r.mu.Unlock()
		p.signal(9)
	}
}

func (r *replica) say(words string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = words
}

// facts is one replica in numbers and words.
type facts struct {
	running  bool
	restarts int
	since    time.Time
	memoryMB int64
	words    []string
}

func (r *replica) facts() facts {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := facts{restarts: r.restarts}
	if r.last != "" {
		f.words = append(f.words, r.name()+": "+r.last)
	}
	if r.proc == nil {
		return f
	}
	f.running, f.since, f.memoryMB = true, r.proc.since, residentMB(r.proc.pid)
	f.words = append(f.words, r.engine.limits.unenforced(r.plan, r.proc.pid)...)
	return f
}

// name is "api.1".
func (r *replica) name() string { return strings.TrimSuffix(filepath.Base(r.plan.path), ".pid") }
