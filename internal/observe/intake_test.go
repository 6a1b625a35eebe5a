package observe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/step"
)

var quiet = slog.New(slog.DiscardHandler)

// folded collects what the observer hands on.
type folded struct{ updates []string }

func observer(d *db.DB, to *folded) *Observer {
	return &Observer{DB: d, Log: quiet, Fold: func(_ context.Context, _ db.Tx, node string, updates []step.Update) error {
		for _, u := range updates {
			to.updates = append(to.updates, node+" "+u.OrderID)
		}
		return nil
	}}
}

func batch(from, to int64) []link.Report {
	var all []link.Report
	for seq := from; seq <= to; seq++ {
		all = append(all,
			link.Report{Seq: 3*seq - 2, Update: &step.Update{OrderID: fmt.Sprint(seq)}},
			link.Report{Seq: 3*seq - 1, Result: &link.Result{Check: "edge", Instance: "acme", OK: true, At: time.UnixMicro(seq)}},
			link.Report{Seq: 3 * seq, Event: &link.Event{Kind: "boot", Note: fmt.Sprint(seq), At: time.UnixMicro(seq)}})
	}
	return all
}

func TestIntakeTakesEachReportOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		var got folded
		o := observer(d, &got)
		for _, c := range []struct {
			reports []link.Report
			through int64
		}{
			{nil, 0}, {batch(1, 2), 6}, {batch(1, 2), 6}, {batch(1, 3), 9}, {batch(2, 2), 9}, {batch(5, 5), 15}, {nil, 15},
		} {
			through, err := o.Intake(ctx, "a1", c.reports)
			if err != nil || through != c.through {
				t.Fatalf("intake gave %d, %v; want %d", through, err, c.through)
			}
		}
		if want := []string{"a1 1", "a1 2", "a1 3", "a1 5"}; fmt.Sprint(got.updates) != fmt.Sprint(want) {
			t.Errorf("updates %v, want %v", got.updates, want)
		}
		results, err := Results(ctx, d, 0, time.Time{}, 100)
		if err != nil || len(results) != 4 || results[3].ID != 4 {
			t.Errorf("results %v, %v", results, err)
		}
		events, err := Events(ctx, d, 1, time.Time{}, 100)
		if err != nil || len(events) != 3 || events[0].Note != "2" || events[2].ID != 4 {
			t.Errorf("events %v, %v", events, err)
		}
	})
}

func TestIntakeIsWholeOrNotAtAll(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		var got folded
		o := observer(d, &got)
		whole := o.Fold
		boom := errors.New("boom")
		o.Fold = func(context.Context, db.Tx, string, []step.Update) error { return boom }
		if _, err := o.Intake(ctx, "a1", batch(1, 1)); !errors.Is(err, boom) {
			t.Fatalf("intake gave %v", err)
		}
		o.Fold = whole
		if through, err := o.Intake(ctx, "a1", batch(1, 1)); err != nil || through != 3 {
			t.Fatalf("after a rollback intake gave %d, %v", through, err)
		}
		if results, err := Results(ctx, d, 0, time.Time{}, 100); err != nil || len(results) != 1 || results[0].ID != 1 {
			t.Errorf("results %v, %v", results, err)
		}
	})
}

func TestAProberInTroubleSaysNothing(t *testing.T) {
	n := sift("p1", 0, []link.Report{
		{Seq: 1, Result: &link.Result{Check: "edge", Instance: "acme", Inconclusive: true}},
		{Seq: 2, Result: &link.Result{Check: "edge", Instance: "acme"}},
	})
	if n.last != 2 || len(n.results) != 1 || n.results[0].Inconclusive {
		t.Errorf("kept %+v", n)
	}
}

func TestNodesThatReportAtOnceShareACommitAndNotTheirTrouble(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		o := observer(d, &folded{})
		o.Fold = func(_ context.Context, _ db.Tx, node string, _ []step.Update) error {
			if node == "n3" {
				return errors.New("boom")
			}
			return nil
		}
		commits := make(chan struct{})
		inside := make(chan struct{})
		held := make(chan error)
		go func() { // a transaction that runs while all of them come
			held <- d.Tx(ctx, func(context.Context, db.Tx) error {
				close(inside)
				<-commits
				return nil
			})
		}()
		<-inside
		type answer struct {
			node    string
			through int64
			err     error
		}
		answers, asked := make(chan answer), make(chan struct{})
		for n := range 8 {
			go func() {
				node := fmt.Sprint("n", n)
				asked <- struct{}{}
				through, err := o.Intake(ctx, node, batch(1, 2))
				answers <- answer{node, through, err}
			}()
		}
		for range 8 {
			<-asked
		}
		commits <- struct{}{}
		if err := <-held; err != nil {
			t.Fatal(err)
		}
		for range 8 {
			a := <-answers
			if bad := a.node == "n3"; bad != (a.err != nil) || !bad && a.through != 6 {
				t.Errorf("node %s: through %d, %v", a.node, a.through, a.err)
			}
		}
		if results, err := Results(ctx, d, 0, time.Time{}, 100); err != nil || len(results) != 14 || results[13].ID != 14 {
			t.Errorf("%d results, %v", len(results), err)
		}
	})
}

func TestFactsOfASilentNodeAreUnknown(t *testing.T) {
	d := dbtest.Open(t)
	ctx := context.Background()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	d.SetClock(func() time.Time { return now })
	o := observer(d, &folded{})
	facts := fleet.NodeFacts{Node: "a1", Site: "a", SealTo: "age1x", Instances: map[string]fleet.InstanceFacts{"acme": {State: fleet.StateRunning}}}
	foreign := fleet.NodeFacts{Node: "b1", Site: "b"}
	if _, err := o.Intake(ctx, "a1", []link.Report{{Seq: 1, Facts: &facts}, {Seq: 2, Facts: &foreign}}); err != nil {
		t.Fatal(err)
	}
	expect := func(state fleet.InstanceState, reachable bool, seen time.Time) {
		t.Helper()
		inventory, err := o.Inventory(ctx)
		if err != nil || len(inventory.Nodes) != 1 || inventory.Nodes["a1"].Instances["acme"].State != state || !inventory.Nodes["a1"].SeenAt.Equal(seen) {
			t.Errorf("inventory %+v, %v; want %s seen at %s", inventory, err, state, seen)
		}
		nodes, err := o.Nodes(ctx)
		if err != nil || nodes["a1"].Reachable != reachable || nodes["a1"].Site != "a" || nodes["a1"].SealTo != "age1x" {
			t.Errorf("nodes %+v, %v; want reachable %v", nodes, err, reachable)
		}
	}
	began := now
	expect(fleet.StateRunning, true, began)
	now = now.Add(Silent)
	expect(fleet.StateRunning, true, began)
	now = now.Add(time.Microsecond)
	expect(fleet.StateUnknown, false, began)
	if _, err := o.Intake(ctx, "a1", []link.Report{{Seq: 3, Event: &link.Event{Kind: "boot"}}}); err != nil {
		t.Fatal(err)
	}
	expect(fleet.StateRunning, true, now)
}
