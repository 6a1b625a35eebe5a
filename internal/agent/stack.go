package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"filippo.io/age"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// StackConfig is what the stacks of a node are made of. Data, Node, Engines and Seal must be given.
type StackConfig struct {
	Data       string                      // data directory of the node; stacks live in instances/
	Node       string                      // name of this node
	Address    string                      // where the edge and the probes reach services; "" = 127.0.0.1
	Engines    []EngineChoice              // the first that can run a spec runs it
	Ports      PortRange                   // ports to give to services; zero = 20000 to 29999
	Seal       age.Identity                // opens what is sealed to this node
	Limits     Limits                      // what the node takes
	Canary     time.Duration               // between two ticks; 0 = 2 seconds
	Watch      time.Duration               // between two looks at a stack that is not well; a well one is looked at five times more rarely; 0 = 2 seconds
	Restart    []string                    // command line that starts the agent again after a fault that killed it
	Keeper     []string                    // command that keeps a fault, "holdfast undo-timer"; the fault's file is appended
	Process    int                         // the agent's own process, as a fault finds it; 0 = this one
	Ask        func(context.Context) error // asks the server anew who serves what, and returns once its answer is carried out
	Management []string                    // addresses that a cut always allows: the server's, at least
	ReplyTo    string                      // age recipient of the server: secrets on their way to it are sealed to this
	Stores     OpenStore                   // reaches a repository's store; nil = no backups here
	Kept       *KeptRepositories           // role vault: the repositories of others that this node keeps; nil = none
	Emit       func(link.Event) error      // keeps an event for the server; one that could not be kept is offered again
	Changed    func()                      // the facts are no longer what was told
	Log        *slog.Logger
	Now        func() time.Time
	Point      func(point string) // called between the effects of a step; tests stop there
}

// EngineChoice is an engine of the node.
type EngineChoice struct {
	Name      string // exec or docker
	Engine    Engine
	Contained bool // services see each other by name, and their state where it is mounted
}

// PortRange is a range of TCP ports, both ends included.
type PortRange struct{ From, To int }

// Limits is what a node takes. A zero asks the machine.
type Limits struct {
	MemoryMB     int64
	MaxInstances int   // 0 = only memory and disk decide
	MinFreeMB    int64 // disk that stays free; 0 = 256
}

// Stack holds every instance of this node and does the steps that change them. It implements Steps.
//
// Its directory is instances/NAME/{active.json, slots/sN/{spec.json, secrets, state/, canary/, dumps/, logs/, run/}}.
// What must not be lost is in active.json, replaced in one piece; all else can be made again from an order.
type Stack struct {
	cfg   StackConfig
	lock  *os.File // held while this agent works on the directory
	ports *portBook
	awake chan struct{} // closed once what ran before was found again
	ring  chan struct{} // something may have to be started

	mu        sync.Mutex // guards what stands below
	instances map[string]*instance
}

// NewStack reads what the node holds. It starts nothing: Run does.
func NewStack(cfg StackConfig) (*Stack, error) {
	cfg, err := checkStackConfig(cfg)
	if err != nil {
		return nil, err
	}
	lock, err := lockData(cfg.Data)
	if err != nil {
		return nil, err
	}
	ports, err := openPortBook(filepath.Join(cfg.Data, "ports.json"), cfg.Ports, cfg.Node)
	if err != nil {
		return nil, err
	}
	s := &Stack{
		cfg: cfg, lock: lock, ports: ports, instances: map[string]*instance{},
		awake: make(chan struct{}), ring: make(chan struct{}, 1), // size 1: one ring is enough, a second says nothing new
	}
	return s, s.load()
}

func checkStackConfig(cfg StackConfig) (StackConfig, error) {
	if cfg.Data == "" || cfg.Node == "" || len(cfg.Engines) == 0 || cfg.Seal == nil {
		return cfg, errors.New("stack: Data, Node, Engines and Seal must be given")
	}
	data, err := filepath.Abs(cfg.Data)
	if err != nil {
		return cfg, fmt.Errorf("find the data directory: %w", err)
	}
	cfg.Data = data // processes are marked with it
	if cfg.Address == "" {
		cfg.Address = "127.0.0.1"
	}
	if cfg.Process == 0 {
		cfg.Process = os.Getpid()
	}
	if cfg.Ask == nil {
		cfg.Ask = func(context.Context) error { return errors.New("this node has no server to ask") }
	}
	if cfg.Ports == (PortRange{}) {
		cfg.Ports = PortRange{20000, 29999}
	}
	if cfg.Limits.MinFreeMB == 0 {
		cfg.Limits.MinFreeMB = 256
	}
	cfg.Canary = or(cfg.Canary, 2*time.Second)
	cfg.Watch = or(cfg.Watch, 2*time.Second)
	if cfg.Emit == nil {
		cfg.Emit = func(link.Event) error { return nil }
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Point == nil {
		cfg.Point = func(string) {}
	}
	return cfg, nil
}

// lockData keeps a second agent away from the directory; the lock ends with the process.
func lockData(dir string) (*os.File, error) {
	lock, err := tryLockData(dir)
	for tries := 0; tries < 20 && errors.Is(err, unix.EWOULDBLOCK); tries++ { // a process that an ended agent was just starting holds it for a moment
		pause(context.Background(), 50*time.Millisecond)
		lock, err = tryLockData(dir)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, problem.New(problem.Busy, "end the other agent, or give this one a directory of its own",
			"stacks in %s not taken up: another agent works there", dir)
	}
	return lock, err
}

func tryLockData(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "stacks.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

func (s *Stack) load() error {
	dirs, err := os.ReadDir(filepath.Join(s.cfg.Data, "instances"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read instances: %w", err)
	}
	for _, dir := range dirs {
		if !dir.IsDir() || !plainName.MatchString(dir.Name()) {
			continue
		}
		inst := s.newInstance(dir.Name())
		if err := inst.load(); err != nil {
			return err
		}
		s.instances[dir.Name()] = inst
	}
	return nil
}

// Run finds what still runs, keeps the canary and watches every stack, until ctx ends. What runs then goes on.
func (s *Stack) Run(ctx context.Context) error {
	defer s.lock.Close()
	s.wake(ctx)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.tickLoop(ctx) })
	group.Go(func() error { return s.watchLoop(ctx) })
	group.Go(func() error { return s.wakeLoop(ctx) })
	return group.Wait()
}

// wake adopts what an earlier agent left running and closes the account of what no longer runs.
func (s *Stack) wake(ctx context.Context) {
	s.resumeFaults()
	s.each(func(inst *instance) {
		if err := inst.wake(ctx); err != nil {
			s.cfg.Log.Error("find what ran", "instance", inst.name, "error", err)
		}
	})
	close(s.awake)
	s.look()
}

// each calls do for every instance, a few at a time, and waits.
func (s *Stack) each(do func(*instance)) {
	var group errgroup.Group
	group.SetLimit(8)
	for _, inst := range s.list() {
		group.Go(func() error { do(inst); return nil })
	}
	_ = group.Wait() // no member returns an error
}

func (s *Stack) list() []*instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*instance, 0, len(s.instances))
	for _, inst := range s.instances {
		all = append(all, inst)
	}
	slices.SortFunc(all, func(a, b *instance) int { return compareText(a.name, b.name) })
	return all
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// instance finds an instance or begins to know it.
func (s *Stack) instance(name string) (*instance, error) {
	if !plainName.MatchString(name) {
		return nil, problem.New(problem.Invalid, "", "order for instance %q: that is no name of an instance", name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	inst, ok := s.instances[name]
	if !ok {
		inst = s.newInstance(name)
		s.instances[name] = inst
	}
	return inst, nil
}

func (s *Stack) look() {
	select {
	case s.ring <- struct{}{}:
	default:
	}
}

// Do does the step of an order. It may be called again after a crash.
func (s *Stack) Do(ctx context.Context, order step.Order, progress Progress) (json.RawMessage, error) {
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	switch {
	case aboutFault(order.Step.Kind):
		return s.doFault(ctx, order)
	case order.Step.Kind == step.Prune:
		return with(order, func(a step.PruneArgs) (any, error) { return s.prune(ctx, order.Step.Instance, a, progress) })
	case order.Step.Kind == step.Survey:
		return with(order, func(a step.SurveyArgs) (any, error) { return s.survey(ctx, a) })
	}
	inst, err := s.instance(order.Step.Instance)
	if err != nil {
		return nil, err
	}
	switch order.Step.Kind {
	case step.Stage:
		return with(order, func(a step.StageArgs) (any, error) { return nil, inst.stage(ctx, a) })
	case step.Boot:
		return with(order, func(a step.BootArgs) (any, error) { return nil, inst.boot(ctx, order, a, progress) })
	case step.Ready:
		return with(order, func(a step.SlotArgs) (any, error) { return nil, inst.ready(ctx, a, progress) })
	case step.Checks:
		return with(order, func(a step.SlotArgs) (any, error) { return inst.checks(ctx, a, progress) })
	case step.Switch:
		return with(order, func(a step.SwitchArgs) (any, error) { return nil, inst.switchTo(ctx, order, a) })
	case step.Stop:
		return with(order, func(a step.StopArgs) (any, error) { return nil, inst.stop(ctx, order, a) })
	case step.Fence:
		return with(order, func(a step.FenceArgs) (any, error) { return nil, inst.hear(ctx, a) })
	case step.Discard:
		return with(order, func(a step.SlotArgs) (any, error) { return nil, inst.discard(ctx, a) })
	case step.Backup:
		return with(order, func(a step.BackupArgs) (any, error) { return inst.backup(ctx, order, a, progress) })
	case step.Fetch:
		return with(order, func(a step.FetchArgs) (any, error) { return inst.fetch(ctx, order, a, progress) })
	case step.Load:
		return with(order, func(a step.SlotArgs) (any, error) { return nil, inst.loadDumps(ctx, a, progress) })
	case step.Arm, step.Fire, step.Undo: // of the node, and done above
	case step.Prune, step.Survey: // of the node, and done above
	case step.Claim, step.Route, step.Release, step.Tell, step.Adopt: // the server's own
	}
	return nil, problem.New(problem.Invalid, "upgrade the agent of node "+s.cfg.Node,
		"step %q not done: this node does not know it", order.Step.Kind)
}

// Done tells whether the order's effect already stands; it changes nothing. A boot is never known to be done: only
// the engine can compare what runs with the spec, and it does nothing when all is well.
func (s *Stack) Done(ctx context.Context, order step.Order) (json.RawMessage, bool, error) {
	if err := s.wait(ctx); err != nil {
		return nil, false, err
	}
	if aboutFault(order.Step.Kind) {
		done, err := s.faultDone(order)
		return nil, done, err
	}
	if order.Step.Kind == step.Prune || order.Step.Kind == step.Survey {
		return nil, false, nil // done again they change nothing that is done
	}
	inst, err := s.instance(order.Step.Instance)
	if err != nil {
		return nil, false, err
	}
	var done bool
	var result any
	switch order.Step.Kind {
	case step.Switch:
		_, err = with(order, func(a step.SwitchArgs) (any, error) { done = inst.switched(a); return nil, nil })
	case step.Stop:
		_, err = with(order, func(a step.StopArgs) (any, error) { done = inst.stopped(a); return nil, nil })
	case step.Fence:
		_, err = with(order, func(a step.FenceArgs) (any, error) { done = inst.heard(a); return nil, nil })
	case step.Load:
		_, err = with(order, func(a step.SlotArgs) (any, error) { done = inst.loaded(a.Slot); return nil, nil })
	case step.Fetch:
		_, err = with(order, func(a step.FetchArgs) (any, error) { result, done = inst.fetched(a); return nil, nil })
	case step.Backup:
		result, done = inst.backedUp(order)
	case step.Discard:
		_, err = with(order, func(a step.SlotArgs) (any, error) { done = !inst.slotExists(a.Slot); return nil, nil })
	case step.Stage, step.Boot, step.Ready, step.Checks: // asked again, they change nothing that is well
	case step.Arm, step.Fire, step.Undo: // of the node, and answered above
	case step.Prune, step.Survey: // of the node, and done above
	case step.Claim, step.Route, step.Release, step.Tell, step.Adopt: // the server's own
	}
	if err != nil || !done || result == nil {
		return nil, done, err
	}
	body, err := json.Marshal(result)
	return body, true, err
}

func aboutFault(kind step.Kind) bool {
	return kind == step.Arm || kind == step.Fire || kind == step.Undo
}

// wait holds steps back until the node knows what it runs.
func (s *Stack) wait(ctx context.Context) error {
	select {
	case <-s.awake:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// with decodes the step's arguments and encodes the result; a result that comes with an error is kept.
func with[A any](order step.Order, do func(A) (any, error)) (json.RawMessage, error) {
	var args A
	if err := json.Unmarshal(order.Step.Args, &args); err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "", "arguments of %s for %s not understood", order.Step.Kind, order.Step.Instance)
	}
	result, err := do(args)
	body, encodeErr := json.Marshal(result)
	if encodeErr != nil || string(body) == "null" {
		return nil, firstOf(err, encodeErr)
	}
	return body, err
}

// Leases takes the server's word on who serves what. A document that was not issued for this boot may fence; only a
// fresh one lets stacks start that do not run.
func (s *Stack) Leases(ctx context.Context, leases link.LeasesSetting, fresh bool) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(16)
	for name, lease := range leases.Leases {
		inst, err := s.instance(name)
		if err != nil {
			return err
		}
		group.Go(func() error {
			if fresh {
				inst.freshen()
			}
			return inst.hear(ctx, lease)
		})
	}
	err := group.Wait()
	s.look()
	return err
}

// choose gives the first engine that can run every service of the spec.
func (s *Stack) choose(spec fleet.Spec) (EngineChoice, error) {
	for _, choice := range s.cfg.Engines {
		if runnable(spec, choice.Contained) {
			return choice, nil
		}
	}
	return EngineChoice{}, problem.New(problem.Invalid, "give every service an image for docker or x-holdfast.artifact for exec",
		"instance %s: no engine of node %s can run %s", spec.Instance, s.cfg.Node, spec.Release)
}

func runnable(spec fleet.Spec, contained bool) bool {
	return !slices.ContainsFunc(spec.Services, func(service fleet.Service) bool {
		if contained {
			return service.Image == ""
		}
		return service.Artifact == ""
	})
}
