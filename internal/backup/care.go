package backup

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"holdfast/internal/access"
	"holdfast/internal/db"
	"holdfast/internal/op"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// The rules of prunes that are no setting of an instance.
const (
	pruneEvery = 24 * time.Hour
	keepLast   = 3              // newest snapshots that stay whatever day they are of
	pruneHold  = 48 * time.Hour // how long bytes stay in a vault after nothing needs them
)

// BeginPrune submits the operation that lets old snapshots of one instance go, on the vault that holds them. The vault
// is told which snapshots were proven, so that the last of them stays even by the vault's own rule.
func BeginPrune(ctx context.Context, tx db.Tx, actor, instance string) (op.Operation, error) {
	sources, err := sourcesOf(ctx, tx, []string{instance})
	if err != nil {
		return op.Operation{}, err
	}
	policy := sources[0].Spec.Backup
	if err := refuseWithoutVault(sources[0]); err != nil {
		return op.Operation{}, err
	}
	held, err := List(ctx, tx, instance)
	if err != nil {
		return op.Operation{}, err
	}
	p, err := planned(instance, step.Prune, policy.Vault, nil, "let old snapshots of "+instance+" go from "+policy.Vault, pruneOf(policy.KeepDaily, policy.Vault, held))
	if err != nil {
		return op.Operation{}, err
	}
	o, err := op.Submit(ctx, tx, op.New{
		Kind: "prune", Title: "prune the backups of " + instance, Graph: step.Graph{p}, Actor: actor, Instances: []string{instance},
		Params: map[string]any{"instance": instance, "keep_daily": policy.KeepDaily}, Resume: "holdfast backup prune instance/" + instance,
	})
	if err != nil {
		return o, err
	}
	return o, triedIn(ctx, tx, pruneRuns, instance, o.ID)
}

// pruneOf is what a vault is asked: the rules, and what was proven of the snapshots that it holds. The newest proven
// one is protected by name.
func pruneOf(keepDaily int, vault string, held []Snapshot) step.PruneArgs {
	args := step.PruneArgs{KeepDaily: max(keepDaily, 1), KeepLast: keepLast, Hold: pruneHold, Proven: map[string]time.Time{}}
	for _, s := range held { // newest first
		if s.Vault != vault || s.Proof.At.IsZero() {
			continue
		}
		if len(args.Protect) == 0 {
			args.Protect = []string{s.ID}
		}
		args.Proven[s.ID] = s.Proof.At
	}
	return args
}

// PrunedBack takes what a prune has done into the catalogue: what the vault holds no more is no snapshot to return to.
func (c Catalogue) PrunedBack(ctx context.Context, tx db.Tx, e op.Ending) error {
	var args step.PruneArgs
	var result step.PruneResult
	if err := decode(e, &args, &result); err != nil {
		return c.unread(e, err)
	}
	if len(result.Snapshots) == 0 {
		return c.unread(e, errors.New("a prune never leaves nothing"))
	}
	held, err := List(ctx, tx, e.Step.Instance)
	if err != nil {
		return err
	}
	var gone []string
	for _, s := range held {
		if s.Vault == e.Node && !slices.Contains(result.Snapshots, s.ID) {
			gone = append(gone, s.ID)
		}
	}
	if err := Pruned(ctx, tx, e.Step.Instance, gone); err != nil {
		return err
	}
	return finishedIn(ctx, tx, pruneRuns, e.Step.Instance, e.Operation.ID)
}

// prunes begins a prune of every instance that holds more snapshots than it keeps, once a day, each in an operation of
// its own.
func (s Scheduler) prunes(ctx context.Context, now time.Time) error {
	placements, err := op.Placements(ctx, s.DB)
	if err != nil {
		return err
	}
	specs, err := op.AppliedSpecs(ctx, s.DB)
	if err != nil {
		return err
	}
	all, err := List(ctx, s.DB, "")
	if err != nil {
		return err
	}
	held := map[string]int{}
	for _, snapshot := range all {
		held[snapshot.Instance]++
	}
	made, err := runs(ctx, s.DB, pruneRuns)
	if err != nil {
		return err
	}
	for _, instance := range slices.Sorted(maps.Keys(held)) {
		p := Plan{Instance: instance, Every: pruneEvery, DoneAt: made[instance].DoneAt, TriedAt: made[instance].TriedAt}
		placed, ok := placements[instance]
		if !ok || placed.Retired || held[instance] <= specs[instance].Backup.KeepDaily || !p.Due(now) {
			continue
		}
		s.begin(ctx, "prune", instance, func(ctx context.Context, tx db.Tx) error {
			_, err := BeginPrune(ctx, tx, access.System().Name, instance)
			return err
		})
	}
	return ctx.Err()
}

// begin begins something for one instance; one that another operation holds is left for later.
func (s Scheduler) begin(ctx context.Context, what, instance string, do func(context.Context, db.Tx) error) {
	err := s.DB.Tx(ctx, do)
	switch problem.KindOf(err) {
	case "":
	case problem.Busy:
		s.Log.Debug(what+" put off: the instance is busy", "instance", instance)
	default:
		s.Log.Error(what+" was not begun", "instance", instance, "err", err)
	}
}

// Discard is what a person wants removed: a restored copy that was put beside and does not serve.
type Discard struct {
	Instance string
	Slot     string
	Node     string // "" = the one that holds it
}

// BeginDiscard submits the removal of a copy beside. Its node refuses a slot that serves or has served.
func BeginDiscard(ctx context.Context, tx db.Tx, actor string, d Discard, w World) (op.Operation, error) {
	var holders []string
	for node, facts := range w.Nodes {
		held := facts.Instances[d.Instance]
		if slices.Contains(held.Beside, d.Slot) && (d.Node == "" || d.Node == node) {
			holders = append(holders, node)
		}
	}
	slices.Sort(holders)
	if len(holders) == 0 {
		return op.Operation{}, problem.New(problem.NotFound, "holdfast get instances", "nothing was discarded: no node holds slot %s of %s beside what serves", d.Slot, d.Instance)
	}
	if len(holders) > 1 {
		return op.Operation{}, problem.New(problem.Usage, "holdfast restore discard instance/"+d.Instance+" --slot "+d.Slot+" --on "+holders[0],
			"nothing was discarded: nodes %v hold a slot %s of %s", holders, d.Slot, d.Instance)
	}
	p, err := planned(d.Instance, step.Discard, holders[0], nil, "discard slot "+d.Slot+" on "+holders[0], step.SlotArgs{Slot: d.Slot})
	if err != nil {
		return op.Operation{}, err
	}
	return op.Submit(ctx, tx, op.New{
		Kind: "discard", Title: "discard slot " + d.Slot + " of " + d.Instance + " on " + holders[0], Graph: step.Graph{p}, Actor: actor, Instances: []string{d.Instance},
		Params: map[string]any{"instance": d.Instance, "slot": d.Slot, "node": holders[0]}, Resume: "holdfast restore discard instance/" + d.Instance + " --slot " + d.Slot,
	})
}
