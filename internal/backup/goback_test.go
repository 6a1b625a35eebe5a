package backup

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/fleet"
	"holdfast/internal/op"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// company is two nodes that do what they are ordered, in memory: which slots they hold, and which one serves.
type company struct {
	slots   map[string]map[string]bool // node -> its slots
	serving map[string]string          // node -> the slot that serves
	fails   string                     // step that fails
	said    map[string][]step.Update   // node -> words not yet heard
}

func (c *company) Send(_ context.Context, node string, signed step.Signed) error {
	var o step.Order
	if err := json.Unmarshal(signed.Payload, &o); err != nil {
		return err
	}
	u := step.Update{OrderID: o.ID, Operation: o.Operation, StepID: o.StepID, Attempt: o.Attempt, State: step.Done, Result: raw(struct{}{})}
	if o.StepID == c.fails {
		u.State, u.Error, u.ErrorKind = step.Failed, "the port is taken", string(problem.Conflict)
		if o.Step.Kind == step.Switch {
			c.serving[node] = "" // it had left the old slot when it failed
		}
	} else {
		c.obeys(node, o)
	}
	c.said[node] = append(c.said[node], u)
	return nil
}

func (c *company) obeys(node string, o step.Order) {
	var args struct{ Slot string }
	_ = json.Unmarshal(o.Step.Args, &args) // kinds without a slot have none
	switch o.Step.Kind {
	case step.Fetch:
		c.slots[node][args.Slot] = true
	case step.Discard:
		delete(c.slots[node], args.Slot)
	case step.Switch:
		c.serving[node] = args.Slot
	case step.Fence:
		c.serving[node] = ""
	default: // moves nothing
	}
}

func (*company) Cancel(context.Context, string, string) error { return nil }

// carry runs an operation to its end with the real interpreter.
func (w *world) carry(c *company, id string) op.Operation {
	w.Helper()
	folder := op.Folder{Log: slog.New(slog.DiscardHandler)}
	nothing := op.Served{InTx: func(context.Context, db.Tx, op.Call) (json.RawMessage, error) { return nil, nil }}
	orders, err := op.NewInterpreter(op.Config{
		DB: w.db, Owner: "test", Alone: true, Dispatcher: c, Folder: folder, Log: slog.New(slog.DiscardHandler),
		Serve: map[step.Kind]op.Served{step.Release: nothing, step.Route: nothing, step.Tell: nothing},
		Sign:  func(o step.Order) (step.Signed, error) { return step.Signed{Payload: raw(o)}, nil },
		Nodes: func(context.Context) (map[string]op.Node, error) {
			return map[string]op.Node{"a1": {Site: "a", Reachable: true}, "b1": {Site: "b", Reachable: true}}, nil
		},
	})
	fatal(w.T, err)
	for range 200 {
		_, err := orders.Pass(context.Background())
		fatal(w.T, err)
		for node, said := range c.said {
			w.tx(func(ctx context.Context, tx db.Tx) error { return folder.Fold(ctx, tx, node, said) })
			delete(c.said, node)
		}
		o, err := op.Get(context.Background(), w.db, id)
		fatal(w.T, err)
		if o.State.Ended() {
			return o
		}
	}
	w.Fatalf("operation %s does not end", id)
	return op.Operation{}
}

// A restore that fails leaves what served before, also when it fails after the instance was placed anew: the writer
// goes back, the old slot serves again and the new one is gone.
func TestRestoreThatFailsLeavesWhatServedBefore(t *testing.T) {
	for name, c := range map[string]struct {
		to, fails string
		epoch     int64
	}{
		"to another node, before the claim": {"b1", "acme/checks", 1},
		"to another node, at the fence":     {"b1", "acme/fence", 3},
		"to another node, at the switch":    {"b1", "acme/switch", 3},
		"where it is, before the claim":     {"a1", "acme/boot", 1},
		"where it is, at the switch":        {"a1", "acme/switch", 3},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, dbtest.Open(t))
			w.backedUp("aa11", time.Now())
			nodes := World{Nodes: map[string]fleet.NodeFacts{"a1": {Roles: []fleet.Role{fleet.RoleRun}}, "b1": {Roles: []fleet.Role{fleet.RoleSpare}}}, Reachable: func(string) bool { return true }}
			var o op.Operation
			w.tx(func(ctx context.Context, tx db.Tx) (err error) {
				o, err = BeginRestore(ctx, tx, "token/ada", Ask{Instance: "acme", Node: c.to}, nodes)
				return err
			})
			company := &company{
				slots:   map[string]map[string]bool{"a1": {"s1": true}, "b1": {}},
				serving: map[string]string{"a1": "s1"}, fails: c.fails, said: map[string][]step.Update{},
			}
			ended := w.carry(company, o.ID)
			if ended.State != op.Failed || !strings.Contains(ended.Why, c.fails) {
				t.Errorf("ended as %s: %s", ended.State, ended.Why)
			}
			if company.serving["a1"] != "s1" || company.serving["b1"] != "" {
				t.Errorf("serving %v", company.serving)
			}
			if len(company.slots["a1"]) != 1 || len(company.slots["b1"]) != 0 {
				t.Errorf("slots %v", company.slots)
			}
			p, _, err := op.PlacementOf(context.Background(), w.db, "acme")
			if err != nil || p.Node != "a1" || p.Slot != "s1" || p.Spec != "f1" || p.Epoch != c.epoch || p.Home.Site != "" {
				t.Errorf("placed %+v, %v", p, err)
			}
		})
	}
}

// One that works leaves nothing of the way back behind.
func TestRestoreThatWorksGoesNowhereElse(t *testing.T) {
	w := newWorld(t, dbtest.Open(t))
	w.backedUp("aa11", time.Now())
	o, err := w.ask()
	fatal(t, err)
	company := &company{slots: map[string]map[string]bool{"a1": {"s1": true}, "b1": {}}, serving: map[string]string{"a1": "s1"}, said: map[string][]step.Update{}}
	if ended := w.carry(company, o.ID); ended.State != op.Done {
		t.Errorf("ended as %s: %s", ended.State, ended.Why)
	}
	if p, _, err := op.PlacementOf(context.Background(), w.db, "acme"); err != nil || p.Node != "b1" || p.Epoch != 2 || company.serving["a1"] != "" || company.serving["b1"] != "s2" || !company.slots["a1"]["s1"] {
		t.Errorf("placed %+v, %v, %+v", p, err, company)
	}
}
