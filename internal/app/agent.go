package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"holdfast/internal/agent"
	"holdfast/internal/agent/docker"
	"holdfast/internal/agent/exec"
	"holdfast/internal/check"
	"holdfast/internal/edge"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/problem"
)

// Agent is how a node's process is to run.
type Agent struct {
	Self    agent.Self
	Dir     string // data directory
	Token   string // join token; needed until the node has joined
	Version string
	Engines []string // exec, docker; the first that can run a spec runs it
	Ports   agent.PortRange
	Limits  agent.Limits
	Edge    edge.Settings // role edge; Dir is set here
	Vault   VaultSettings // role vault
	Log     *slog.Logger
}

// nodeProcess is the parts of a running agent.
type nodeProcess struct {
	Agent
	journal *agent.Journal
	spool   *agent.Spool
	config  agent.Config
	core    atomic.Pointer[agent.Agent]       // nil until the parts are put together
	runs    []func(ctx context.Context) error // beside the core
	closes  []func()
}

// RunAgent runs a node's process until ctx ends. What it started for customers goes on without it.
func RunAgent(ctx context.Context, a Agent) error {
	dir, err := filepath.Abs(a.Dir)
	if err != nil {
		return fmt.Errorf("find the data directory: %w", err)
	}
	a.Dir = dir // processes are marked with it
	unlock, err := lockDir(a.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	if a.Self.Address == "" {
		a.Self.Address = outward(a.Self.Server)
	}
	collectRarely(agentFloor)
	p := &nodeProcess{Agent: a}
	defer p.close()
	for _, part := range []func(context.Context) error{p.enter, p.remember, p.stacks, p.prober, p.vault} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return p.run(ctx)
}

func (p *nodeProcess) close() {
	for _, end := range slices.Backward(p.closes) {
		end()
	}
}

// run runs the core and the parts beside it; the first that fails ends all.
func (p *nodeProcess) run(ctx context.Context) error {
	e := p.edge()
	core, err := agent.New(p.config)
	if err != nil {
		return err
	}
	p.core.Store(core)
	if e != nil {
		e.certify = core.Certify
		p.runs = append(p.runs, e.Run)
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range p.runs {
		group.Go(func() error { return part(ctx) })
	}
	group.Go(func() error { return core.Run(ctx) })
	p.Log.Info("agent started", "node", p.Self.Node, "version", p.Version, "server", p.Self.Server)
	err = group.Wait()
	p.Log.Info("agent stopped", "node", p.Self.Node)
	return err
}

// lockDir keeps a second agent out of a data directory. The lock goes with the process, however it ends.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "agent.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(problem.New(problem.Busy, "stop the other agent, or give this one its own --data",
			"the agent did not start: another agent runs on %s", dir), file.Close())
	}
	return func() { _ = file.Close() }, nil // nothing was written to it
}

// outward is the address of this machine on the way to the server; "" when there is none.
func outward(server string) string {
	at, err := url.Parse(server)
	if err != nil {
		return ""
	}
	conn, err := net.Dial("udp", net.JoinHostPort(at.Hostname(), "443")) // sends nothing: it only asks the kernel for the way
	if err != nil {
		return ""
	}
	defer func() { _ = conn.Close() }() // nothing was sent
	host, _, _ := net.SplitHostPort(conn.LocalAddr().String())
	return host
}

// enter joins, or finds that the node has joined. A server that is not there yet is waited for.
func (p *nodeProcess) enter(ctx context.Context) (err error) {
	for {
		p.config.Identity, err = agent.Enter(ctx, p.Dir, p.Self, p.Token, p.Version, time.Now)
		if kind := problem.KindOf(err); kind != problem.Unreachable && kind != problem.Unavailable {
			return err
		}
		p.Log.Warn("did not join yet; trying again", "server", p.Self.Server, "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second + rand.N(2*time.Second)):
		}
	}
}

// remember opens the journal and the spool on it.
func (p *nodeProcess) remember(ctx context.Context) error {
	journal, moved, err := agent.OpenJournal(ctx, p.Dir)
	if err != nil {
		return err
	}
	p.closes = append(p.closes, func() {
		if err := journal.Close(); err != nil {
			p.Log.Warn("journal was not closed", "error", err)
		}
	})
	p.journal, p.spool = journal, agent.NewSpool(journal, time.Now)
	p.config = agent.Config{
		Self: p.Self, Dir: p.Dir, Identity: p.config.Identity, Journal: journal, Spool: p.spool,
		BootID: uuid.NewString(), Version: p.Version, Now: time.Now, Log: p.Log,
	}
	if moved == "" {
		return nil
	}
	p.Log.Error("the journal was damaged and is moved aside; this node waits for the server's word", "moved_to", moved)
	return p.spool.Event(ctx, link.Event{Kind: "journal_moved", Note: "the journal was damaged and is kept as " + moved})
}

// emit keeps an event.
func (p *nodeProcess) emit(ctx context.Context) func(link.Event) error {
	return func(event link.Event) error {
		defer p.spool.Changed()
		return p.spool.Event(ctx, event)
	}
}

// note keeps an event that nobody offers again: a failure is at least logged.
func (p *nodeProcess) note(ctx context.Context) func(link.Event) {
	emit := p.emit(ctx)
	return func(event link.Event) {
		if err := emit(event); err != nil {
			p.Log.Error("event was not kept", "kind", event.Kind, "note", event.Note, "error", err)
		}
	}
}

// stacks opens the engines and what this node holds.
func (p *nodeProcess) stacks(ctx context.Context) error {
	choices, err := p.engines(ctx)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the program of the agent: %w", err)
	}
	stack, err := agent.NewStack(agent.StackConfig{
		Keeper: []string{self, "undo-timer"}, Restart: append([]string{self}, withoutToken(os.Args[1:])...), Management: management(ctx, p.Self.Server),
		Data: p.Dir, Node: p.Self.Node, Address: p.Self.Address, Engines: choices, Ports: p.Ports, Limits: p.Limits,
		Seal: p.config.Identity.Unseal, ReplyTo: p.config.Identity.ReplyTo, Stores: openStore(p.config.Identity.SSH),
		Kept: p.kept(), Emit: p.emit(ctx), Changed: p.spool.Changed, Log: p.Log, Ask: p.ask,
	})
	if err != nil {
		return err
	}
	p.config.Steps, p.config.Settings.Leases = stack, stack.Leases
	p.config.Facts = append(p.config.Facts, stack.Facts)
	p.runs = append(p.runs, stack.Run)
	return nil
}

// ask has the server say anew who serves what.
func (p *nodeProcess) ask(ctx context.Context) error {
	core := p.core.Load()
	if core == nil {
		return problem.New(problem.Unavailable, "", "the agent has just begun")
	}
	return core.Ask(ctx)
}

// withoutToken leaves the join token out of a command line: it is spent once the node has joined, and what starts the
// agent again is kept on disk.
func withoutToken(args []string) []string {
	var left []string
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--join":
			i++
		case !strings.HasPrefix(args[i], "--join="):
			left = append(left, args[i])
		}
	}
	return left
}

// management is every address of the server, which a cut of this node's network always allows.
func management(ctx context.Context, server string) []string {
	at, err := url.Parse(server)
	if err != nil {
		return nil
	}
	addresses, err := net.DefaultResolver.LookupHost(ctx, at.Hostname())
	if err != nil {
		return nil // a cut then says that it is given no way to manage the node
	}
	return addresses
}

// warn logs what could not be closed.
func (p *nodeProcess) warn(what string, err error) {
	if err != nil {
		p.Log.Warn(what+" was not closed", "error", err)
	}
}

func (p *nodeProcess) engines(ctx context.Context) (choices []agent.EngineChoice, err error) {
	for _, name := range p.Engines {
		switch name {
		case "exec":
			engine := exec.New(exec.Config{Node: p.Self.Node, Data: p.Dir, Address: p.Self.Address, Emit: p.note(ctx)})
			p.closes = append(p.closes, engine.Close)
			choices = append(choices, agent.EngineChoice{Name: name, Engine: engine})
		case "docker":
			engine, err := docker.New(ctx, docker.Config{Node: p.Self.Node, Data: p.Dir, Address: p.Self.Address, Emit: p.note(ctx), Log: p.Log})
			if err != nil {
				return nil, err
			}
			p.closes = append(p.closes, func() { p.warn("docker engine", engine.Close()) })
			choices = append(choices, agent.EngineChoice{Name: name, Engine: engine, Contained: true})
		default:
			return nil, problem.New(problem.Usage, "--engine exec,docker", "the agent did not start: there is no engine %q", name)
		}
	}
	return choices, nil
}

// prober asks checks from here, when that is a role of this node.
func (p *nodeProcess) prober(ctx context.Context) error {
	if !slices.Contains(p.Self.Roles, fleet.RoleProbe) {
		return nil
	}
	results := make(chan link.Result, resultsAtOnce)
	prober := check.NewProber(func(result link.Result) {
		select {
		case results <- result:
		case <-ctx.Done():
		}
	})
	p.config.Settings.Probes = func(_ context.Context, probes link.ProbesSetting) error {
		prober.Set(probes)
		return nil
	}
	p.runs = append(p.runs, prober.Run, func(ctx context.Context) error { return p.keepResults(ctx, results) })
	return nil
}

// resultsAtOnce is how many results are kept in one go, at most.
const resultsAtOnce = 1000

// keepResults keeps what the prober has seen. All that has come meanwhile shares one flush of the disk, so that a slow
// disk does not make the prober late.
func (p *nodeProcess) keepResults(ctx context.Context, results <-chan link.Result) error {
	for {
		var batch []link.Result
		select {
		case <-ctx.Done():
			return nil
		case first := <-results:
			batch = append(batch, first)
		}
		for len(results) > 0 && len(batch) < resultsAtOnce {
			batch = append(batch, <-results)
		}
		if err := p.spool.Results(ctx, batch...); err != nil && ctx.Err() == nil {
			p.Log.Error("results were not kept", "results", len(batch), "error", err)
		}
	}
}

// edge keeps the edge process of this node, when that is a role of it.
func (p *nodeProcess) edge() *edgePart {
	if !slices.Contains(p.Self.Roles, fleet.RoleEdge) {
		return nil
	}
	settings := p.Edge
	settings.Dir, settings.Version = filepath.Join(p.Dir, "edge"), p.Version
	if settings.Listen == "" && settings.Plain == "" {
		settings.Listen = net.JoinHostPort(p.Self.Address, "443")
	}
	e := newEdgePart(edge.Start{Settings: settings}, p.Log)
	p.config.Settings.Routes = e.Routes
	p.config.Facts = append(p.config.Facts, e.Facts)
	return e
}
