package op

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/fleet"
	"holdfast/internal/step"
)

// site is a fake of the link and all nodes behind it: each keeps a journal by order id, does an order once, and
// answers a repeated one from the journal. It outlives the servers that the tests kill.
type site struct {
	t       *testing.T
	journal map[string]*step.Update  // order id -> what was done
	outbox  map[string][]step.Update // node -> reports not yet acknowledged
	done    []string                 // effects in order: "operation step"
	served  map[string]int           // server-side effects by order id
	answer  func(step.Order) step.Update
	cut     bool // links are down: orders are lost
	stops   bool // orders that run end when they are asked to
}

func newSite(t *testing.T) *site {
	return &site{t: t, journal: map[string]*step.Update{}, outbox: map[string][]step.Update{}, served: map[string]int{}, answer: func(step.Order) step.Update {
		return step.Update{State: step.Done, Result: json.RawMessage(`{"ok":true}`)}
	}}
}

func (s *site) Send(_ context.Context, node string, signed step.Signed) error {
	if s.cut {
		return errors.New("no link")
	}
	var o step.Order
	if err := json.Unmarshal(signed.Payload, &o); err != nil {
		return err
	}
	say := func(u step.Update) step.Update {
		u.OrderID, u.Operation, u.StepID, u.Attempt = o.ID, o.Operation, o.StepID, o.Attempt
		s.outbox[node] = append(s.outbox[node], u)
		return u
	}
	if final := s.journal[o.ID]; final != nil {
		say(*final)
		return nil
	}
	s.done = append(s.done, o.Operation+" "+o.StepID)
	say(step.Update{State: step.Running, Note: "begun"})
	final := say(s.answer(o))
	s.journal[o.ID] = &final
	return nil
}

// Cancel ends an order that runs, if the site stops at all.
func (s *site) Cancel(_ context.Context, node, id string) error {
	u := s.journal[id]
	if !s.stops || u == nil || u.State.Final() {
		return nil
	}
	u.State = step.Cancelled
	s.outbox[node] = append(s.outbox[node], *u)
	return nil
}

func plain(o step.Order) (step.Signed, error) {
	raw, err := json.Marshal(o)
	return step.Signed{Payload: raw}, err
}

var quiet = slog.New(slog.DiscardHandler)

func (s *site) config(d *db.DB, owner string) Config {
	return Config{
		DB: d, Owner: owner, Alone: true, Dispatcher: s, Sign: plain, Log: quiet, Folder: Folder{Log: quiet},
		Nodes: func(context.Context) (map[string]Node, error) {
			return map[string]Node{"a1": {Site: "a", Reachable: !s.cut}, "b1": {Site: "b", Reachable: !s.cut}}, nil
		},
		Serve: map[step.Kind]Served{
			step.Route: {Do: func(_ context.Context, c Call) (json.RawMessage, error) { return nil, nil }},
			step.Tell:  {Do: func(_ context.Context, c Call) (json.RawMessage, error) { return nil, nil }},
			step.Release: {InTx: func(ctx context.Context, tx db.Tx, c Call) (json.RawMessage, error) {
				s.served[c.OrderID()]++ // counts tries; the test reads rows for effects
				return nil, nil
			}},
		},
	}
}

var errKilled = errors.New("killed")

// server is one life of the server's process. After life boundaries it is dead: nothing of it has an effect any more.
type server struct {
	*Interpreter
	site *site
	life int
	seen int
}

func (s *site) start(d *db.DB, owner string, life int) *server {
	i, err := NewInterpreter(s.config(d, owner))
	if err != nil {
		s.t.Fatal(err)
	}
	v := &server{Interpreter: i, site: s, life: life}
	i.boundary = v.tick
	return v
}

func (v *server) tick(string) error {
	if v.life >= 0 && v.seen >= v.life {
		return errKilled
	}
	v.seen++
	return nil
}

// run drives the operation until it ends or the server dies.
func (v *server) run(ctx context.Context, id string) (ended bool, err error) {
	for range 200 {
		if _, err := v.Pass(ctx); err != nil {
			return false, err
		}
		v.working.Wait()
		if v.life >= 0 && v.seen >= v.life {
			return false, errKilled // it may have died in a step beside the loop
		}
		if err := v.intake(ctx); err != nil {
			return false, err
		}
		if o, err := Get(ctx, v.DB, id); err != nil || o.State.Ended() {
			return true, err
		}
	}
	return false, fmt.Errorf("operation %s does not end", id)
}

// intake folds what nodes have said. A death after the commit loses the acknowledgement: the nodes say it again.
func (v *server) intake(ctx context.Context) error {
	for _, node := range slices.Sorted(maps.Keys(v.site.outbox)) {
		updates := slices.Clone(v.site.outbox[node])
		if len(updates) == 0 {
			continue
		}
		err := v.write(ctx, "reports", func(ctx context.Context, tx db.Tx) error { return v.Folder.Fold(ctx, tx, node, updates) })
		if err != nil {
			return err
		}
		v.site.outbox[node] = v.site.outbox[node][len(updates):]
	}
	return nil
}

func args(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

// graphs are what operations look like, for one instance.
func graphs(instance string) map[string]step.Graph {
	spec := fleet.Spec{Instance: instance, Release: "notes/v1", Fingerprint: "f-" + instance}
	at := func(id, node string, kind step.Kind, a any, needs ...string) step.Planned {
		for n := range needs {
			needs[n] = instance + "/" + needs[n]
		}
		node = strings.ReplaceAll(node, "@claim:", "@claim:"+instance+"/")
		return step.Planned{ID: instance + "/" + id, Node: node, Needs: needs, Step: step.Step{Kind: kind, Instance: instance, Args: args(a), Note: id}}
	}
	discard := at("discard", "b1", step.Discard, step.SlotArgs{Slot: "s2"}, "fetch", "load", "boot", "checks")
	discard.OnFailure = true
	tellFailed := at("tell-failed", "", step.Tell, step.TellArgs{Event: "failed"}, "route")
	tellFailed.OnFailure = true
	return map[string]step.Graph{
		"deploy": {
			at("claim", "", step.Claim, step.ClaimArgs{Node: "a1", Slot: "s1", Spec: spec.Fingerprint, Release: spec.Release}),
			at("stage", "@claim:claim", step.Stage, step.StageArgs{Spec: spec}, "claim"),
			at("boot", "@claim:claim", step.Boot, step.BootArgs{Spec: spec, Slot: "s1"}, "stage"),
			at("ready", "@claim:claim", step.Ready, step.SlotArgs{Slot: "s1"}, "boot"),
			at("switch", "@claim:claim", step.Switch, step.SwitchArgs{Slot: "s1"}, "ready"),
			at("route", "", step.Route, step.RouteArgs{}, "switch"),
		},
		"backup": {at("backup", "a1", step.Backup, step.BackupArgs{Spec: spec})},
		"restore": {
			at("release", "", step.Release, step.ReleaseArgs{Snapshot: "x", ForStep: "fetch"}),
			at("fetch", "b1", step.Fetch, step.FetchArgs{Slot: "s2", Spec: spec}, "release"),
			at("load", "b1", step.Load, step.SlotArgs{Slot: "s2"}, "fetch"),
			at("boot", "b1", step.Boot, step.BootArgs{Spec: spec, Slot: "s2"}, "load"),
			at("checks", "b1", step.Checks, step.SlotArgs{Slot: "s2"}, "boot"),
			discard,
			at("claim", "", step.Claim, step.ClaimArgs{Node: "b1", Slot: "s2", Spec: spec.Fingerprint, Release: spec.Release}, "checks"),
			at("switch", "b1", step.Switch, step.SwitchArgs{Slot: "s2"}, "claim"),
			at("route", "", step.Route, step.RouteArgs{}, "switch"),
		},
		"recover": { // an instance of recovery.Graph: it is claimed, and so fenced elsewhere, before a byte moves
			at("tell-declared", "", step.Tell, step.TellArgs{Event: "declared"}),
			at("claim", "", step.Claim, step.ClaimArgs{Node: "b1", Slot: "s2", Spec: spec.Fingerprint, Release: spec.Release}),
			at("release", "", step.Release, step.ReleaseArgs{Snapshot: "x", ForStep: "fetch"}, "claim"),
			at("fetch", "b1", step.Fetch, step.FetchArgs{Slot: "s2", Spec: spec}, "release"),
			at("load", "b1", step.Load, step.SlotArgs{Slot: "s2"}, "fetch"),
			at("boot", "b1", step.Boot, step.BootArgs{Spec: spec, Slot: "s2", Restored: true}, "load"),
			at("ready", "b1", step.Ready, step.SlotArgs{Slot: "s2"}, "boot"),
			at("checks", "b1", step.Checks, step.SlotArgs{Slot: "s2"}, "ready"),
			at("switch", "b1", step.Switch, step.SwitchArgs{Slot: "s2"}, "checks"),
			at("route", "", step.Route, step.RouteArgs{}, "switch"),
			at("tell-restored", "", step.Tell, step.TellArgs{Event: "restored"}, "route"),
			tellFailed,
		},
	}
}

func submit(t *testing.T, d *db.DB, n New) Operation {
	t.Helper()
	o, err := trySubmit(d, n)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func trySubmit(d *db.DB, n New) (o Operation, err error) {
	if n.Actor == "" {
		n.Actor = "test"
	}
	if n.Title == "" {
		n.Title = n.Kind
	}
	err = d.Tx(context.Background(), func(ctx context.Context, tx db.Tx) error {
		o, err = Submit(ctx, tx, n)
		return err
	})
	return o, err
}

// story is what must be the same whether or not servers died: how each step ended and what was done, once.
type story struct {
	State  State
	Steps  map[string]string
	Done   []string
	Epoch  int64
	Node   string
	States []string // of the events, without repetitions
}

func tell(t *testing.T, d *db.DB, s *site, instance, id string) story {
	t.Helper()
	ctx := context.Background()
	shown, err := Show(ctx, d, id)
	if err != nil {
		t.Fatal(err)
	}
	out := story{State: shown.Operation.State, Steps: map[string]string{}}
	short := func(text string) string { return strings.ReplaceAll(strings.ReplaceAll(text, instance, "I"), id, "OP") }
	for _, st := range shown.Steps {
		out.Steps[short(st.ID)] = fmt.Sprintf("%s attempt %d at %s", st.State, st.Attempt, st.Placed)
	}
	for _, done := range s.done {
		if strings.HasPrefix(done, id+" ") {
			out.Done = append(out.Done, short(done))
		}
	}
	p, _, err := PlacementOf(ctx, d, instance)
	if err != nil {
		t.Fatal(err)
	}
	out.Epoch, out.Node = p.Epoch, p.Node
	out.States = told1(t, d, id, short)
	return out
}

// told1 reads the events, checks that their numbers have no gap, and drops repetitions of one state of one step.
func told1(t *testing.T, d *db.DB, id string, short func(string) string) []string {
	t.Helper()
	events, err := EventsOf(context.Background(), d, id, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var states []string
	last := map[string]string{}
	for n, e := range events {
		if e.Seq != int64(n+1) {
			t.Fatalf("event %d of operation %s has the number %d", n+1, id, e.Seq)
		}
		if last[e.Step] != e.State {
			states = append(states, short(e.Step)+" "+e.State)
		}
		last[e.Step] = e.State
	}
	slices.Sort(states) // steps that do not wait for each other may come in any order
	return states
}

func TestKilledServerAtEveryBoundaryEndsAsIfUninterrupted(t *testing.T) {
	dbtest.Each(t, killEverywhere)
}

func killEverywhere(t *testing.T, d *db.DB) {
	ctx := context.Background()
	for _, kind := range []string{"deploy", "backup", "restore", "recover"} {
		t.Run(kind, func(t *testing.T) {
			whole := newSite(t)
			o := submit(t, d, New{Kind: kind, Graph: graphs(kind + "-x")[kind], Instances: []string{kind + "-x"}})
			first := whole.start(d, "x", -1)
			if ended, err := first.run(ctx, o.ID); err != nil || !ended {
				t.Fatalf("uninterrupted run: ended %v, %v", ended, err)
			}
			want := tell(t, d, whole, kind+"-x", o.ID)
			if want.State != Done {
				t.Fatalf("uninterrupted run ended as %s", want.State)
			}
			if first.seen < 3*len(want.Done) {
				t.Fatalf("only %d boundaries seen for %d effects", first.seen, len(want.Done))
			}
			for life := range first.seen {
				killAndGoOn(t, d, kind, life, want)
			}
		})
	}
}

func killAndGoOn(t *testing.T, d *db.DB, kind string, life int, want story) {
	t.Helper()
	ctx := context.Background()
	s := newSite(t)
	instance := fmt.Sprintf("%s-%d", kind, life)
	o := submit(t, d, New{Kind: kind, Graph: graphs(instance)[kind], Instances: []string{instance}})
	dying := s.start(d, instance+"-1", life)
	if ended, err := dying.run(ctx, o.ID); !errors.Is(err, errKilled) && !ended {
		t.Fatalf("life %d: %v", life, err)
	}
	heir := s.start(d, instance+"-2", -1)
	if ended, err := heir.run(ctx, o.ID); err != nil || !ended {
		t.Fatalf("life %d: the next server did not end it: %v", life, err)
	}
	if diff := cmp.Diff(want, tell(t, d, s, instance, o.ID)); diff != "" {
		t.Errorf("killed after %d boundaries of %s (-uninterrupted +resumed):\n%s", life, kind, diff)
	}
	if held, err := leases(ctx, d); err != nil || len(held) > 0 {
		t.Errorf("leases left over: %v %v", held, err)
	}
}
