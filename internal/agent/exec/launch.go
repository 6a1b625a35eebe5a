package exec

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/fleet"
)

// launch is all that decides how one replica runs; two equal launches need no restart.
type launch struct {
	Program  string
	Digest   string
	Args     []string
	Env      []string // sorted
	Dir      string
	MemoryMB int64
	CPUs     float64

	grace   time.Duration
	log     string
	path    string // of the note
	mark    string // entry of the environment that says whose process it is; see agent.Mark
	adopted string // hash of the launch that an earlier agent started, when it is not this one
}

// plan turns replica n of a service into a launch.
func (e *Engine) plan(slot agent.Slot, service fleet.Service, n int) launch {
	service = slot.Replica(service, n)
	name := service.Name + "." + strconv.Itoa(n)
	l := launch{
		Program: service.Artifact, Digest: service.Digest, Args: service.Command,
		MemoryMB: service.MemoryMB, CPUs: service.CPUs,
		Dir:   filepath.Join(slot.Dir, "work", name),
		grace: service.StopGrace,
		log:   filepath.Join(slot.LogDir(), name+".log"),
		path:  filepath.Join(slot.RunDir(), name+".pid"),
		mark:  e.mark(),
	}
	if l.grace <= 0 {
		l.grace = 10 * time.Second
	}
	l.Env = e.environment(slot, service, l.Dir, map[string]string{
		"HOLDFAST_REPLICA": strconv.Itoa(n),
		"HOLDFAST_RUN":     l.path,
	})
	return l
}

// environment is clean: nothing of the agent's own leaks into a service except the search path.
func (e *Engine) environment(slot agent.Slot, service fleet.Service, dir string, more map[string]string) []string {
	all := map[string]string{
		"PATH":              filepath.Dir(service.Artifact) + ":" + e.cfg.Path,
		"HOME":              dir,
		"LANG":              "C.UTF-8",
		"HOLDFAST_NODE":     e.cfg.Node,
		"HOLDFAST_INSTANCE": slot.Instance,
		"HOLDFAST_SLOT":     slot.Name,
		"HOLDFAST_SERVICE":  service.Name,
	}
	for name, value := range service.Env {
		all[name] = value
	}
	for name, value := range more {
		all[name] = value
	}
	var env []string
	for name, value := range all {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

// as is the launch of a process that was found running under hash.
func (l launch) as(hash string) launch {
	l.adopted = hash
	return l
}

func (l launch) hash() string {
	if l.adopted != "" {
		return l.adopted
	}
	text, err := json.Marshal(l)
	if err != nil {
		panic(err) // a launch holds only texts and numbers
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// start begins the process in a session of its own, with its log as output. The note is written before and after,
// so that an agent killed in between finds the process by its environment.
func (l launch) start(limits limiter, point func(string)) (*process, error) {
	boot, err := bootID()
	if err != nil {
		return nil, fmt.Errorf("read boot id: %w", err)
	}
	if _, stale := readNote(l.path); stale {
		sweep(l.path)
	}
	n := note{boot: boot, hash: l.hash()}
	if err := n.write(l.path); err != nil {
		return nil, err
	}
	point("exec/noted")
	p, err := l.spawn(limits)
	if err != nil {
		return nil, err
	}
	point("exec/started")
	n.pid, n.start = p.pid, p.start
	return p, n.write(l.path)
}

func (l launch) spawn(limits limiter) (*process, error) {
	if err := os.MkdirAll(l.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make working directory: %w", err)
	}
	log, err := openLog(l.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	defer null.Close()
	child, err := os.StartProcess(l.Program, append([]string{l.Program}, l.Args...), &os.ProcAttr{
		Dir: l.Dir, Env: agent.WithMark(l.Env, l.mark), Files: []*os.File{null, log, log}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", l.Program, err)
	}
	limits.apply(l, child.Pid)
	p, err := watch(child.Pid, time.Now(), child)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", l.Program, err)
	}
	return p, nil
}
