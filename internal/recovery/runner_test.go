package recovery

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/access"
	"holdfast/internal/access/accesstest"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/observe"
	"holdfast/internal/op"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// stage is a control database with a clock of its own, on which nodes and probes are played by hand: what they report
// goes through the real intake, and what is ordered is read from the real operations.
type stage struct {
	t     *testing.T
	d     *db.DB
	log   *audit.Log
	plan  fleet.RecoveryPlan
	world World
	seq   map[string]int64
	at    float64 // seconds after t0
}

func newStage(t *testing.T, d *db.DB) *stage {
	t.Helper()
	s := &stage{t: t, d: d, seq: map[string]int64{}}
	d.SetClock(func() time.Time { return sec(s.at) })
	log, err := audit.New(accesstest.Keys(t, d))
	if err != nil {
		t.Fatal(err)
	}
	s.log = log
	s.plan, s.world = twoSites()
	s.world.Fleet.RecoveryPlans = map[string]fleet.RecoveryPlan{"lose-paris": s.plan}
	for _, n := range s.world.Inventory.Nodes {
		s.report(n.Node, link.Report{Facts: &n})
	}
	for _, m := range []string{"acme", "globex", "initech"} {
		s.event("paris1", m, 3, NodeServingStarted)
	}
	return s
}

// runner is a new one each time: what it must know is in the rows.
func (s *stage) runner() *Runner {
	return &Runner{DB: s.d, Audit: s.log, Log: slog.New(slog.DiscardHandler), World: func(context.Context) (World, error) {
		for name, n := range s.world.Inventory.Nodes {
			n.SeenAt, n.TakenAt = sec(s.at), sec(s.at)
			s.world.Inventory.Nodes[name] = n
		}
		return s.world, nil
	}}
}

func (s *stage) ctx() context.Context {
	return access.With(s.t.Context(), access.Actor{Name: "token/ann", Role: access.Operator})
}

func (s *stage) pass() {
	s.t.Helper()
	if _, err := s.runner().Pass(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) report(node string, r link.Report) {
	s.t.Helper()
	s.seq[node]++
	r.Seq, r.At = s.seq[node], sec(s.at)
	observer := &observe.Observer{DB: s.d, Log: slog.New(slog.DiscardHandler)}
	if _, err := observer.Intake(s.t.Context(), node, []link.Report{r}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) event(node, instance string, epoch int64, kind string) {
	s.t.Helper()
	s.report(node, link.Report{Event: &link.Event{Kind: kind, Instance: instance, Epoch: epoch, At: sec(s.at)}})
}

// probe lets both outside probes ask for every instance once, a second apart, rounds times.
func (s *stage) probe(ok bool, rounds int) {
	s.t.Helper()
	for range rounds {
		for _, probe := range []string{"nice", "brest"} {
			for _, instance := range []string{"acme", "globex", "initech"} {
				s.report(probe, link.Report{Result: &link.Result{Check: "edge/brest", Instance: instance, OK: ok, At: sec(s.at)}})
			}
			s.at += 0.5
		}
	}
}

func (s *stage) get(id string) Run {
	s.t.Helper()
	r, err := Get(s.t.Context(), s.d, id)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *stage) wants(id string, phase Phase) Run {
	s.t.Helper()
	s.pass()
	r := s.get(id)
	if r.Phase != phase {
		s.t.Fatalf("at %.1f s it is %s (%s), want %s", s.at, r.Phase, r.Why, phase)
	}
	return r
}

// finish plays the nodes of an operation: every step that the filter takes is done now.
func (s *stage) finish(operation string, does func(op.Step) (any, bool)) {
	s.t.Helper()
	steps, err := op.Whole(s.t.Context(), s.d, operation)
	if err != nil {
		s.t.Fatal(err)
	}
	for id, st := range steps {
		result, done := does(st)
		state := step.Done
		if !done {
			state = step.Refused
		}
		s.exec("UPDATE operation_steps SET state = ?, result = ?, started_at = ?, ended_at = ? WHERE operation = ? AND id = ?", string(state), string(encode(result)), db.At(sec(s.at-1)), db.At(sec(s.at)), operation, id)
	}
	s.exec("UPDATE operations SET state = 'done', ended_at = ? WHERE id = ?", db.At(sec(s.at)), operation)
}

func (s *stage) exec(statement string, args ...any) {
	s.t.Helper()
	if _, err := s.d.NewRaw(statement, args...).Exec(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

func all(op.Step) (any, bool) { return nil, true }

// restore is what every step of a recovery reports when all is well.
func restore(st op.Step) (any, bool) {
	switch st.Kind {
	case step.Fetch:
		return step.FetchResult{CanarySeq: 7, CanaryAt: sec(-30)}, true
	case step.Checks:
		return step.ChecksResult{Passed: 2, Required: 2}, true
	default:
		return nil, true
	}
}

func TestDrillFromEndToEnd(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := newStage(t, d)
		s.probe(true, 5)
		run, err := s.runner().Start(s.ctx(), Order{Kind: Drill, Plan: "lose-paris"})
		if err != nil {
			t.Fatal(err)
		}
		run = s.wants(run.ID, Arming)
		s.finish(run.Operations.Arm, all)
		run = s.wants(run.ID, Firing)
		s.event("paris1", "", 0, NodeFaultFired)
		s.wants(run.ID, Detecting)
		s.probe(true, 1)
		s.wants(run.ID, Detecting)
		s.probe(false, 3)
		run = s.wants(run.ID, Recovering)
		s.at += 20
		s.finish(run.Operations.Recover, restore)
		for _, a := range run.Assignments {
			s.event(a.Node, a.Instance, 4, NodeServingStarted)
			s.event("paris1", a.Instance, 3, NodeFenced)
		}
		s.wants(run.ID, Validating)
		s.probe(true, 3)
		run = s.wants(run.ID, Undoing)
		s.event("paris1", "", 0, NodeUndoFired)
		s.wants(run.ID, Cleaning)
		s.at += 1
		run = s.wants(run.ID, Ended)

		kept, err := Kept(t.Context(), d, run.ID)
		if err != nil || kept == nil {
			t.Fatalf("no scorecard was kept: %v", err)
		}
		if kept.Verdict != Pass {
			t.Errorf("verdict %s because %q", kept.Verdict, kept.Reasons)
		}
		s.at += 3600
		s.probe(false, 9) // what happens later is not this drill's
		s.exec("UPDATE drills SET scorecard = 'null' WHERE id = ?", run.ID)
		if gone, err := Kept(t.Context(), d, run.ID); err != nil || gone != nil {
			t.Fatalf("the kept scorecard is still there: %v, %v", gone, err)
		}
		live, err := s.runner().Scorecard(t.Context(), run.ID)
		if err != nil {
			t.Fatal(err)
		}
		if a, b := numbers(*kept), numbers(live); a != b {
			t.Errorf("kept %s\nlive %s", a, b)
		}
		if got, want := kinds(t, d, run.ID), "started linted arming armed firing fired detected declared recovered normal undoing undone residue scored"; got != want {
			t.Errorf("events %s, want %s", got, want)
		}
		err = d.Tx(t.Context(), func(ctx context.Context, tx db.Tx) error { return keepScorecard(ctx, tx, run.ID, live) })
		if err != nil {
			t.Fatal(err)
		}
		took, err := past(t.Context(), d)
		if err != nil || took["acme"] != time.Second {
			t.Errorf("past restores %v, %v", took, err)
		}
	})
}

// numbers are a card without the moment it was made at.
func numbers(c Scorecard) string {
	c.ScoredAt = time.Time{}
	text, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func kinds(t *testing.T, d *db.DB, id string) string {
	t.Helper()
	events, err := Events(t.Context(), d, id)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range events {
		if len(all) == 0 || all[len(all)-1] != string(e.Kind) {
			all = append(all, string(e.Kind))
		}
	}
	return strings.Join(all, " ")
}

// A kill ends the agent before it can say that it fired. The probes see it, and the node says when as it comes back.
func TestDrillThatKillsTheAgent(t *testing.T) {
	s := newStage(t, dbtest.Open(t))
	s.probe(true, 3)
	run, err := s.runner().Start(s.ctx(), Order{Kind: Drill, Plan: "lose-paris"})
	if err != nil {
		t.Fatal(err)
	}
	run = s.wants(run.ID, Arming)
	s.finish(run.Operations.Arm, all)
	s.wants(run.ID, Firing)
	killed := s.at
	s.probe(false, 3)
	run = s.wants(run.ID, Recovering)
	s.at += 20
	s.finish(run.Operations.Recover, restore)
	for _, a := range run.Assignments {
		s.event(a.Node, a.Instance, 4, NodeServingStarted)
	}
	s.wants(run.ID, Validating)
	s.probe(true, 3)
	run = s.wants(run.ID, Undoing)
	s.finish(run.Operations.Undo, func(op.Step) (any, bool) { return nil, false })
	s.wants(run.ID, Undoing) // the fault ends by itself, later
	card, err := s.runner().Scorecard(t.Context(), run.ID)
	if err != nil || !card.Fault.From.Equal(sec(killed)) || !card.Fault.To.Equal(sec(killed)) || card.TwoWriterSeconds != nil {
		t.Errorf("before the return: fault from %s to %s, two writers %v, %v", card.Fault.From, card.Fault.To, card.TwoWriterSeconds, err)
	}
	s.at = 600
	s.report("paris1", link.Report{Event: &link.Event{Kind: NodeFaultFired, At: sec(killed + 0.1)}})
	for _, a := range run.Assignments {
		s.report("paris1", link.Report{Event: &link.Event{Kind: NodeServingStopped, Instance: a.Instance, Epoch: 3, At: sec(killed)}})
		s.event("paris1", a.Instance, 3, NodeFenced)
	}
	s.report("paris1", link.Report{Event: &link.Event{Kind: NodeUndoFired, Note: "rule drop-all is still there", At: sec(599)}})
	s.wants(run.ID, Cleaning)
	s.at += 121
	run = s.wants(run.ID, Failed)
	if want := "the fault left something behind: paris1: rule drop-all is still there"; run.Why != want {
		t.Errorf("why %q, want %q", run.Why, want)
	}
	card, err = s.runner().Scorecard(t.Context(), run.ID)
	if want := []string{run.Why}; err != nil || !slices.Equal(card.Reasons, want) || !card.Fault.From.Equal(sec(killed+0.1)) {
		t.Errorf("fault from %s, reasons %q, %v", card.Fault.From, card.Reasons, err)
	}
}

func TestDrillThatIsNotAcknowledgedFiresNothing(t *testing.T) {
	s := newStage(t, dbtest.Open(t))
	run, err := s.runner().Start(s.ctx(), Order{Kind: Drill, Plan: "lose-paris"})
	if err != nil {
		t.Fatal(err)
	}
	run = s.wants(run.ID, Arming)
	s.finish(run.Operations.Arm, func(op.Step) (any, bool) { return nil, false })
	run = s.wants(run.ID, Undoing)
	if run.Operations.Fire != "" {
		t.Fatal("it ordered the fault to be fired")
	}
	s.finish(run.Operations.Undo, all)
	s.at += 1
	s.pass()
	s.at += 1
	run = s.wants(run.ID, Failed)
	if want := "nothing was fired: paris1 did not acknowledge the fault's own end"; run.Why != want {
		t.Errorf("why %q, want %q", run.Why, want)
	}
}

func TestRecoveryOfARealLoss(t *testing.T) {
	s := newStage(t, dbtest.Open(t))
	s.probe(true, 3)
	_, err := s.runner().Start(s.ctx(), Order{Kind: Real, Plan: "lose-paris"})
	if err == nil || !strings.Contains(err.Error(), "outside probes still get good answers from 3 of 3 instances in paris: acme, globex, initech") {
		t.Fatalf("a living site was recovered: %v", err)
	}
	s.probe(false, 3)
	run, err := s.runner().Start(s.ctx(), Order{Kind: Real, Plan: "lose-paris"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.runner().Start(s.ctx(), Order{Kind: Drill, Plan: "lose-paris"}); problem.KindOf(err) != problem.Busy {
		t.Errorf("a second run was taken: %v", err)
	}
	run = s.wants(run.ID, Recovering)
	shown, err := op.Show(t.Context(), s.d, run.Operations.Recover)
	if err != nil || shown.Operation.Kind != "recover" || len(shown.Steps) != 3*9+5 {
		t.Fatalf("operation %+v with %d steps, %v", shown.Operation, len(shown.Steps), err)
	}
	s.at += 20
	s.finish(run.Operations.Recover, restore)
	for _, a := range run.Assignments {
		s.event(a.Node, a.Instance, 4, NodeServingStarted)
	}
	s.wants(run.ID, Validating)
	s.probe(true, 3)
	s.wants(run.ID, Ended)
	for _, i := range []string{"acme", "globex", "initech"} { // the old site is back, after the run
		s.report("paris1", link.Report{Event: &link.Event{Kind: NodeServingStopped, Instance: i, Epoch: 3, At: sec(3)}})
		s.event("paris1", i, 3, NodeFenced)
	}
	card, err := s.runner().Scorecard(t.Context(), run.ID)
	if err != nil || card.Verdict != Pass || !value(card.FencedAfterReturn) || card.TwoWriterSeconds == nil || *card.TwoWriterSeconds != 0 {
		t.Errorf("verdict %s %q, fenced %v, %v", card.Verdict, card.Reasons, card.FencedAfterReturn, err)
	}
	if f := card.Fault; !f.From.Equal(sec(2.5)) || !f.To.Equal(sec(3)) {
		t.Errorf("fault between %s and %s", f.From, f.To)
	}
}

func TestWhatPeopleDoMeanwhileIsCounted(t *testing.T) {
	s := newStage(t, dbtest.Open(t))
	s.probe(false, 3)
	run, err := s.runner().Start(s.ctx(), Order{Kind: Real, Plan: "lose-paris"})
	if err != nil {
		t.Fatal(err)
	}
	s.at += 5
	for actor, object := range map[string]string{"token/ann": "instance/acme", "server": "instance/acme", "token/bob": "drill/" + run.ID} {
		ctx := access.With(t.Context(), access.Actor{Name: actor, Role: access.Operator})
		err := s.d.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
			return s.log.Append(ctx, tx, audit.Entry{Verb: "restart", Object: object})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.runner().Count(s.ctx(), run.ID, Counts{FilesExpected: new(int64(3)), FilesFound: new(int64(2))}); err != nil {
		t.Fatal(err)
	}
	card, err := s.runner().Scorecard(t.Context(), run.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(card.Commands); value(card.ManualCommands) != 1 || !strings.Contains(got, "token/ann restart instance/acme") {
		t.Errorf("%d commands: %s", value(card.ManualCommands), got)
	}
	if !slices.Contains(card.Reasons, "2 of 3 files were found") {
		t.Errorf("reasons %q", card.Reasons)
	}
}

func TestAbort(t *testing.T) {
	s := newStage(t, dbtest.Open(t))
	run, err := s.runner().Start(s.ctx(), Order{Kind: Drill, Plan: "lose-paris", Fault: fleet.RecoveryFault{Kind: "cut", For: time.Minute}})
	if err != nil || run.Fault != (fleet.RecoveryFault{Kind: "cut", For: time.Minute}) {
		t.Fatal(run.Fault, err)
	}
	run = s.wants(run.ID, Arming)
	if _, err := s.runner().Abort(s.ctx(), run.ID); err != nil {
		t.Fatal(err)
	}
	run = s.wants(run.ID, Undoing)
	s.finish(run.Operations.Undo, all)
	s.at++
	s.pass()
	s.at++
	if run = s.wants(run.ID, Aborted); run.Why != "aborted by token/ann" {
		t.Errorf("why %q", run.Why)
	}
	if _, err := s.runner().Abort(s.ctx(), run.ID); problem.KindOf(err) != problem.Conflict {
		t.Errorf("an ended run was aborted: %v", err)
	}
}

func TestDrillIsRefused(t *testing.T) {
	for want, change := range map[string]func(*stage){
		"instance/hooli: it runs on paris1 and is not in the scope: the fault would hit it and nobody would rebuild it": func(s *stage) {
			s.world.Inventory.Nodes["paris1"] = holding(s.world.Inventory.Nodes["paris1"], "acme", "globex", "initech", "hooli")
		},
		"node/paris1: a fault is armed or active on it already: [kill d0]": func(s *stage) {
			n := s.world.Inventory.Nodes["paris1"]
			n.Faults = []string{"kill d0"}
			s.world.Inventory.Nodes["paris1"] = n
		},
		"instance/globex: it is placed on paris1, and that node does not report it": func(s *stage) {
			s.world.Inventory.Nodes["paris1"] = holding(s.world.Inventory.Nodes["paris1"], "acme", "initech")
		},
		"instance/acme: it is degraded on paris1: a drill would measure an outage that is there already": func(s *stage) {
			s.world.Inventory.Nodes["paris1"].Instances["acme"] = fleet.InstanceFacts{State: fleet.StateDegraded}
		},
		"the scope matches 2 instances, the plan expects 3": func(s *stage) { delete(s.world.Inventory.Placements, "acme") },
		"there is no recovery plan lose-paris":              func(s *stage) { s.world.Fleet.RecoveryPlans = nil },
	} {
		s := newStage(t, dbtest.Open(t))
		change(s)
		_, err := s.runner().Start(s.ctx(), Order{Kind: Drill, Plan: "lose-paris", Force: true})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
