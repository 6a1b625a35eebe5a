package recovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"holdfast/internal/access"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/op"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// Runner carries drills and recoveries to their end. It keeps nothing in memory: kill it anywhere, and another goes
// on from the rows.
type Runner struct {
	DB    *db.DB
	Audit *audit.Log
	// World is the fleet as last applied, the inventory, the specs that were applied and the newest snapshots. Now and
	// Past are filled in here.
	World func(ctx context.Context) (World, error)
	Log   *slog.Logger
}

// pollEvery is what a missed ring costs, and how often deadlines are looked at.
const pollEvery = 250 * time.Millisecond

// Run moves open runs until ctx ends.
func (r *Runner) Run(ctx context.Context) error {
	for {
		ring := r.DB.Doorbell.Wait()
		open, err := r.Pass(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			r.Log.Error("drills were not looked at", "err", err)
		}
		if open == 0 && err == nil && !rests(ctx, ring, 10*pollEvery) {
			return nil
		}
		if !rests(ctx, nil, pollEvery) {
			return nil
		}
	}
}

// rests waits for the ring or the pause, and tells whether ctx still lives.
func rests(ctx context.Context, ring <-chan struct{}, pause time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-ring:
	case <-time.After(pause):
	}
	return true
}

// Pass moves every open run as far as it can go now, and tells how many are open.
func (r *Runner) Pass(ctx context.Context) (int, error) {
	runs, err := List(ctx, r.DB, true, 1000)
	if err != nil {
		return 0, err
	}
	var failed []error
	for _, run := range runs {
		failed = append(failed, r.advance(ctx, run.ID))
	}
	return len(runs), errors.Join(failed...)
}

// advance makes moves until the run waits.
func (r *Runner) advance(ctx context.Context, id string) error {
	for {
		moved, err := r.once(ctx, id)
		if errors.Is(err, errMoved) {
			return nil
		}
		if err != nil || !moved {
			return err
		}
	}
}

func (r *Runner) once(ctx context.Context, id string) (bool, error) {
	row, err := load(ctx, r.DB, id)
	if err != nil {
		return false, err
	}
	run := row.Run.V
	facts, err := r.facts(ctx, run)
	if err != nil {
		return false, err
	}
	move := Next(run, facts, r.DB.Now())
	if move.waits() {
		return false, nil
	}
	effects, err := r.prepare(ctx, run, move)
	if err != nil {
		return false, err
	}
	err = r.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error { return r.apply(ctx, tx, run, row.Rev, move, effects) })
	if err != nil {
		return false, fmt.Errorf("move run %s from %s: %w", id, run.Phase, err)
	}
	return true, nil
}

// effects is what a move needs that takes long to read, read before its transaction begins.
type effects struct {
	world World      // for a recovery
	card  *Scorecard // for an end
}

func (r *Runner) prepare(ctx context.Context, run Run, m Move) (effects, error) {
	var e effects
	var err error
	if m.Submit == step.Claim {
		if e.world, err = r.world(ctx); err != nil {
			return e, err
		}
	}
	if m.Phase.Over() {
		in, err := r.input(ctx, run, r.DB.Now())
		if err != nil {
			return e, err
		}
		in.Events = append(in.Events, m.Events...)
		e.card = new(Score(in))
	}
	return e, nil
}

// world reads the world as it is now.
func (r *Runner) world(ctx context.Context) (World, error) {
	w, err := r.World(ctx)
	if err != nil {
		return w, fmt.Errorf("read the fleet and its state: %w", err)
	}
	w.Now = r.DB.Now()
	w.Past, err = past(ctx, r.DB)
	return w, err
}

func (m Move) waits() bool {
	return m.Phase == "" && m.End == "" && m.Submit == "" && m.Cancel == "" && len(m.Events) == 0
}

// apply writes a move down, with all that it orders, in one transaction.
func (r *Runner) apply(ctx context.Context, tx db.Tx, run Run, rev int64, m Move, e effects) error {
	events := m.Events
	if m.Cancel != "" {
		if _, err := op.Cancel(ctx, tx, m.Cancel, run.byline()); err != nil {
			return err
		}
	}
	run.Why = orElse(m.Why, run.Why)
	if m.End != "" {
		run.End = m.End
	}
	if m.Submit != "" {
		ordered, err := r.submit(ctx, tx, &run, m.Submit, e.world)
		if err != nil {
			return err
		}
		events = append(slices.Clone(events), ordered)
	}
	if m.Phase != "" {
		run.Phase, run.Since = m.Phase, tx.Now
	}
	if run.Phase.Over() {
		run.EndedAt = tx.Now
		events = append(events, Event{At: tx.Now, Kind: ended(run.Phase), Note: run.Why})
	}
	if err := updateRun(ctx, tx, run, rev); err != nil {
		return err
	}
	if err := appendEvents(ctx, tx, run.ID, events); err != nil {
		return err
	}
	if e.card == nil {
		return nil
	}
	return keepScorecard(ctx, tx, run.ID, *e.card)
}

func ended(p Phase) EventKind {
	if p == Failed {
		return EventFailed
	}
	return EventScored
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (r Run) byline() string { return string(r.Kind) + "/" + r.ID }

// faultPatience is how long a step of a fault waits for a node out of reach.
const faultPatience = 30 * time.Second

// submit orders an operation for the run and remembers it there. The kind is of the fault's step, or Claim for the
// recovery.
func (r *Runner) submit(ctx context.Context, tx db.Tx, run *Run, kind step.Kind, world World) (Event, error) {
	if kind == step.Claim {
		return r.submitRecovery(ctx, tx, run, world)
	}
	graph, err := FaultGraph(kind, run.ID, run.Fault, run.Nodes)
	if err != nil {
		return Event{}, err
	}
	if kind == step.Undo {
		graph = append(graph, tellAll(run.Plan, TellUndone, ids(graph))...)
	}
	made, err := op.Submit(ctx, tx, op.New{
		Kind: "drill", Title: fmt.Sprintf("%s %s for drill %s", kind, run.Fault.Kind, run.ID), Graph: graph, Actor: run.byline(),
		Params: map[string]string{"drill": run.ID}, Resume: "holdfast drill show " + run.ID, Patience: faultPatience,
	})
	if err != nil {
		return Event{}, fmt.Errorf("order %s: %w", kind, err)
	}
	switch kind {
	case step.Arm:
		run.Operations.Arm = made.ID
		return Event{At: tx.Now, Kind: EventArming, Note: made.ID}, nil
	case step.Fire:
		run.Operations.Fire = made.ID
		return Event{At: tx.Now, Kind: EventFiring, Note: made.ID}, nil
	default:
		run.Operations.Undo = made.ID
		return Event{At: tx.Now, Kind: EventUndoing, Note: made.ID}, nil
	}
}

// submitRecovery places the members again, on what is there now, and orders the recovery. What cannot be placed or
// has no backup is left out here and stays in the score as not restored.
func (r *Runner) submitRecovery(ctx context.Context, tx db.Tx, run *Run, world World) (Event, error) {
	able := able(run.Members, world)
	placed, _ := Place(Needs(able, world), Rooms(run.Plan, world, len(able)))
	run.Assignments = placed
	run.Snapshots = map[string]Snapshot{}
	slots := map[string]string{}
	for _, a := range placed {
		var err error
		run.Snapshots[a.Instance] = world.Catalogue[a.Instance]
		if slots[a.Instance], err = op.NextSlot(ctx, tx, a.Instance); err != nil {
			return Event{}, err
		}
	}
	graph, err := Graph(run.Plan, run.Members, placed, world, func(i string) string { return slots[i] })
	if err != nil {
		return Event{}, err
	}
	made, err := op.Submit(ctx, tx, op.New{
		Kind: "recover", Title: fmt.Sprintf("recover %d instances by plan %s", len(placed), run.Plan.Name), Graph: graph, Actor: run.Actor,
		Params: map[string]string{"drill": run.ID}, Instances: slices.Sorted(maps.Keys(slots)), Resume: "holdfast drill show " + run.ID, Preempt: true,
	})
	if err != nil {
		return Event{}, fmt.Errorf("order recovery: %w", err)
	}
	run.Operations.Recover = made.ID
	return Event{At: tx.Now, Kind: EventDeclared, Note: made.ID}, nil
}

// able are the members that have something to be rebuilt from.
func able(members []Member, w World) []Member {
	var kept []Member
	for _, m := range members {
		_, _, spec := w.starts(m.Instance)
		_, backed := w.Catalogue[m.Instance]
		if spec && backed {
			kept = append(kept, m)
		}
	}
	return kept
}

func tellAll(plan fleet.RecoveryPlan, event string, after []string) step.Graph {
	b := &builder{plan: plan}
	b.tell(event, "", after)
	return b.graph
}

func ids(g step.Graph) []string {
	all := make([]string, len(g))
	for i, p := range g {
		all[i] = p.ID
	}
	return all
}

// facts reads what Next looks at in the run's phase, and no more: it is asked for several times a second while the
// machines have better to do.
func (r *Runner) facts(ctx context.Context, run Run) (f Facts, err error) {
	if f.Events, err = Events(ctx, r.DB, run.ID); err != nil {
		return f, err
	}
	o := run.Operations
	switch run.Phase {
	case Arming:
		f.Arm, err = progress(ctx, r.DB, o.Arm)
	case Firing:
		f.Fire, err = progress(ctx, r.DB, o.Fire)
	case Recovering:
		f.Recover.Ended, err = hasEnded(ctx, r.DB, o.Recover)
	case Undoing, Cleaning:
		f.Undo, err = progress(ctx, r.DB, o.Undo)
	case Detecting, Validating, Ended, Aborted, Failed:
	}
	if err != nil {
		return f, err
	}
	return f, r.seen(ctx, run, &f)
}

// seen reads what probes and nodes said.
func (r *Runner) seen(ctx context.Context, run Run, f *Facts) (err error) {
	switch run.Phase {
	case Firing, Detecting, Validating:
		if f.Results, err = witnesses(ctx, r.DB, run, run.StartedAt, r.DB.Now()); err != nil {
			return err
		}
	case Arming, Recovering, Undoing, Cleaning, Ended, Aborted, Failed:
	}
	switch run.Phase {
	case Firing, Undoing, Cleaning:
		if f.NodeEvents, err = told(ctx, r.DB, run, run.StartedAt.Add(-before)); err != nil {
			return err
		}
	case Arming, Detecting, Recovering, Validating, Ended, Aborted, Failed:
	}
	if run.Phase == Cleaning {
		return r.reports(ctx, run, f)
	}
	return nil
}

// reports reads what the nodes of the fault say of themselves now.
func (r *Runner) reports(ctx context.Context, run Run, f *Facts) error {
	world, err := r.world(ctx)
	if err != nil {
		return err
	}
	f.Faults, f.Reported = map[string][]string{}, map[string]time.Time{}
	for _, node := range run.Nodes {
		f.Faults[node], f.Reported[node] = world.Inventory.Nodes[node].Faults, world.Inventory.Nodes[node].TakenAt
	}
	return nil
}

// hasEnded tells whether an operation has; "" is one that was not ordered.
func hasEnded(ctx context.Context, in bun.IDB, id string) (bool, error) {
	if id == "" {
		return false, nil
	}
	o, err := op.Get(ctx, in, id)
	return o.State.Ended(), err
}

// before is how far back the score of a real loss looks: it began before anybody declared it. It also covers node
// clocks that are behind.
const before = 15 * time.Minute

func names(members []Member) []string {
	all := make([]string, len(members))
	for i, m := range members {
		all[i] = m.Instance
	}
	return all
}

// nodesOf are the nodes of the fault and those that members lived on.
func nodesOf(run Run) []string {
	set := map[string]bool{}
	for _, n := range run.Nodes {
		set[n] = true
	}
	for _, m := range run.Members {
		set[m.FromNode] = true
	}
	return slices.Sorted(maps.Keys(set))
}

func progress(ctx context.Context, in bun.IDB, id string) (Progress, error) {
	if id == "" {
		return Progress{}, nil
	}
	o, err := op.Get(ctx, in, id)
	if err != nil {
		return Progress{}, err
	}
	steps, err := op.Whole(ctx, in, id)
	if err != nil {
		return Progress{}, err
	}
	p := Progress{Ended: o.State.Ended()}
	for _, s := range steps {
		p.Steps = append(p.Steps, recordOf(s))
	}
	slices.SortFunc(p.Steps, func(a, b StepRecord) int {
		if c := a.StartedAt.Compare(b.StartedAt); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return p, nil
}

func recordOf(s op.Step) StepRecord {
	node := s.Node
	if s.Placed != "" {
		node = s.Placed
	}
	return StepRecord{
		ID: s.ID, Kind: s.Kind, Instance: s.Instance, Node: node, State: s.State, StartedAt: s.StartedAt, EndedAt: s.EndedAt, Result: s.Result, Error: s.Error,
	}
}

// Scorecard computes the run's card from the rows as they are now.
func (r *Runner) Scorecard(ctx context.Context, id string) (Scorecard, error) {
	run, err := Get(ctx, r.DB, id)
	if err != nil {
		return Scorecard{}, err
	}
	in, err := r.input(ctx, run, r.DB.Now())
	if err != nil {
		return Scorecard{}, err
	}
	return Score(in), nil
}

// input reads everything that a run's card is computed from.
func (r *Runner) input(ctx context.Context, run Run, now time.Time) (Input, error) {
	in := Input{
		ID: run.ID, Kind: run.Kind, Plan: run.Plan, Scenario: run.Scenario, Fault: run.Fault.Kind, Members: run.Members, Snapshots: run.Snapshots, Now: now, Until: run.EndedAt,
	}
	since, until := run.StartedAt, now
	if run.Kind == Real {
		since = since.Add(-before)
	}
	if !run.EndedAt.IsZero() {
		until = run.EndedAt
	}
	var err error
	if in.Events, err = Events(ctx, r.DB, run.ID); err != nil {
		return in, err
	}
	if in.Results, err = witnesses(ctx, r.DB, run, since, until); err != nil {
		return in, err
	}
	if in.NodeEvents, err = told(ctx, r.DB, run, run.StartedAt.Add(-before)); err != nil {
		return in, err
	}
	recovered, err := progress(ctx, r.DB, run.Operations.Recover)
	if err != nil {
		return in, err
	}
	in.Steps = recovered.Steps
	in.Commands, err = commands(ctx, r.DB, run, in.Events, until)
	return in, err
}

// commands are the deeds of people between the begin of the run and back to normal, other than those on the run
// itself. The audit log holds every deed, so what is not there was not done through Holdfast.
func commands(ctx context.Context, in bun.IDB, run Run, events []Event, end time.Time) ([]Command, error) {
	until, back := last(events, EventNormal)
	if !back {
		until = end
	}
	given := []Command{}
	filter := audit.Filter{Limit: 500}
	for {
		records, err := audit.List(ctx, in, filter)
		if err != nil {
			return nil, err
		}
		for _, rec := range records {
			if rec.At.Before(run.StartedAt) {
				return given, nil
			}
			if byPerson(rec) && !rec.At.After(until) {
				given = append([]Command{{At: rec.At, Actor: rec.Actor, What: rec.Verb + " " + rec.Object}}, given...)
			}
			filter.Before = rec.Seq
		}
		if len(records) < filter.Limit {
			return given, nil
		}
	}
}

func byPerson(rec audit.Record) bool {
	return strings.HasPrefix(rec.Actor, "token/") && !strings.HasPrefix(rec.Object, "drill/") && !strings.HasPrefix(rec.Object, "recovery/")
}

// Order asks for a run.
type Order struct {
	Kind  Kind                `json:"kind"`
	Plan  string              `json:"plan"`
	Fault fleet.RecoveryFault `json:"fault,omitzero"` // drill: instead of the plan's own
	Force bool                `json:"force"`          // recovery: although findings say that some of it would fail
	Yes   bool                `json:"yes"`
}

// Draft holds a plan against the world as it is now, and changes nothing.
func (r *Runner) Draft(ctx context.Context, order Order) (Draft, error) {
	_, draft, err := r.draft(ctx, order)
	return draft, err
}

// draft makes the run that the order asks for, and what would fail of it.
func (r *Runner) draft(ctx context.Context, order Order) (Run, Draft, error) {
	world, err := r.world(ctx)
	if err != nil {
		return Run{}, Draft{}, err
	}
	plan, ok := world.Fleet.RecoveryPlans[order.Plan]
	if !ok {
		return Run{}, Draft{}, problem.New(problem.NotFound, "holdfast apply -f DIR, with a document of kind RecoveryPlan and this name", "there is no recovery plan %s", order.Plan)
	}
	draft := Lint(plan, world)
	run := Run{Kind: order.Kind, Plan: plan, Scenario: string(plan.Scenario) + " " + plan.Lost, Members: draft.Members, Assignments: draft.Assignments}
	if order.Kind == Drill {
		return r.draftDrill(run, draft, world, order.Fault)
	}
	found, err := r.stillAnswers(ctx, run)
	draft.Findings = append(found, draft.Findings...)
	return run, draft, err
}

func (r *Runner) draftDrill(run Run, draft Draft, world World, fault fleet.RecoveryFault) (Run, Draft, error) {
	run.Fault = run.Plan.Fault
	if fault.Kind != "" {
		run.Fault.Kind = fault.Kind
	}
	if fault.For != 0 {
		run.Fault.For = fault.For
	}
	if run.Fault.For == 0 {
		run.Fault.For = 10 * time.Minute
	}
	if err := CheckFault(run.Fault); err != nil {
		return run, draft, problem.Wrap(err, problem.Usage, "holdfast drill run "+run.Plan.Name+" --fault kill --for 10m", "drill of %s was not started", run.Plan.Name)
	}
	run.Nodes = faultNodes(run.Plan, world)
	draft.Findings = append(lintFault(run, world), draft.Findings...)
	return run, draft, nil
}

// stillAnswers looks whether what is to be recovered is lost at all. A plan run on a living site takes every instance
// away from where it serves.
func (r *Runner) stillAnswers(ctx context.Context, run Run) ([]Finding, error) {
	now := r.DB.Now()
	results, err := witnesses(ctx, r.DB, run, now.Add(-time.Minute), now)
	if err != nil {
		return nil, err
	}
	var alive []string
	for _, m := range run.Members {
		if got := of(results, m.Instance); len(got) > 0 && got[len(got)-1].OK {
			alive = append(alive, m.Instance)
		}
	}
	if len(alive) == 0 {
		return nil, nil
	}
	found := Finding{Warning, "still-answers", "recoveryplan/" + run.Plan.Name,
		fmt.Sprintf("outside probes still get good answers from %d of %d instances in %s: %s", len(alive), len(run.Members), run.Plan.Lost, strings.Join(alive, ", ")),
		"if they are to be moved all the same: holdfast recover " + run.Plan.Name + " --force"}
	if 2*len(alive) > len(run.Members) {
		found.Severity = Broken
	}
	return []Finding{found}, nil
}

// Start begins a run: it lints, refuses what would fail, and writes the run down. The actor is the context's.
func (r *Runner) Start(ctx context.Context, order Order) (Run, error) {
	run, draft, err := r.draft(ctx, order)
	if err != nil {
		return run, err
	}
	if err := refuse(order, draft); err != nil {
		return run, err
	}
	run.ID, run.Actor, run.Phase = newID(), access.From(ctx).Name, Arming
	if run.Kind == Real {
		run.Phase = Recovering
	}
	err = r.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		if err := alone(ctx, tx); err != nil {
			return err
		}
		run.StartedAt, run.Since = tx.Now, tx.Now
		if err := insertRun(ctx, tx, run); err != nil {
			return err
		}
		if err := appendEvents(ctx, tx, run.ID, begin(run, draft, tx.Now)); err != nil {
			return err
		}
		return r.Audit.Append(ctx, tx, audit.Entry{Verb: "start " + string(run.Kind), Object: run.byline(), Detail: order})
	})
	return run, err
}

func begin(run Run, draft Draft, now time.Time) []Event {
	return []Event{
		{At: now, Kind: EventStarted, Note: run.Actor},
		{At: now, Kind: EventLinted, Note: fmt.Sprintf("%d instances, %d findings", len(run.Members), len(draft.Findings))},
	}
}

// refuse lists every error of the draft as one error. A recovery may be forced through them; a drill may not, and
// nothing is started that could not rebuild a single instance.
func refuse(order Order, draft Draft) error {
	if order.Kind == Real && order.Force && len(draft.Assignments) > 0 {
		return nil
	}
	var list problem.List
	for _, f := range draft.Findings {
		if f.Severity == Broken {
			list = append(list, problem.New(problem.Invalid, f.Hint, "%s %s was not started: %s: %s", order.Kind, order.Plan, f.Object, f.Message))
		}
	}
	if len(list) > 0 && order.Kind == Real && len(draft.Assignments) > 0 {
		list = append(list, problem.New(problem.Invalid, "holdfast recover "+order.Plan+" --force", "%d of %d instances could be rebuilt in spite of this", len(draft.Assignments), len(draft.Members)))
	}
	return list.OrNil()
}

// alone refuses a second run while one is open: a real incident and a drill, or two drills, would measure each other.
func alone(ctx context.Context, in bun.IDB) error {
	open, err := List(ctx, in, true, 1)
	if err != nil || len(open) == 0 {
		return err
	}
	hint := "holdfast drill abort " + open[0].ID
	return problem.New(problem.Busy, hint, "%s %s of plan %s is still open: it is %s", open[0].Kind, open[0].ID, open[0].Plan.Name, open[0].Phase)
}

// Abort asks a run to end early: the fault is ended on every node; a recovery that has begun is carried through.
func (r *Runner) Abort(ctx context.Context, id string) (Run, error) {
	return r.change(ctx, id, "abort", func(run *Run, _ db.Tx) ([]Event, error) {
		if run.Phase.Over() {
			return nil, problem.New(problem.Conflict, "holdfast drill show "+id, "%s %s was not aborted: it has ended (%s)", run.Kind, id, run.Phase)
		}
		if run.AbortedBy == "" {
			run.AbortedBy = access.From(ctx).Name
		}
		return nil, nil
	})
}

// Count adds what somebody outside counted to the run.
func (r *Runner) Count(ctx context.Context, id string, counts Counts) (Run, error) {
	return r.change(ctx, id, "count", func(_ *Run, tx db.Tx) ([]Event, error) {
		return []Event{{At: tx.Now, Kind: EventCounted, Counts: &counts}}, nil
	})
}

// change alters a run by a person's deed, and writes that into the audit log.
func (r *Runner) change(ctx context.Context, id, verb string, alter func(*Run, db.Tx) ([]Event, error)) (Run, error) {
	var run Run
	err := r.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		row, err := load(ctx, tx, id)
		if err != nil {
			return err
		}
		run = row.Run.V
		events, err := alter(&run, tx)
		if err != nil {
			return err
		}
		if err := updateRun(ctx, tx, run, row.Rev); err != nil {
			return err
		}
		if err := appendEvents(ctx, tx, id, events); err != nil {
			return err
		}
		return r.Audit.Append(ctx, tx, audit.Entry{Verb: verb, Object: run.byline()})
	})
	if errors.Is(err, errMoved) {
		return run, problem.New(problem.Unavailable, "try again", "run %s has just moved on", id)
	}
	return run, err
}
