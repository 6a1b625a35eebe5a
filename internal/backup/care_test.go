package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/fleet"
	"holdfast/internal/op"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// pruned feeds what a prune on node left of acme back into the catalogue.
func (w *world) pruned(node string, result step.PruneResult) {
	w.Helper()
	w.tx(func(ctx context.Context, tx db.Tx) error {
		return catalogue.PrunedBack(ctx, tx, op.Ending{
			Operation: op.Operation{ID: "op9"}, Node: node, Step: op.Step{Kind: step.Prune, Instance: "acme", Args: raw(step.PruneArgs{KeepDaily: 1, KeepLast: 1}), Result: raw(result)},
		})
	})
}

// left is the snapshots of acme in the catalogue, newest first.
func (w *world) left() string {
	w.Helper()
	all, err := List(context.Background(), w.db, "acme")
	fatal(w.T, err)
	text := ""
	for _, s := range all {
		text += s.ID + " "
	}
	return text
}

// What a vault holds no more is no point to return to; what another vault says counts for nothing, nor does a prune
// that says it left nothing.
func TestWhatAPruneLetGoLeavesTheCatalogue(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		for i, id := range []string{"aa11", "aa22", "aa33"} {
			w.backedUp(id, at.Add(time.Duration(i)*time.Hour))
		}
		w.pruned("va", step.PruneResult{Snapshots: []string{"bb11"}, Forgotten: []string{"aa11"}})
		w.pruned("vb", step.PruneResult{Forgotten: []string{"aa11", "aa22", "aa33"}})
		if got := w.left(); got != "aa33 aa22 aa11 " {
			t.Fatalf("the catalogue believed what cannot be: %s", got)
		}
		w.pruned("vb", step.PruneResult{Snapshots: []string{"aa33", "aa11"}, Forgotten: []string{"aa22"}})
		if got := w.left(); got != "aa33 aa11 " {
			t.Errorf("after the prune the catalogue holds %s", got)
		}
		if _, err := Find(context.Background(), d, "acme", "aa22"); problem.KindOf(err) != problem.NotFound {
			t.Errorf("a pruned snapshot is offered for a restore: %v", err)
		}
	})
}

// The vault is asked once a day, only where something may go, and not while the prune before has not ended.
func TestPrunesAreBegunOnceADayWhereThereIsSomethingToLetGo(t *testing.T) {
	w := newWorld(t, dbtest.Open(t))
	ctx, s := context.Background(), Scheduler{DB: w.db, Log: slog.New(slog.DiscardHandler)}
	keeping := spec
	keeping.Backup.KeepDaily = 2
	w.tx(func(ctx context.Context, tx db.Tx) error {
		_, err := tx.NewRaw("UPDATE specs SET spec = ? WHERE instance = 'acme'", db.Of(keeping)).Exec(ctx)
		return err
	})
	begun := func(now time.Time) int {
		t.Helper()
		fatal(t, s.prunes(ctx, now))
		all, err := op.List(ctx, w.db, false, "prune", 10)
		fatal(t, err)
		return len(all)
	}
	now := w.db.Now()
	w.backedUp("aa11", now.Add(-3*time.Hour))
	w.backedUp("aa22", now.Add(-2*time.Hour))
	if n := begun(now); n != 0 {
		t.Fatalf("%d prunes of an instance that holds no more than it keeps", n)
	}
	w.backedUp("aa33", now.Add(-time.Hour))
	if n := begun(now); n != 1 {
		t.Fatalf("%d prunes began, want 1", n)
	}
	all, err := op.List(ctx, w.db, true, "prune", 10)
	fatal(t, err)
	asked := w.call(all[0], "acme/prune", "vb")
	var args step.PruneArgs
	fatal(t, json.Unmarshal(asked.Step.Args, &args))
	if asked.Step.Node != "vb" || args.KeepDaily != 2 || args.KeepLast != keepLast || args.Hold != pruneHold {
		t.Errorf("node %s is asked for %+v", asked.Step.Node, args)
	}
	if n := begun(now.Add(time.Minute)); n != 1 {
		t.Errorf("%d prunes while the first has not ended", n)
	}
}

// The first backup after thirty days begins a new epoch with a new writer key; what comes of it is what later ones
// write with, and they do not rotate again.
func TestAWriterKeyIsChangedAfterThirtyDays(t *testing.T) {
	w := newWorld(t, dbtest.Open(t))
	w.backedUp("aa11", time.Now())
	var o op.Operation
	w.tx(func(ctx context.Context, tx db.Tx) (err error) {
		o, err = Begin(ctx, tx, "token/ada", []string{"acme"})
		return err
	})
	rotates := func(age time.Duration) bool {
		t.Helper()
		w.tx(func(ctx context.Context, tx db.Tx) error {
			_, err := tx.NewRaw("UPDATE writer_keys SET since = ? WHERE instance = 'acme'", db.At(w.db.Now().Add(-age))).Exec(ctx)
			return err
		})
		return w.rotates(o)
	}
	for age, want := range map[time.Duration]bool{0: false, RotateEvery - time.Hour: false, RotateEvery + time.Second: true, 5 * RotateEvery: true} {
		if got := rotates(age); got != want {
			t.Errorf("a key in use for %s: rotate is %v", age, got)
		}
	}
	w.backedUp("aa22", time.Now()) // tells the new writer key
	if w.rotates(o) {
		t.Error("the backup after a rotation rotates again")
	}
}

// rotates tells whether the order of a backup would ask for a new writer key.
func (w *world) rotates(o op.Operation) bool {
	w.Helper()
	filled, err := w.custodian.FillBackup(context.Background(), w.call(o, "acme/backup", "a1"))
	fatal(w.T, err)
	var args step.BackupArgs
	fatal(w.T, json.Unmarshal(filled, &args))
	return args.Rotate
}

func TestDiscardNamesTheOneNodeThatHoldsTheCopy(t *testing.T) {
	beside := func(slots ...string) fleet.NodeFacts {
		return fleet.NodeFacts{Instances: map[string]fleet.InstanceFacts{"acme": {Slot: "s1", Beside: slots}}}
	}
	nodes := World{Nodes: map[string]fleet.NodeFacts{"a1": beside("s2", "s3"), "b1": beside("s3"), "c1": {}}}
	for _, c := range []struct {
		ask  Discard
		node string
		kind problem.Kind
		hint string
	}{
		{ask: Discard{"acme", "s2", ""}, node: "a1"},
		{ask: Discard{"acme", "s3", "b1"}, node: "b1"},
		{ask: Discard{"acme", "s3", ""}, kind: problem.Usage, hint: "holdfast restore discard instance/acme --slot s3 --on a1"},
		{ask: Discard{"acme", "s2", "b1"}, kind: problem.NotFound, hint: "holdfast get instances"},
		{ask: Discard{"acme", "s1", ""}, kind: problem.NotFound, hint: "holdfast get instances"}, // it serves
		{ask: Discard{"other", "s2", ""}, kind: problem.NotFound, hint: "holdfast get instances"},
	} {
		t.Run(fmt.Sprint(c.ask), func(t *testing.T) {
			w := newWorld(t, dbtest.Open(t))
			var o op.Operation
			err := w.db.Tx(context.Background(), func(ctx context.Context, tx db.Tx) (err error) {
				o, err = BeginDiscard(ctx, tx, "token/ada", c.ask, nodes)
				return err
			})
			if p, ok := errors.AsType[*problem.Error](err); c.kind != "" && (!ok || p.Kind != c.kind || p.Hint != c.hint) {
				t.Fatalf("got %v, want kind %s, next %q", err, c.kind, c.hint)
			}
			if c.kind != "" {
				return
			}
			fatal(t, err)
			s := w.call(o, "acme/discard", c.node).Step
			if s.Kind != step.Discard || s.Node != c.node || s.OnFailure || string(s.Args) != string(raw(step.SlotArgs{Slot: c.ask.Slot})) {
				t.Errorf("step %+v", s)
			}
		})
	}
}

// restored is the release and configuration that a restore of aa11 starts.
func (w *world) restored(release Release) (spec fleet.Spec, err error) {
	err = w.db.Tx(context.Background(), func(ctx context.Context, tx db.Tx) error {
		snapshot, err := Find(ctx, tx, "acme", "aa11")
		if err != nil {
			return err
		}
		spec, _, err = specFor(ctx, tx, Ask{Instance: "acme", Release: release}, snapshot, World{})
		return err
	})
	return spec, err
}

// Aa11 was taken of v1; since then v2 runs.
func TestARestoreStartsTheReleaseThatItIsTold(t *testing.T) {
	w := newWorld(t, dbtest.Open(t))
	w.backedUp("aa11", time.Now())
	newer := spec
	newer.Fingerprint, newer.Release = "f2", "notes/v2"
	w.tx(func(ctx context.Context, tx db.Tx) error {
		_, err := tx.NewRaw("INSERT INTO specs (instance, fingerprint, spec, at) VALUES ('acme', 'f2', ?, 2)", db.Of(newer)).Exec(ctx)
		if err == nil {
			_, err = tx.NewRaw("UPDATE placements SET spec = 'f2', release = 'notes/v2' WHERE instance = 'acme'").Exec(ctx)
		}
		return err
	})
	for ask, want := range map[Release]string{AsNeeded: "notes/v1", AsSnapshot: "notes/v1", AsCurrent: "notes/v2"} {
		if got, err := w.restored(ask); err != nil || got.Release != want {
			t.Errorf("--release %q starts %s, %v; want %s", ask, got.Release, err, want)
		}
	}
	if _, err := w.restored("newest"); problem.KindOf(err) != problem.Usage {
		t.Errorf("--release newest: %v", err)
	}
	w.tx(func(ctx context.Context, tx db.Tx) error {
		_, err := tx.NewRaw("DELETE FROM specs WHERE fingerprint = 'f1'").Exec(ctx)
		return err
	})
	for _, ask := range []Release{AsSnapshot, AsNeeded} {
		if _, err := w.restored(ask); problem.KindOf(err) != problem.NotFound {
			t.Errorf("--release %q of one that nobody remembers: %v", ask, err)
		}
	}
	if got, err := w.restored(AsCurrent); err != nil || got.Release != "notes/v2" {
		t.Errorf("--release current starts %s, %v", got.Release, err)
	}
}
