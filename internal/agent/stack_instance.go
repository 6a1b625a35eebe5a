package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// instance is one customer's stack on this node.
type instance struct {
	stack *Stack
	name  string
	dir   string
	work  chan struct{} // held by the one step that changes the instance

	mu        sync.Mutex // guards what stands below
	rec       record
	fresh     bool               // the server has spoken since this agent started
	interrupt context.CancelFunc // ends what holds work, when a fence or a stop may not wait for it
	behind    bool               // what holds work is no step, and gives way to one
	seen      map[string]seen    // slot -> what was last seen of it
	sequence  int64              // of the newest canary tick
	ticked    time.Time
	sick      map[string]int       // service -> failed liveness answers in a row
	asked     map[string]time.Time // service -> when it was last asked whether it is alive
	nextTry   time.Time            // no start before, after one that failed
	tries     int
}

// seen is the last look at a slot.
type seen struct {
	spec     fleet.Spec // as ordered
	ports    map[string]int
	services []fleet.ServiceFacts
	at       time.Time
}

func (s seen) running() int {
	n := 0
	for _, service := range s.services {
		n += service.Running
	}
	return n
}

// complete tells whether something of every service runs.
func (s seen) complete() bool {
	return len(s.services) > 0 && !slices.ContainsFunc(s.services, func(f fleet.ServiceFacts) bool { return f.Running == 0 })
}

func (s seen) ready() bool {
	return len(s.services) > 0 && !slices.ContainsFunc(s.services, func(f fleet.ServiceFacts) bool { return !f.Ready })
}

func (s *Stack) newInstance(name string) *instance {
	return &instance{
		stack: s, name: name, dir: filepath.Join(s.cfg.Data, "instances", name),
		work: make(chan struct{}, 1), // size 1: whoever has put its token in holds it
		seen: map[string]seen{}, sick: map[string]int{}, asked: map[string]time.Time{},
	}
}

func (i *instance) load() error {
	rec, err := readRecord(filepath.Join(i.dir, "active.json"))
	if err != nil {
		return fmt.Errorf("instance %s: %w", i.name, err)
	}
	if rec.Stopped == stoppedOnce {
		rec.Stopped = notStopped
	}
	i.rec = rec
	for _, name := range i.slots() {
		spec, ok, err := i.readSpec(name)
		if err != nil {
			return err
		}
		if ok {
			i.seen[name] = seen{spec: spec, ports: i.stack.ports.look(spec, name)}
		}
	}
	i.resumeCanary()
	return i.clearGone()
}

// clearGone ends discards that were cut short.
func (i *instance) clearGone() error {
	gone, err := filepath.Glob(filepath.Join(i.dir, "slots", ".gone-*"))
	if err != nil {
		return err
	}
	for _, path := range gone {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("instance %s: remove discarded slot: %w", i.name, err)
		}
	}
	return nil
}

// slots lists the slots on disk, in order of their names.
func (i *instance) slots() []string {
	entries, err := os.ReadDir(filepath.Join(i.dir, "slots"))
	if err != nil {
		return nil
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() && slotName.MatchString(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	return names
}

// hold waits until no other step changes the instance. The context it gives ends when a fence or a stop may not
// wait; release must be called.
func (i *instance) hold(ctx context.Context) (held context.Context, release func(), err error) {
	i.mu.Lock()
	if i.behind && i.interrupt != nil {
		i.interrupt()
	}
	i.mu.Unlock()
	select {
	case i.work <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	held, cancel := context.WithCancel(ctx)
	i.interruptWith(cancel, false)
	return held, func() { cancel(); <-i.work }, nil
}

// holdBehind holds the instance for care that no order asked for; it is false when a step is at work.
func (i *instance) holdBehind(ctx context.Context) (held context.Context, release func(), ok bool) {
	select {
	case i.work <- struct{}{}:
	default:
		return nil, nil, false
	}
	held, cancel := context.WithCancel(ctx)
	i.interruptWith(cancel, true)
	return held, func() { cancel(); <-i.work }, true
}

// seize ends what holds the instance now and holds it until release; nothing ends that but ctx.
func (i *instance) seize(ctx context.Context) (release func(), err error) {
	i.mu.Lock()
	if i.interrupt != nil {
		i.interrupt()
	}
	i.mu.Unlock()
	select {
	case i.work <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	i.interruptWith(nil, false)
	return func() { <-i.work }, nil
}

func (i *instance) interruptWith(cancel context.CancelFunc, behind bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.interrupt, i.behind = cancel, behind
}

// now gives the record as it is.
func (i *instance) now() record {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.rec
}

// change replaces the record on disk, then in memory, and emits what it tells. An instance that has no directory is
// only heard of and is not written down.
func (i *instance) change(decide func(record) record) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	next := decide(i.rec)
	if _, err := os.Stat(i.dir); err == nil {
		i.stack.cfg.Point("record/before")
		if err := writeJSON(filepath.Join(i.dir, "active.json"), next); err != nil {
			return fmt.Errorf("instance %s: %w", i.name, err)
		}
		i.stack.cfg.Point("record/after")
	}
	i.rec = next
	i.stack.cfg.Changed()
	return i.tellLocked()
}

// tellLocked emits untold events. A crash in between emits them again, with the same moment.
func (i *instance) tellLocked() error {
	if len(i.rec.Untold) == 0 {
		return nil
	}
	for _, event := range i.rec.Untold {
		if err := i.stack.cfg.Emit(event); err != nil {
			return fmt.Errorf("instance %s: tell %s: %w", i.name, event.Kind, err)
		}
	}
	i.stack.cfg.Point("record/told")
	i.rec.Untold = nil
	return writeJSON(filepath.Join(i.dir, "active.json"), i.rec)
}

func (i *instance) slotDir(name string) string { return filepath.Join(i.dir, "slots", name) }

func (i *instance) slotExists(name string) bool {
	info, err := os.Stat(i.slotDir(name))
	return err == nil && info.IsDir()
}

func (i *instance) checkSlot(name string) error {
	if !slotName.MatchString(name) {
		return problem.New(problem.Invalid, "", "instance %s: %q is no name of a slot", i.name, name)
	}
	return nil
}

// resolved gives the slot as its engine is asked to run it.
func (i *instance) resolved(name string) (Slot, EngineChoice, error) {
	spec, ok, err := i.readSpec(name)
	if err != nil {
		return Slot{}, EngineChoice{}, err
	}
	if !ok {
		return Slot{}, EngineChoice{}, problem.New(problem.NotFound, "order a boot of the slot first",
			"instance %s on node %s has no slot %s that was ever booted", i.name, i.stack.cfg.Node, name)
	}
	choice, err := i.stack.choose(spec)
	if err != nil {
		return Slot{}, choice, err
	}
	slot, err := i.resolve(name, spec, choice, i.stack.ports.look(spec, name))
	return slot, choice, err
}

func (i *instance) resolve(name string, spec fleet.Spec, choice EngineChoice, ports map[string]int) (Slot, error) {
	secrets, err := i.readSecrets(name)
	if err != nil {
		return Slot{}, err
	}
	slot := Slot{Instance: i.name, Name: name, Dir: i.slotDir(name), Ports: ports, States: map[string]string{}}
	for _, state := range spec.State {
		slot.States[state.Name] = filepath.Join(slot.Dir, "state", state.Name)
	}
	slot.Spec, err = resolve(spec, names{
		secrets: secrets, ports: ports, states: slot.States, address: i.stack.cfg.Address, contained: choice.Contained,
	})
	return slot, err
}

// observe looks at a slot and remembers what it saw.
func (i *instance) observe(ctx context.Context, name string) (seen, error) {
	slot, choice, err := i.resolved(name)
	if err != nil {
		return seen{}, err
	}
	services, err := choice.Engine.Status(ctx, slot)
	if err != nil {
		return seen{}, fmt.Errorf("instance %s, slot %s: look at services: %w", i.name, name, err)
	}
	spec, _, err := i.readSpec(name)
	if err != nil {
		return seen{}, err
	}
	look := seen{spec: spec, ports: slot.Ports, services: services, at: i.stack.cfg.Now()}
	i.mu.Lock()
	defer i.mu.Unlock()
	if before := i.seen[name]; before.ready() != look.ready() || before.running() != look.running() {
		i.stack.cfg.Changed()
	}
	i.seen[name] = look
	return look, nil
}

// down stops every service of a slot. One whose spec cannot be read was never booted.
func (i *instance) down(ctx context.Context, name string) error {
	slot, choice, err := i.resolved(name)
	if problem.KindOf(err) == problem.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if err := choice.Engine.Down(ctx, slot); err != nil {
		return fmt.Errorf("instance %s, slot %s: stop: %w", i.name, name, err)
	}
	_, err = i.observe(ctx, name)
	return err
}

func (i *instance) downThose(ctx context.Context, slots []string) error {
	var failed []error
	for _, name := range slots {
		failed = append(failed, i.down(ctx, name))
	}
	return errors.Join(failed...)
}

// wake closes the account of what ended while no agent watched and goes on with what runs.
func (i *instance) wake(ctx context.Context) error {
	if err := i.change(func(r record) record { return r }); err != nil {
		return err
	}
	rec := i.now()
	for _, name := range i.slots() {
		_, err := i.observe(ctx, name)
		if err == nil || problem.KindOf(err) == problem.NotFound {
			continue
		}
		if name == rec.Slot && i.settled(rec) {
			return err // the engine does not answer: whether the slot still serves is not known, so nothing is closed
		}
		i.stack.cfg.Log.Warn("look at slot", "instance", i.name, "slot", name, "error", err)
	}
	i.resumeCanary()
	runs := i.runs(rec.Slot)
	switch {
	case !i.settled(rec):
		return i.settle(ctx)
	case rec.Serving && !runs:
		return i.endServing("found dead at the start of the agent", i.lastTick())
	case !rec.Serving && runs && rec.mayServe(i.stack.cfg.Node):
		return i.change(func(r record) record { return r.begins(i.name, i.stack.cfg.Now()) })
	}
	return nil
}

func (i *instance) endServing(why string, at time.Time) error {
	return i.change(func(r record) record { return r.ends(i.name, why, at) })
}

func (i *instance) runs(slot string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.seen[slot].running() > 0
}

func (i *instance) freshen() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fresh, i.nextTry = true, time.Time{}
}

// hear takes a lease. When somebody else serves now, this node stops at once and keeps everything.
func (i *instance) hear(ctx context.Context, lease step.FenceArgs) error {
	news, err := i.note(lease)
	if err != nil || (!news && i.settled(i.now())) {
		return err
	}
	if rec := i.now(); len(i.slots()) == 0 || (rec.Lease.Node == i.stack.cfg.Node && !rec.Fenced) {
		return nil
	}
	release, err := i.seize(ctx)
	if err != nil {
		return err
	}
	defer release()
	return i.settle(ctx)
}

// settled tells whether nothing is left to be done for the record's fence or foreign lease.
func (i *instance) settled(rec record) bool {
	return len(i.mustStop(rec)) == 0 && (!rec.Fenced || rec.Told)
}

// settle stops what may not run here, and only then says so.
func (i *instance) settle(ctx context.Context) error {
	rec := i.now()
	if i.settled(rec) {
		return nil
	}
	since, paused := i.stack.pausedSince()
	at, served := i.lastTick(), i.runs(rec.Slot)
	if err := i.downThose(ctx, i.mustStop(rec)); err != nil {
		return err
	}
	i.stack.cfg.Point("fence/down")
	now := i.stack.cfg.Now()
	switch {
	case served && paused:
		at = since
	case served:
		at = now
	}
	return i.change(func(r record) record { return r.settles(i.name, at, now) })
}

// note writes a lease down when it is news.
func (i *instance) note(lease step.FenceArgs) (news bool, err error) {
	rec := i.now()
	if next, fenced := rec.hears(lease, i.stack.cfg.Node); !fenced && next.Lease == rec.Lease && next.Held == rec.Held {
		return false, nil
	}
	return true, i.change(func(r record) record { next, _ := r.hears(lease, i.stack.cfg.Node); return next })
}

// mustStop names the slots that run, or count as serving, against the record: all but what was put beside and never
// served when another node is the holder, the active one when its data may be old and nobody called it back.
func (i *instance) mustStop(rec record) []string {
	var stop []string
	for _, name := range i.slots() {
		active := name == rec.Slot
		foreign := rec.Lease.Node != "" && rec.Lease.Node != i.stack.cfg.Node && (active || !i.marked(name, markNeutral) && !i.marked(name, markBeside))
		old := active && rec.Fenced && !rec.calledBack(i.stack.cfg.Node)
		if (foreign || old) && (i.runs(name) || active && rec.Serving) {
			stop = append(stop, name)
		}
	}
	return stop
}

func (i *instance) heard(lease step.FenceArgs) bool {
	rec := i.now()
	_, fence := rec.hears(lease, i.stack.cfg.Node)
	return rec.Lease.Epoch >= lease.Epoch && !fence && i.settled(rec)
}

// admit refuses an order that is older than what the node has heard, and one to serve what another node holds.
func (i *instance) admit(order step.Order, writes bool) error {
	rec := i.now()
	if order.Epoch < rec.Lease.Epoch {
		return problem.New(problem.Stale, "holdfast plan, then apply: the instance has moved on",
			"instance %s: %s not done: it was ordered at epoch %d, node %s knows epoch %d (node %s)",
			i.name, order.Step.Kind, order.Epoch, i.stack.cfg.Node, rec.Lease.Epoch, rec.Lease.Node)
	}
	if writes && order.Epoch == rec.Lease.Epoch && rec.Lease.Node != "" && rec.Lease.Node != i.stack.cfg.Node {
		return problem.New(problem.Denied, "holdfast plan: place the instance on this node first",
			"instance %s: %s not done on node %s: epoch %d belongs to node %s",
			i.name, order.Step.Kind, i.stack.cfg.Node, order.Epoch, rec.Lease.Node)
	}
	if !writes {
		return nil
	}
	// The server signs an order to write only for the holder of the epoch, so the order tells who that is.
	_, err := i.note(step.FenceArgs{Epoch: order.Epoch, Node: i.stack.cfg.Node})
	return err
}

// still refuses to go on once a fence has come while a step was under way.
func (i *instance) still(order step.Order) error {
	rec := i.now()
	if rec.Lease.Epoch <= order.Epoch && (rec.Lease.Node == "" || rec.Lease.Node == i.stack.cfg.Node) {
		return nil
	}
	return problem.New(problem.Stale, "", "instance %s: %s given up: epoch %d now belongs to node %s",
		i.name, order.Step.Kind, rec.Lease.Epoch, rec.Lease.Node)
}

// Marks are empty files in a slot's directory.
const (
	markFetching = "fetching"       // a restore was begun and has not ended
	markUnloaded = "unloaded"       // dumps were fetched and not loaded
	markNeutral  = "neutralised"    // a rehearsal copy
	markBeside   = "beside"         // a restore that has not served yet: it takes no requests, whoever is the holder
	markHooked   = "after-restore"  // the after_restore hook has run
	markCalm     = "neutralise-ran" // the neutralise hook has run
)

func (i *instance) marked(slot, mark string) bool {
	_, err := os.Stat(filepath.Join(i.slotDir(slot), mark))
	return err == nil
}

func (i *instance) mark(slot, mark string) error {
	return writeDurable(filepath.Join(i.slotDir(slot), mark), nil)
}

func (i *instance) unmark(slot, mark string) error {
	err := os.Remove(filepath.Join(i.slotDir(slot), mark))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("instance %s: remove mark %s: %w", i.name, mark, err)
	}
	return syncDir(i.slotDir(slot))
}

// run executes a command of the spec in a slot and gives the beginning of what it printed.
func (i *instance) run(ctx context.Context, slot Slot, choice EngineChoice, command fleet.Command) (string, error) {
	var out strings.Builder
	err := choice.Engine.Run(ctx, slot, command, nil, &limited{to: &out, left: 64 << 10})
	return out.String(), err
}

type limited struct {
	to   io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	if _, err := l.to.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}
