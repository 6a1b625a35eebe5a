package recovery

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/link"
	"holdfast/internal/observe"
	"holdfast/internal/op"
	"holdfast/internal/step"
)

// playedNodes takes the orders that the real interpreter sends, and answers them as nodes do.
type playedNodes struct {
	orders chan step.Order
	fail   string // step id that fails
}

func (p *playedNodes) Send(_ context.Context, _ string, signed step.Signed) error {
	var o step.Order
	if err := json.Unmarshal(signed.Payload, &o); err != nil {
		return err
	}
	p.orders <- o
	return nil
}

func (*playedNodes) Cancel(context.Context, string, string) error { return nil }

// update is the node's word about an order.
func (p *playedNodes) update(o step.Order, at time.Time) step.Update {
	u := step.Update{OrderID: o.ID, Operation: o.Operation, StepID: o.StepID, Attempt: o.Attempt, State: step.Done, At: at}
	if o.StepID == p.fail {
		u.State, u.Error = step.Failed, "the disk is full"
		return u
	}
	if result, _ := restore(op.Step{Kind: o.Step.Kind}); result != nil {
		u.Result = encode(result)
	}
	return u
}

// interpret runs the operation to its end with the real interpreter.
func (s *stage) interpret(id string, nodes *playedNodes) op.Operation {
	s.t.Helper()
	folder := op.Folder{Log: slog.New(slog.DiscardHandler)}
	observer := &observe.Observer{DB: s.d, Fold: folder.Fold, Log: slog.New(slog.DiscardHandler)}
	nothing := op.Served{InTx: func(context.Context, db.Tx, op.Call) (json.RawMessage, error) { return nil, nil }}
	orders, err := op.NewInterpreter(op.Config{
		DB: s.d, Owner: "test", Alone: true, Dispatcher: nodes, Folder: folder, Log: slog.New(slog.DiscardHandler),
		Serve: map[step.Kind]op.Served{step.Release: nothing, step.Route: nothing, step.Tell: nothing},
		Sign:  func(o step.Order) (step.Signed, error) { return step.Signed{Payload: encode(o)}, nil },
		Nodes: func(context.Context) (map[string]op.Node, error) {
			return map[string]op.Node{"lyon1": {Site: "lyon", Reachable: true}, "lyon2": {Site: "lyon", Reachable: true}}, nil
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	for range 200 {
		if _, err := orders.Pass(s.t.Context()); err != nil {
			s.t.Fatal(err)
		}
		s.at += 0.1
		s.answer(observer, nodes)
		o, err := op.Get(s.t.Context(), s.d, id)
		if err != nil {
			s.t.Fatal(err)
		}
		if o.State.Ended() {
			return o
		}
	}
	s.t.Fatalf("operation %s does not end", id)
	return op.Operation{}
}

func (s *stage) answer(observer *observe.Observer, nodes *playedNodes) {
	s.t.Helper()
	for {
		select {
		case o := <-nodes.orders:
			u := nodes.update(o, sec(s.at))
			s.seq[o.Node]++
			if _, err := observer.Intake(s.t.Context(), o.Node, []link.Report{{Seq: s.seq[o.Node], At: sec(s.at), Update: &u}}); err != nil {
				s.t.Fatal(err)
			}
		default:
			return
		}
	}
}

// The interpreter carries the graph: every instance is claimed at a new epoch before a byte of it moves, and the card
// is of the steps that really ran. One instance that fails holds no other back.
func TestRecoveryThroughTheInterpreter(t *testing.T) {
	s := newStage(t, dbtest.Open(t))
	s.probe(false, 3)
	run, err := s.runner().Start(s.ctx(), Order{Kind: Real, Plan: "lose-paris"})
	if err != nil {
		t.Fatal(err)
	}
	run = s.wants(run.ID, Recovering)
	nodes := &playedNodes{orders: make(chan step.Order, 1000), fail: "globex/load"}
	if o := s.interpret(run.Operations.Recover, nodes); o.State != op.Partly || o.Counts.InstancesDone != 2 {
		t.Errorf("operation %s with %d instances done: %s", o.State, o.Counts.InstancesDone, o.Why)
	}
	placed, err := op.Placements(t.Context(), s.d)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range run.Assignments {
		if p := placed[a.Instance]; p.Node != a.Node || p.Site != "lyon" || p.Epoch != 1 || p.Slot == "" || p.Slot == "s1" {
			t.Errorf("%s is placed %+v, not on %s", a.Instance, p, a.Node)
		}
	}
	s.wants(run.ID, Validating)
	card, err := s.runner().Scorecard(t.Context(), run.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range card.Instances {
		if failed := i.Name == "globex"; (i.RestoreSeconds == nil) != failed || !failed && len(i.Steps) != len(phases()) {
			t.Errorf("%s: restored in %s over %d bars, notes %q", i.Name, Seconds(i.RestoreSeconds), len(i.Steps), i.Notes)
		}
	}
	if at := card.Instances[0].DataLossSeconds; at == nil {
		t.Error("the fetched canary was not found")
	}
}
