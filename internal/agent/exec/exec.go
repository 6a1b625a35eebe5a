// Package exec is the engine that runs a slot's services as supervised processes, without containers and without root.
//
// Words: a launch is all that decides how one replica of a service runs; its note (run/SERVICE.REPLICA.pid) says
// which process was started for it; a replica is kept by one goroutine, which starts, adopts and restarts.
//
// The agent itself is the supervisor. A supervisor process for each service would cost more memory than most
// services and would need one of its own; instead nothing of a service hangs on the agent (own session, log files
// opened by the service itself, no pipes), so that a killed agent costs restarts only until the next one adopts
// what runs.
//
// Invariant: at most one process runs for a note. It is written before the start, carries the process's number,
// start and boot after it, and is trusted only while all three hold; a start that was cut short is found again by
// the environment entry HOLDFAST_RUN. Every process carries agent.Mark, so that all of a node can be found.
package exec

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/problem"
)

// Config is what an Engine needs to know of its node.
type Config struct {
	Node       string             // name of the node, put into every process's environment
	Data       string             // data directory of the node, by which its processes are told from those of others
	Address    string             // where services listen; "" = 127.0.0.1
	Path       string             // search path of services; "" = the usual system folders
	LogSize    int64              // bytes after which a log is rotated; 0 = 10 MiB
	LogKeep    int                // rotated logs kept; 0 = 3
	ControlDir string             // root of the control groups; "" = /sys/fs/cgroup, "none" = use none
	Tend       time.Duration      // how often logs and memory are looked at; 0 = 2 seconds
	Emit       func(link.Event)   // service_died
	Point      func(point string) // called between the effects of a start; tests stop there
}

// Engine runs services as processes. It implements agent.Engine.
type Engine struct {
	cfg    Config
	limits limiter
	closed chan struct{}
	ended  sync.WaitGroup

	mu       sync.Mutex // guards what stands below
	replicas map[string]*replica
	slots    map[string]*sync.Mutex // one Up or Down at a time for each slot directory
	digests  map[string]string      // of artefacts, by path, size and time of change
}

// New makes an engine. Close stops its care, not the processes.
func New(cfg Config) *Engine {
	cfg = withDefaults(cfg)
	e := &Engine{
		cfg: cfg, closed: make(chan struct{}), replicas: map[string]*replica{},
		slots: map[string]*sync.Mutex{}, digests: map[string]string{},
	}
	if cfg.ControlDir != "none" {
		e.limits = findLimiter(cfg.ControlDir, cfg.Node)
	}
	e.ended.Go(e.tend)
	return e
}

func withDefaults(cfg Config) Config {
	if cfg.Address == "" {
		cfg.Address = "127.0.0.1"
	}
	if cfg.Path == "" {
		cfg.Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	if cfg.LogSize == 0 {
		cfg.LogSize = 10 << 20
	}
	if cfg.LogKeep == 0 {
		cfg.LogKeep = 3
	}
	if cfg.ControlDir == "" {
		cfg.ControlDir = "/sys/fs/cgroup"
	}
	if cfg.Tend == 0 {
		cfg.Tend = 2 * time.Second
	}
	if cfg.Emit == nil {
		cfg.Emit = func(link.Event) {}
	}
	if cfg.Point == nil {
		cfg.Point = func(string) {}
	}
	return cfg
}

// Close ends the engine's care for its processes and leaves them running; the next engine adopts them.
func (e *Engine) Close() {
	close(e.closed)
	e.ended.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.replicas {
		<-r.done
	}
}

func (e *Engine) tend() {
	ticker := time.NewTicker(e.cfg.Tend)
	defer ticker.Stop()
	for {
		select {
		case <-e.closed:
			return
		case <-ticker.C:
		}
		for _, r := range e.all() {
			r.tend(e.cfg.LogSize, e.cfg.LogKeep)
		}
	}
}

func (e *Engine) all() []*replica {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*replica, 0, len(e.replicas))
	for _, r := range e.replicas {
		all = append(all, r)
	}
	return all
}

func (e *Engine) mark() string { return agent.Mark(e.cfg.Node, e.cfg.Data) }

func (e *Engine) died(plan launch, how string) {
	mark := func(name string) string {
		for _, entry := range plan.Env {
			if value, ok := strings.CutPrefix(entry, name+"="); ok {
				return value
			}
		}
		return ""
	}
	e.cfg.Emit(link.Event{
		Kind: "service_died", Instance: mark("HOLDFAST_INSTANCE"), Note: how, At: time.Now(),
		Labels: map[string]string{"service": mark("HOLDFAST_SERVICE"), "slot": mark("HOLDFAST_SLOT"), "replica": mark("HOLDFAST_REPLICA")},
	})
}

// Check refuses a spec whose artefacts are absent, not executable or not of the pinned digest.
func (e *Engine) Check(_ context.Context, spec fleet.Spec) error {
	for _, service := range spec.Services {
		if err := e.checkArtifact(spec, service); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) checkArtifact(spec fleet.Spec, service fleet.Service) error {
	refuse := func(hint, why string) error {
		return problem.New(problem.Invalid, hint, "instance %s, service %s: artefact %q on node %s %s",
			spec.Instance, service.Name, service.Artifact, e.cfg.Node, why)
	}
	if !filepath.IsAbs(service.Artifact) {
		return refuse("give the absolute path of the program under x-holdfast.artifact", "is not an absolute path")
	}
	info, err := os.Stat(service.Artifact)
	if errors.Is(err, os.ErrNotExist) {
		return refuse("put the program of "+spec.Release+" on the node", "is missing")
	}
	if err != nil {
		return fmt.Errorf("look at artefact %s: %w", service.Artifact, err)
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return refuse("chmod +x "+service.Artifact, "is not an executable file")
	}
	digest, err := e.digest(service, info)
	if err != nil {
		return err
	}
	if service.Digest != "" && digest != service.Digest {
		return refuse("put the pinned program on the node, or make a new release",
			fmt.Sprintf("has digest %s, the release pins %s", digest, service.Digest))
	}
	return nil
}

func (e *Engine) digest(service fleet.Service, info os.FileInfo) (string, error) {
	if service.Digest == "" {
		return "", nil
	}
	key := fmt.Sprintf("%s %d %d", service.Artifact, info.Size(), info.ModTime().UnixNano())
	e.mu.Lock()
	known := e.digests[key]
	e.mu.Unlock()
	if known != "" {
		return known, nil
	}
	file, err := os.Open(service.Artifact)
	if err != nil {
		return "", fmt.Errorf("open artefact: %w", err)
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", fmt.Errorf("read artefact: %w", err)
	}
	digest := "sha256:" + hex.EncodeToString(sum.Sum(nil))
	e.mu.Lock()
	defer e.mu.Unlock()
	e.digests[key] = digest
	return digest, nil
}

// Up brings the slot's services, or those named, to the spec.
func (e *Engine) Up(ctx context.Context, slot agent.Slot, only ...string) error {
	defer e.lock(slot.Dir)()
	wanted := slot.Wanted(only)
	for _, service := range wanted {
		if err := e.checkArtifact(slot.Spec, service); err != nil {
			return err
		}
	}
	if err := e.stopOthers(ctx, slot, wanted, len(only) == 0); err != nil {
		return err
	}
	for _, service := range wanted {
		if err := e.upService(ctx, slot, wanted, service); err != nil {
			return err
		}
	}
	return nil
}

// stopOthers stops, dependants first, what runs differently from the spec; with extras also what the spec no
// longer names.
func (e *Engine) stopOthers(ctx context.Context, slot agent.Slot, wanted []fleet.Service, extras bool) error {
	keep := map[string]bool{}
	var stop []*replica
	for _, service := range slices.Backward(wanted) {
		for n := max(1, service.Replicas); n >= 1; n-- {
			plan := e.plan(slot, service, n)
			keep[plan.path] = true
			if r := e.find(plan); r != nil && (r.plan.hash() != plan.hash() || r.stopping()) {
				stop = append(stop, r)
			}
		}
	}
	if extras {
		stop = append(e.extras(slot, keep), stop...)
	}
	return e.stop(ctx, stop)
}

// extras finds replicas of the slot that the spec no longer names, also those only a note tells of.
func (e *Engine) extras(slot agent.Slot, keep map[string]bool) []*replica {
	notes, err := filepath.Glob(filepath.Join(slot.RunDir(), "*.pid"))
	if err != nil {
		return nil
	}
	var extra []*replica
	for _, path := range notes {
		if keep[path] {
			continue
		}
		if r := e.find(launch{path: path, grace: 10 * time.Second}); r != nil {
			extra = append(extra, r)
			continue
		}
		sweep(path)
		_ = os.Remove(path) // its process is gone, and so may be the note
	}
	return extra
}

func (e *Engine) upService(ctx context.Context, slot agent.Slot, wanted []fleet.Service, service fleet.Service) error {
	for _, need := range service.Needs {
		other, ok := slot.Service(need.Service)
		among := slices.ContainsFunc(wanted, func(s fleet.Service) bool { return s.Name == need.Service })
		if !ok || !among || !need.Ready {
			continue
		}
		if err := slot.AwaitReady(ctx, e.Run, e.cfg.Address, other); err != nil {
			return e.notReady(slot, service, other, err)
		}
	}
	for n := 1; n <= max(1, service.Replicas); n++ {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		plan := e.plan(slot, service, n)
		if e.find(plan) == nil {
			e.adopt(plan, nil, 0)
		}
	}
	return nil
}

func (e *Engine) notReady(slot agent.Slot, service, needed fleet.Service, err error) error {
	log := filepath.Join(slot.LogDir(), needed.Name+".1.log")
	return problem.Wrap(err, problem.Unavailable, "read "+log+"; its last words: "+lastLine(log),
		"instance %s: %s was not started, as %s did not become ready", slot.Instance, service.Name, needed.Name)
}

func lastLine(log string) string {
	lines := strings.Split(strings.TrimSpace(tail(log, 2048)), "\n")
	return lines[len(lines)-1]
}

// find gives the replica that keeps the plan's process; it adopts what an earlier agent started, and gives nil when
// nothing runs.
func (e *Engine) find(plan launch) *replica {
	e.mu.Lock()
	r := e.replicas[plan.path]
	e.mu.Unlock()
	if r != nil {
		return r
	}
	p, n := adopt(plan.path)
	if p == nil {
		return nil
	}
	plan = plan.as(n.hash)
	return e.adopt(plan, p, 0)
}

// adopt begins to keep p, or a process still to be started when p is nil.
func (e *Engine) adopt(plan launch, p *process, restarts int) *replica {
	r := &replica{engine: e, plan: plan, stop: make(chan struct{}), done: make(chan struct{}), proc: p, restarts: restarts}
	e.mu.Lock()
	defer e.mu.Unlock()
	if other := e.replicas[plan.path]; other != nil {
		return other
	}
	e.replicas[plan.path] = r
	go r.keep(p)
	return r
}

// Down stops the slot's services, or those named, dependants first. The data stays.
func (e *Engine) Down(ctx context.Context, slot agent.Slot, only ...string) error {
	defer e.lock(slot.Dir)()
	var stop []*replica
	keep := map[string]bool{}
	for _, service := range slices.Backward(slot.Wanted(only)) {
		for n := max(1, service.Replicas); n >= 1; n-- {
			plan := e.plan(slot, service, n)
			keep[plan.path] = true
			if r := e.find(plan); r != nil {
				stop = append(stop, r)
			} else if _, stale := readNote(plan.path); stale {
				sweep(plan.path)
				_ = os.Remove(plan.path) // its process is gone, and so may be the note
			}
		}
	}
	if len(only) == 0 {
		stop = append(e.extras(slot, keep), stop...)
	}
	return e.stop(ctx, stop)
}

// stop ends replicas one after another. A context that ends does not leave a process half stopped: it goes on to
// its end by itself.
func (e *Engine) stop(ctx context.Context, replicas []*replica) error {
	for _, r := range replicas {
		r.once.Do(func() { close(r.stop) })
		select {
		case <-r.done:
		case <-ctx.Done():
			return fmt.Errorf("stop %s: %w", r.name(), ctx.Err())
		}
		e.drop(r)
	}
	return nil
}

func (e *Engine) drop(r *replica) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.replicas[r.plan.path] == r {
		delete(e.replicas, r.plan.path)
	}
}

// Status tells what runs, adopting what an earlier agent started; it starts nothing.
func (e *Engine) Status(ctx context.Context, slot agent.Slot) ([]fleet.ServiceFacts, error) {
	var all []fleet.ServiceFacts
	for _, service := range slot.Spec.Services {
		all = append(all, e.statusOf(ctx, slot, service))
	}
	return all, nil
}

func (e *Engine) statusOf(ctx context.Context, slot agent.Slot, service fleet.Service) fleet.ServiceFacts {
	status := fleet.ServiceFacts{Name: service.Name, Wanted: max(1, service.Replicas)}
	var words []string
	for n := 1; n <= status.Wanted; n++ {
		r := e.find(e.plan(slot, service, n))
		if r == nil {
			continue
		}
		f := r.facts()
		status.Restarts += f.restarts
		words = append(words, f.words...)
		if !f.running {
			continue
		}
		status.Running++
		status.MemoryMB += f.memoryMB
		if status.Since.Before(f.since) {
			status.Since = f.since
		}
	}
	status.Ready = status.Running == status.Wanted
	for n := 1; n <= status.Wanted && status.Ready; n++ {
		if err := slot.Ask(ctx, e.Run, e.cfg.Address, service, n, service.Readiness); err != nil {
			status.Ready = false
			words = append(words, "not ready: "+err.Error())
		}
	}
	slices.Sort(words)
	status.Note = strings.Join(slices.Compact(words), "; ")
	return status
}

// Run executes command with the service's environment, in its working directory.
func (e *Engine) Run(ctx context.Context, slot agent.Slot, command fleet.Command, in io.Reader, out io.Writer) error {
	service, ok := slot.Service(command.Service)
	if !ok || len(command.Args) == 0 {
		return fmt.Errorf("run beside %q: no such service, or no command", command.Service)
	}
	timeout := command.Timeout
	if timeout <= 0 {
		timeout = 10 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd, words := e.command(ctx, slot, service, command)
	cmd.Stdin, cmd.Stdout = in, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s beside %s: %w: %s", command.Args[0], service.Name, errors.Join(err, ctx.Err()), strings.TrimSpace(words.String()))
	}
	return nil
}

func (e *Engine) command(ctx context.Context, slot agent.Slot, service fleet.Service, command fleet.Command) (*exec.Cmd, *bytes.Buffer) {
	plan := e.plan(slot, service, 1)
	env := e.environment(slot, slot.Replica(service, 1), plan.Dir, nil)
	words := &bytes.Buffer{}
	cmd := exec.CommandContext(ctx, lookPath(command.Args[0], env), command.Args[1:]...)
	cmd.Env, cmd.Dir = agent.WithMark(env, e.mark()), slot.Dir
	cmd.Stderr = &capped{to: words, left: 4096}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	return cmd, words
}

// lookPath finds a program in the search path of env, not in the agent's own.
func lookPath(program string, env []string) string {
	if strings.Contains(program, "/") {
		return program
	}
	for _, entry := range env {
		path, ok := strings.CutPrefix(entry, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(path) {
			if info, err := os.Stat(filepath.Join(dir, program)); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return filepath.Join(dir, program)
			}
		}
	}
	return program
}

// capped keeps the first bytes written to it and drops the rest.
type capped struct {
	to   *bytes.Buffer
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	c.to.Write(p[:n])
	return len(p), nil
}

// lock serialises changes of one slot and gives the unlock.
func (e *Engine) lock(dir string) func() {
	e.mu.Lock()
	slot, ok := e.slots[dir]
	if !ok {
		slot = &sync.Mutex{}
		e.slots[dir] = slot
	}
	e.mu.Unlock()
	slot.Lock()
	return slot.Unlock
}
