package op

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// stage is one server with its site and a clock that the test moves.
type stage struct {
	*server
	t   *testing.T
	now time.Time
}

func newStage(t *testing.T, d *db.DB) *stage {
	s := &stage{t: t, now: epoch}
	d.SetClock(func() time.Time { return s.now })
	t.Cleanup(func() { d.SetClock(time.Now) })
	s.server = newSite(t).start(d, "s1", -1)
	return s
}

func (s *stage) submit(n New) Operation { s.t.Helper(); return submit(s.t, s.DB, n) }

// pass lets the server and the nodes do what is to be done now, moving the clock just enough to see the nodes afresh.
func (s *stage) pass() {
	s.t.Helper()
	ctx := context.Background()
	for range 4 {
		s.now = s.now.Add(nodesEvery)
		if _, err := s.Pass(ctx); err != nil {
			s.t.Fatal(err)
		}
		s.working.Wait()
		if err := s.intake(ctx); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *stage) toEnd(id string) Shown {
	s.t.Helper()
	for range 40 {
		s.pass()
		if o := s.show(id); o.Operation.State.Ended() {
			return o
		}
	}
	s.t.Fatalf("operation %s does not end: %+v", id, s.show(id).Steps)
	return Shown{}
}

func (s *stage) show(id string) Shown {
	s.t.Helper()
	o, err := Show(context.Background(), s.DB, id)
	if err != nil {
		s.t.Fatal(err)
	}
	return o
}

// states gives "step state" of every step.
func states(o Shown) string {
	var all []string
	for _, s := range o.Steps {
		_, short, _ := strings.Cut(s.ID, "/")
		all = append(all, short+" "+string(s.State))
	}
	return strings.Join(all, ", ")
}

func failing(kind step.Kind, retryable bool, times int) func(step.Order) step.Update {
	return func(o step.Order) step.Update {
		if o.Step.Kind == kind && o.Attempt <= times {
			return step.Update{State: step.Failed, Error: "no room", ErrorKind: string(problem.Unavailable), Hint: "make room", Retryable: retryable}
		}
		return step.Update{State: step.Done}
	}
}

func TestFailedChecksLeaveWhatServedAndDiscardTheSlot(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := newStage(t, d)
		deploy := s.submit(New{Kind: "deploy", Graph: graphs("acme")["deploy"], Instances: []string{"acme"}})
		s.toEnd(deploy.ID)
		before, _, _ := PlacementOf(context.Background(), d, "acme")
		s.site.answer = failing(step.Checks, false, 9)
		o := s.toEnd(s.submit(New{Kind: "restore", Graph: graphs("acme")["restore"], Instances: []string{"acme"}}).ID)
		want := "release done, fetch done, load done, boot done, checks failed, discard done, claim cancelled, switch cancelled, route cancelled"
		if got := states(o); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if o.Operation.State != Failed || o.Operation.Why != "acme/checks on b1: no room" {
			t.Errorf("ended as %s: %s", o.Operation.State, o.Operation.Why)
		}
		if after, _, _ := PlacementOf(context.Background(), d, "acme"); after != before {
			t.Errorf("placement was %+v and is %+v", before, after)
		}
	})
}

func TestOneFailureStopsOnlyItsDependants(t *testing.T) {
	s := newStage(t, dbtest.Open(t))
	graph := append(graphs("acme")["deploy"], graphs("bolt")["deploy"]...)
	s.site.answer = func(o step.Order) step.Update {
		if o.Step.Instance == "acme" {
			return failing(step.Boot, false, 9)(o)
		}
		return step.Update{State: step.Done}
	}
	o := s.toEnd(s.submit(New{Kind: "deploy", Graph: graph, Instances: []string{"acme", "bolt"}}).ID)
	c := o.Operation.Counts
	if o.Operation.State != Partly || c.Instances != 2 || c.InstancesDone != 1 || c.Failed != 1 || c.Cancelled != 3 || c.Done != 8 {
		t.Errorf("ended as %s with %+v", o.Operation.State, c)
	}
	if kind := problem.KindOf(o.Operation.Err()); kind != problem.Partial {
		t.Errorf("a command that waited for it ends with kind %s", kind)
	}
}

func TestRetryWaitsLongerEachTime(t *testing.T) {
	s := newStage(t, dbtest.Open(t))
	s.site.answer = failing(step.Backup, true, 2)
	o := s.submit(New{Kind: "backup", Graph: graphs("acme")["backup"], Instances: []string{"acme"}})
	s.pass()
	first := s.show(o.ID).Steps[0]
	if first.State != step.Waiting || first.Attempt != 1 || !strings.Contains(first.Note, "trying again in 2s") {
		t.Fatalf("after one failure: %+v", first)
	}
	s.now = first.NotBefore
	s.pass()
	second := s.show(o.ID).Steps[0]
	if second.Attempt != 2 || second.NotBefore.Sub(s.now) > 4*time.Second || second.NotBefore.Sub(s.now) < 2*time.Second {
		t.Fatalf("after two failures at %s: %+v", s.now, second)
	}
	s.now = second.NotBefore
	end := s.toEnd(o.ID)
	if end.Operation.State != Done || end.Steps[0].Attempt != 3 || end.Steps[0].Error != "" {
		t.Errorf("ended as %s: %+v", end.Operation.State, end.Steps[0])
	}
}

func TestRetriesEnd(t *testing.T) {
	s := newStage(t, dbtest.Open(t))
	s.site.answer = failing(step.Backup, true, 99)
	o := s.submit(New{Kind: "backup", Graph: graphs("acme")["backup"], Instances: []string{"acme"}})
	for range 5 {
		s.pass()
		s.now = s.now.Add(maxBackoff)
	}
	if end := s.show(o.ID); end.Operation.State != Failed || end.Steps[0].Attempt != 3 || end.Steps[0].Hint != "make room" {
		t.Errorf("ended as %s: %+v", end.Operation.State, end.Steps[0])
	}
}

func TestSilentNodeIsUnknownAndNeverRounded(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := newStage(t, d)
		s.site.answer = func(step.Order) step.Update { return step.Update{State: step.Running, Note: "reading"} }
		kept := 0
		s.Folder.Ended = map[step.Kind]func(context.Context, db.Tx, Ending) error{step.Backup: func(_ context.Context, _ db.Tx, e Ending) error {
			kept++
			if len(e.Step.Args) == 0 || e.Node != "a1" || string(e.Step.Result) != `{"snapshot":"7f"}` {
				t.Errorf("ending %+v", e)
			}
			return nil
		}}
		o := s.submit(New{Kind: "backup", Graph: graphs("acme")["backup"], Instances: []string{"acme"}, Patience: time.Minute})
		s.pass()
		s.site.cut = true
		s.pass()
		if got := s.show(o.ID); got.Steps[0].State != step.Unknown || got.Operation.State != Running {
			t.Fatalf("after the node went silent: %+v", got)
		}
		s.now = s.now.Add(time.Minute)
		end := s.toEnd(o.ID)
		if end.Operation.State != Unknown || end.Steps[0].State != step.Unknown || end.Operation.Counts.Unknown != 1 {
			t.Fatalf("ended as %s: %+v", end.Operation.State, end.Steps[0])
		}
		if held, err := leases(context.Background(), d); err != nil || len(held) > 0 {
			t.Errorf("leases left over: %v %v", held, err)
		}
		late := step.Update{Operation: o.ID, StepID: "acme/backup", Attempt: 1, State: step.Done, Result: json.RawMessage(`{"snapshot":"7f"}`)}
		s.site.outbox["a1"] = []step.Update{late, late}
		if err := s.intake(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := s.show(o.ID); got.Steps[0].State != step.Done || got.Operation.State != Unknown || kept != 1 {
			t.Errorf("the late truth: step %s, operation %s, kept %d times", got.Steps[0].State, got.Operation.State, kept)
		}
	})
}

func TestNodeThatComesBackGetsTheSameOrder(t *testing.T) {
	s := newStage(t, dbtest.Open(t))
	s.site.answer = func(step.Order) step.Update { return step.Update{State: step.Running, Note: "reading"} }
	o := s.submit(New{Kind: "backup", Graph: graphs("acme")["backup"], Instances: []string{"acme"}})
	s.pass()
	s.site.cut = true
	s.pass()
	final := step.Update{OrderID: o.ID + "/acme/backup/1", Operation: o.ID, StepID: "acme/backup", Attempt: 1, State: step.Done}
	s.site.journal[final.OrderID] = &final // it was done meanwhile, and the report is lost
	s.site.cut = false
	s.Connected("a1")
	end := s.toEnd(o.ID)
	if end.Operation.State != Done || end.Steps[0].Attempt != 1 || len(s.site.done) != 1 {
		t.Errorf("ended as %s after attempt %d with effects %v", end.Operation.State, end.Steps[0].Attempt, s.site.done)
	}
}

func TestLostOrderGoesOutAgain(t *testing.T) {
	s := newStage(t, dbtest.Open(t))
	o := s.submit(New{Kind: "backup", Graph: graphs("acme")["backup"], Instances: []string{"acme"}})
	real := s.Dispatcher
	s.Dispatcher = deaf{}
	s.pass()
	if got := s.show(o.ID).Steps[0].State; got != step.Sent {
		t.Fatalf("the step is %s", got)
	}
	s.Dispatcher = real
	s.pass()
	if len(s.site.done) != 0 {
		t.Fatalf("it went out again at once")
	}
	s.now = s.now.Add(resendAfter)
	if end := s.toEnd(o.ID); end.Operation.State != Done || end.Steps[0].Attempt != 1 {
		t.Errorf("ended as %s: %+v", end.Operation.State, end.Steps[0])
	}
}

// deaf is a link that loses everything without a word.
type deaf struct{}

func (deaf) Send(context.Context, string, step.Signed) error { return nil }
func (deaf) Cancel(context.Context, string, string) error    { return nil }

func (s *stage) cancel(id string) {
	s.t.Helper()
	err := s.DB.Tx(context.Background(), func(ctx context.Context, tx db.Tx) error {
		_, err := Cancel(ctx, tx, id, "token/ada")
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func TestCancelStopsWhatRunsAndNamesTheRest(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := newStage(t, d)
		s.site.answer = func(o step.Order) step.Update {
			if o.Step.Kind == step.Load {
				return step.Update{State: step.Running, Note: "loading"}
			}
			return step.Update{State: step.Done}
		}
		s.site.stops = true
		o := s.submit(New{Kind: "restore", Graph: graphs("acme")["restore"], Instances: []string{"acme"}, Resume: "holdfast restore instance/acme"})
		s.pass()
		s.cancel(o.ID)
		s.cancel(o.ID) // twice changes nothing
		end := s.toEnd(o.ID)
		want := "release done, fetch done, load cancelled, boot cancelled, checks cancelled, discard done, claim cancelled, switch cancelled, route cancelled"
		if got := states(end); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		err := end.Operation.Err()
		if end.Operation.State != Cancelled || !strings.Contains(err.Error(), "was cancelled: by token/ada") || hintOf(err) != "holdfast restore instance/acme" {
			t.Errorf("ended as %s: %v", end.Operation.State, err)
		}
	})
}

func TestCancelThatIsNotAnsweredEndsAsUnknown(t *testing.T) {
	s := newStage(t, dbtest.Open(t))
	s.site.answer = func(step.Order) step.Update { return step.Update{State: step.Running} }
	o := s.submit(New{Kind: "backup", Graph: graphs("acme")["backup"], Instances: []string{"acme"}})
	s.pass()
	s.cancel(o.ID)
	s.pass()
	s.now = s.now.Add(cancelGrace)
	end := s.toEnd(o.ID)
	if end.Steps[0].State != step.Unknown || !strings.Contains(end.Steps[0].Note, "did not answer within 30s") || end.Operation.State != Cancelled {
		t.Errorf("ended as %s: %+v", end.Operation.State, end.Steps[0])
	}
}

func TestOverdueStepIsStoppedAndHasFailed(t *testing.T) {
	s := newStage(t, dbtest.Open(t))
	s.site.stops = true
	s.site.answer = func(step.Order) step.Update { return step.Update{State: step.Running} }
	o := s.submit(New{Kind: "backup", Graph: graphs("acme")["backup"], Instances: []string{"acme"}})
	s.pass()
	s.now = s.now.Add(policyOf(step.Backup).within)
	end := s.toEnd(o.ID)
	if end.Operation.State != Failed || end.Steps[0].Error != "it took longer than 6h0m0s and was stopped" {
		t.Errorf("ended as %s: %+v", end.Operation.State, end.Steps[0])
	}
}

func TestSecondOperationOnAnInstanceIsBusy(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := newStage(t, d)
		s.site.answer = func(step.Order) step.Update { return step.Update{State: step.Running} }
		o := s.submit(New{Kind: "backup", Title: "back up acme", Graph: graphs("acme")["backup"], Instances: []string{"acme"}})
		s.pass()
		_, err := trySubmit(d, New{Kind: "restore", Title: "restore acme", Graph: graphs("acme")["restore"], Instances: []string{"acme"}})
		want := "restore acme was not begun: operation " + o.ID + " (back up acme) holds instance acme"
		if p, ok := errors.AsType[*problem.Error](err); !ok || p.Kind != problem.Busy || p.Message != want || p.Hint != "holdfast op watch "+o.ID {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}

func TestRecoveryTakesAnInstanceAway(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := newStage(t, d)
		s.site.answer = func(o step.Order) step.Update {
			if o.Step.Kind == step.Stage {
				return step.Update{State: step.Running}
			}
			return step.Update{State: step.Done}
		}
		s.site.stops = true
		old := s.submit(New{Kind: "deploy", Graph: graphs("acme")["deploy"], Instances: []string{"acme"}})
		s.pass()
		taker := s.submit(New{Kind: "recover", Graph: graphs("acme")["restore"], Instances: []string{"acme"}, Preempt: true})
		if end := s.toEnd(taker.ID); end.Operation.State != Done {
			t.Errorf("the recovery ended as %s: %s", end.Operation.State, end.Operation.Why)
		}
		end := s.toEnd(old.ID)
		if want := "claim done, stage cancelled, boot cancelled, ready cancelled, switch cancelled, route cancelled"; states(end) != want {
			t.Errorf("got  %s\nwant %s", states(end), want)
		}
		p, _, err := PlacementOf(context.Background(), d, "acme")
		if err != nil || p.Node != "b1" || p.Epoch != 2 {
			t.Errorf("placement %+v, %v", p, err)
		}
	})
}

func TestLeaseThatRanOutCanBeTaken(t *testing.T) {
	s := newStage(t, dbtest.Open(t))
	s.site.answer = func(o step.Order) step.Update {
		if o.Step.Kind == step.Stage {
			return step.Update{State: step.Running}
		}
		return step.Update{State: step.Done}
	}
	old := s.submit(New{Kind: "deploy", Graph: graphs("acme")["deploy"], Instances: []string{"acme"}})
	s.pass()
	s.now = s.now.Add(leaseFor - 2*time.Second) // the server is gone: nothing is renewed
	if _, err := trySubmit(s.DB, New{Kind: "backup", Graph: graphs("acme")["backup"], Instances: []string{"acme"}}); problem.KindOf(err) != problem.Busy {
		t.Fatalf("before the lease ended: %v", err)
	}
	s.now = s.now.Add(2 * leaseFor)
	next := s.submit(New{Kind: "backup", Graph: graphs("acme")["backup"], Instances: []string{"acme"}})
	heir := s.site.start(s.DB, "s2", -1)
	s.server = heir
	s.site.stops = true
	if end := s.toEnd(next.ID); end.Operation.State != Done {
		t.Errorf("the next operation ended as %s", end.Operation.State)
	}
	if end := s.toEnd(old.ID); strings.Contains(states(end), "boot done") {
		t.Errorf("the old operation went on: %s", states(end))
	}
}

func TestWordOfAnotherNodeCountsForNothing(t *testing.T) {
	s := newStage(t, dbtest.Open(t))
	s.site.answer = func(step.Order) step.Update { return step.Update{State: step.Running} }
	o := s.submit(New{Kind: "deploy", Graph: graphs("acme")["deploy"], Instances: []string{"acme"}})
	s.pass()
	before := states(s.show(o.ID))
	for _, id := range []string{"acme/stage", "acme/claim", "acme/route", "acme/none"} {
		for attempt := range 3 {
			s.site.outbox["b1"] = append(s.site.outbox["b1"], step.Update{Operation: o.ID, StepID: id, Attempt: attempt, State: step.Done})
		}
	}
	s.site.outbox["b1"] = append(s.site.outbox["b1"], step.Update{Operation: "nosuchop", StepID: "x", State: step.Done})
	if err := s.intake(context.Background()); err != nil {
		t.Fatal(err)
	}
	if after := states(s.show(o.ID)); after != before {
		t.Errorf("before %s\nafter  %s", before, after)
	}
}

func TestOrderCarriesTheEpochOfItsClaim(t *testing.T) {
	s := newStage(t, dbtest.Open(t))
	var orders []step.Order
	s.site.answer = func(o step.Order) step.Update {
		orders = append(orders, o)
		return step.Update{State: step.Done}
	}
	s.toEnd(s.submit(New{Kind: "deploy", Graph: graphs("acme")["deploy"], Instances: []string{"acme"}}).ID)
	orders = nil
	s.toEnd(s.submit(New{Kind: "restore", Graph: graphs("acme")["restore"], Instances: []string{"acme"}}).ID)
	for _, o := range orders {
		want := int64(1)
		if o.Step.Kind == step.Switch {
			want = 2
			var args step.SwitchArgs
			if err := json.Unmarshal(o.Step.Args, &args); err != nil || args.Epoch != 2 {
				t.Errorf("switch has %+v, %v", args, err)
			}
		}
		if o.Epoch != want || o.Node != "b1" || o.ExpiresAt.Sub(o.IssuedAt) != orderLife {
			t.Errorf("order %s has epoch %d for node %s, want %d", o.ID, o.Epoch, o.Node, want)
		}
	}
}

func TestEventsRunOverAllOperationsWithoutAGap(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := newStage(t, d)
		var ids []string
		for i := range 3 {
			name := fmt.Sprint("i", i)
			ids = append(ids, s.submit(New{Kind: "deploy", Graph: graphs(name)["deploy"], Instances: []string{name}}).ID)
		}
		for _, id := range ids {
			s.toEnd(id)
		}
		after, seq := int64(0), map[string]int64{}
		for {
			batch, err := Events(context.Background(), d, after, 7)
			if err != nil {
				t.Fatal(err)
			}
			if len(batch) == 0 {
				break
			}
			for _, e := range batch {
				if e.ID != after+1 || e.Seq != seq[e.Operation]+1 {
					t.Fatalf("event %d (%s %d) comes after %d", e.ID, e.Operation, e.Seq, after)
				}
				after, seq[e.Operation] = e.ID, e.Seq
			}
		}
		for _, id := range ids {
			if shown := s.show(id); seq[id] != shown.Operation.Seq || seq[id] < 12 {
				t.Errorf("operation %s is at %d, the feed gave %d", id, shown.Operation.Seq, seq[id])
			}
		}
	})
}

func TestSubmitRefusesWhatCannotRun(t *testing.T) {
	d := dbtest.Open(t)
	boot := graphs("acme")["deploy"][2]
	for name, c := range map[string]struct {
		graph     step.Graph
		instances []string
		want      string
	}{
		"unleased":         {graphs("acme")["backup"], nil, "for instance acme, which the operation does not lease"},
		"claim not needed": {step.Graph{graphs("acme")["deploy"][0], {ID: "x", Node: "@claim:acme/claim", Step: boot.Step}}, []string{"acme"}, "does not wait for such a claim"},
		"no node":          {step.Graph{{ID: "x", Step: boot.Step}}, []string{"acme"}, `of kind boot has the node ""`},
		"cycle":            {step.Graph{{ID: "x", Node: "a1", Needs: []string{"x"}, Step: boot.Step}}, []string{"acme"}, "waits for itself"},
	} {
		_, err := trySubmit(d, New{Kind: "deploy", Graph: c.graph, Instances: c.instances})
		if problem.KindOf(err) != problem.Invalid || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if all, err := List(context.Background(), d, false, "", 10); err != nil || len(all) != 0 {
		t.Errorf("left behind: %v %v", all, err)
	}
}

func TestSlotNamesAreNeverGivenTwice(t *testing.T) {
	d := dbtest.Open(t)
	var names []string
	for range 3 {
		err := d.Tx(context.Background(), func(ctx context.Context, tx db.Tx) error {
			name, err := NextSlot(ctx, tx, "acme")
			names = append(names, name)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(names, []string{"s2", "s3", "s4"}) {
		t.Errorf("got %v", names)
	}
}

func TestStepsThatWaitForABackupGetItsSnapshot(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := newStage(t, d)
		var fetched step.FetchArgs
		s.site.answer = func(o step.Order) step.Update {
			if o.Step.Kind == step.Fetch {
				if err := json.Unmarshal(o.Step.Args, &fetched); err != nil {
					t.Error(err)
				}
			}
			return step.Update{State: step.Done, Result: args(step.BackupResult{Snapshot: "7f3c"})}
		}
		s.toEnd(s.submit(New{Kind: "deploy", Graph: graphs("acme")["deploy"], Instances: []string{"acme"}}).ID)
		graph := append(graphs("acme")["backup"], graphs("acme")["restore"]...)
		snapshot := step.SnapshotOf("acme/backup")
		graph[1].Needs = []string{"acme/backup"}
		graph[1].Step.Args = args(step.ReleaseArgs{Snapshot: snapshot, ForStep: "acme/fetch"})
		graph[2].Step.Args = args(step.FetchArgs{Snapshot: snapshot, Slot: "s2"})
		o := s.toEnd(s.submit(New{Kind: "move", Graph: graph, Instances: []string{"acme"}}).ID)
		if o.Operation.State != Done || fetched.Snapshot != "7f3c" || fetched.Slot != "s2" {
			t.Errorf("move is %s and fetched %q into %q, want the snapshot of its backup", o.Operation.State, fetched.Snapshot, fetched.Slot)
		}
		steps, err := WholeOf(context.Background(), d, o.Operation.ID, "acme")
		var release step.ReleaseArgs
		if err != nil || json.Unmarshal(steps["acme/release"].Args, &release) != nil || release.Snapshot != "7f3c" {
			t.Errorf("release names %q, %v", release.Snapshot, err)
		}
	})
}

// counted keeps the orders that arrive, and answers none of them.
type counted struct{ orders []step.Order }

func (c *counted) Send(_ context.Context, _ string, signed step.Signed) error {
	var o step.Order
	if err := json.Unmarshal(signed.Payload, &o); err != nil {
		return err
	}
	c.orders = append(c.orders, o)
	return nil
}

func (c *counted) Cancel(context.Context, string, string) error { return nil }

func TestRoomOnANodeIsSharedByAllOperations(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := newStage(t, d)
		s.Limits = Limits{PerNode: 2, PerSite: 64}
		nodes := &counted{}
		s.Dispatcher = nodes
		for n := range 7 {
			name := fmt.Sprint("i", n)
			s.submit(New{Kind: "backup", Graph: graphs(name)["backup"], Instances: []string{name}})
		}
		for told := range 7 {
			// The clock stands still: only what operations tell each other may bring the next one on.
			for range 3 {
				if _, err := s.Pass(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
			if want := min(told+2, 7); len(nodes.orders) != want {
				t.Fatalf("after %d of 7 backups had ended, %d were ordered in all, want %d: a node takes 2 at once", told, len(nodes.orders), want)
			}
			o := nodes.orders[told]
			s.site.outbox["a1"] = []step.Update{{OrderID: o.ID, Operation: o.Operation, StepID: o.StepID, Attempt: o.Attempt, State: step.Done}}
			if err := s.intake(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		s.pass()
		if open, err := List(context.Background(), d, true, "", 10); err != nil || len(open) != 0 {
			t.Errorf("still open: %+v %v", open, err)
		}
	})
}

func TestDecisionThatWasNotWrittenIsTakenAgain(t *testing.T) {
	s := newStage(t, dbtest.Open(t))
	for n := range 2 {
		name := fmt.Sprint("i", n)
		s.submit(New{Kind: "deploy", Graph: graphs(name)["deploy"], Instances: []string{name}})
	}
	broken := errors.New("the disk is full")
	s.boundary = func(point string) error {
		if point == "before writing decision" {
			return broken
		}
		return nil
	}
	if _, err := s.Pass(context.Background()); !errors.Is(err, broken) {
		t.Fatalf("the pass ended with %v", err)
	}
	s.boundary = nil
	for range 2 { // the clock stands still, and nobody tells anything
		if _, err := s.Pass(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 2 {
		if _, placed, err := PlacementOf(context.Background(), s.DB, fmt.Sprint("i", n)); err != nil || !placed {
			t.Errorf("the claim of i%d was not done: %v", n, err)
		}
	}
}

func hintOf(err error) string {
	p, _ := errors.AsType[*problem.Error](err)
	if p == nil {
		return ""
	}
	return p.Hint
}
