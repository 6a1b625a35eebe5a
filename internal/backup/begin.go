package backup

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"holdfast/internal/access"
	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/op"
	"holdfast/internal/problem"
)

// Begin submits one operation that backs the instances up. An instance that is not placed, is retired, or that
// another operation holds is a problem, and then nothing is begun.
func Begin(ctx context.Context, tx db.Tx, actor string, instances []string) (op.Operation, error) {
	sources, err := sourcesOf(ctx, tx, instances)
	if err != nil {
		return op.Operation{}, err
	}
	graph, err := BackupGraph(sources)
	if err != nil {
		return op.Operation{}, err
	}
	for _, s := range sources {
		if err := refuseWithoutVault(s); err != nil {
			return op.Operation{}, err
		}
	}
	o, err := op.Submit(ctx, tx, op.New{
		Kind: "backup", Title: title(instances), Graph: graph, Actor: actor, Instances: instances,
		Params: map[string]any{"instances": instances}, Resume: "holdfast backup run " + arguments(instances),
	})
	if err != nil {
		return o, err
	}
	for _, instance := range instances {
		if err := tried(ctx, tx, instance, o.ID); err != nil {
			return o, err
		}
	}
	return o, nil
}

// All lists the instances that run and name a vault.
func All(ctx context.Context, in bun.IDB) ([]string, error) {
	placements, err := op.Placements(ctx, in)
	if err != nil {
		return nil, err
	}
	specs, err := op.AppliedSpecs(ctx, in)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, instance := range slices.Sorted(maps.Keys(placements)) {
		if !placements[instance].Retired && specs[instance].Backup.Vault != "" {
			all = append(all, instance)
		}
	}
	if len(all) == 0 {
		return nil, problem.New(problem.NotFound, "holdfast apply -f DIR", "nothing was backed up: no instance runs that names a vault")
	}
	return all, nil
}

func refuseWithoutVault(s Source) error {
	if s.Spec.Backup.Vault != "" {
		return nil
	}
	return problem.New(problem.Invalid, "set backup.vault of "+s.Instance+", then holdfast apply -f DIR", "%s was not backed up: it names no vault", s.Instance)
}

func sourcesOf(ctx context.Context, tx db.Tx, instances []string) ([]Source, error) {
	placements, err := op.Placements(ctx, tx)
	if err != nil {
		return nil, err
	}
	var sources []Source
	for _, instance := range instances {
		p, ok := placements[instance]
		if !ok || p.Retired {
			return nil, problem.New(problem.NotFound, "holdfast get instances", "%s was not backed up: no such instance runs", instance)
		}
		spec, err := op.SpecOf(ctx, tx, instance, p.Spec)
		if err != nil {
			return nil, err
		}
		sources = append(sources, Source{Instance: instance, Node: p.Node, Spec: spec})
	}
	return sources, nil
}

func title(instances []string) string {
	if len(instances) == 1 {
		return "back up " + instances[0]
	}
	return "back up " + strings.Join(instances[:min(3, len(instances))], ", ") + more(len(instances)-3)
}

func more(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}

func arguments(instances []string) string {
	named := make([]string, min(3, len(instances)))
	for i := range named {
		named[i] = "instance/" + instances[i]
	}
	return strings.Join(named, " ")
}

// Scheduler begins backups when they are due.
type Scheduler struct {
	DB  *db.DB
	Log *slog.Logger
}

const lookEvery = 5 * time.Second

// Run begins what is due until ctx ends.
func (s Scheduler) Run(ctx context.Context) error {
	for {
		if err := s.Once(ctx); err != nil && ctx.Err() == nil {
			s.Log.Error("due backups were not begun", "err", err)
		}
		timer := time.NewTimer(lookEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// Once begins a backup of every instance that is due, each in an operation of its own. An instance that is held by
// another operation is left for later: two backups of one instance never run at once.
func (s Scheduler) Once(ctx context.Context) error {
	due, err := s.due(ctx, s.DB.Now())
	if err != nil {
		return err
	}
	for _, instance := range due {
		s.begin(ctx, "backup", instance, func(ctx context.Context, tx db.Tx) error {
			_, err := Begin(ctx, tx, access.System().Name, []string{instance})
			return err
		})
	}
	return s.prunes(ctx, s.DB.Now())
}

func (s Scheduler) due(ctx context.Context, now time.Time) ([]string, error) {
	placements, err := op.Placements(ctx, s.DB)
	if err != nil {
		return nil, err
	}
	specs, err := op.AppliedSpecs(ctx, s.DB)
	if err != nil {
		return nil, err
	}
	made, err := runs(ctx, s.DB, backupRuns)
	if err != nil {
		return nil, err
	}
	var due []string
	for _, instance := range slices.Sorted(maps.Keys(placements)) {
		policy := specs[instance].Backup
		p := Plan{Instance: instance, Every: policy.Every, DoneAt: made[instance].DoneAt, TriedAt: made[instance].TriedAt}
		if !placements[instance].Retired && policy.Vault != "" && p.Due(now) {
			due = append(due, instance)
		}
	}
	return due, nil
}

// Ask is what a person wants restored.
type Ask struct {
	Instance   string
	Snapshot   string // "" = the newest
	Node       string // "" = where it is placed now
	Beside     bool
	Release    Release // which release and configuration to start on the data
	Identities []byte  // from a person's recovery key, sealed to Node
}

// Release says what a restore starts on the data of a snapshot.
type Release string

// The choices.
const (
	AsNeeded   Release = ""         // the snapshot's own where its release is another than the current one, else the current configuration
	AsSnapshot Release = "snapshot" // the release and the rendered configuration of the snapshot
	AsCurrent  Release = "current"  // what was last applied, which then migrates the older data
)

// World is what beginning a restore must know of the nodes.
type World struct {
	Nodes map[string]fleet.NodeFacts
	// Reachable tells whether a node was heard a short while ago.
	Reachable func(node string) bool
	// Rendered renders an instance from the declared fleet, for one of which the server has no spec; nil = there is none.
	Rendered func(instance string) (fleet.Spec, error)
}

// BeginRestore submits a restore of one instance from a snapshot, into a new slot.
func BeginRestore(ctx context.Context, tx db.Tx, actor string, ask Ask, w World) (op.Operation, error) {
	r, err := planRestore(ctx, tx, ask, w)
	if err != nil {
		return op.Operation{}, err
	}
	graph, err := RestoreGraph(r)
	if err != nil {
		return op.Operation{}, err
	}
	title := "restore " + ask.Instance + " from " + r.Snapshot[:min(8, len(r.Snapshot))] + " on " + r.Node + " as " + r.Spec.Release
	if ask.Beside {
		title += ", beside in slot " + r.Slot
	}
	return op.Submit(ctx, tx, op.New{
		Kind: "restore", Title: title, Graph: graph, Actor: actor, Instances: []string{ask.Instance},
		Params: map[string]any{"instance": ask.Instance, "snapshot": r.Snapshot, "node": r.Node, "slot": r.Slot, "beside": ask.Beside, "release": r.Spec.Release},
		Resume: "holdfast restore instance/" + ask.Instance,
	})
}

func planRestore(ctx context.Context, tx db.Tx, ask Ask, w World) (Restore, error) {
	snapshot, node, err := Choose(ctx, tx, ask, w)
	if err != nil {
		return Restore{}, err
	}
	spec, expect, err := specFor(ctx, tx, ask, snapshot, w)
	if err != nil {
		return Restore{}, err
	}
	if len(ask.Identities) == 0 && !snapshot.Custodian {
		return Restore{}, problem.New(problem.WrongKey, "holdfast restore instance/"+ask.Instance+" --snapshot "+snapshot.Short()+" --key SECRET.asc",
			"%s was not restored: the custodian cannot open snapshot %s; a person's recovery key can", ask.Instance, snapshot.Short())
	}
	slot, err := op.NextSlot(ctx, tx, ask.Instance)
	if err != nil {
		return Restore{}, err
	}
	r := Restore{Spec: spec, Expect: expect, Snapshot: snapshot.ID, Node: node, Slot: slot, Beside: ask.Beside, Identities: ask.Identities}
	p, placed, err := op.PlacementOf(ctx, tx, ask.Instance)
	if err != nil || !placed || !w.Reachable(p.Node) {
		return r, err
	}
	if p.Node != node {
		r.FenceNode = p.Node
	}
	r.Was, err = wasServing(ctx, tx, p)
	return r, err
}

// wasServing is what a failed restore goes back to; nil when nothing was serving that could be started again.
func wasServing(ctx context.Context, tx db.Tx, p fleet.Placement) (*Was, error) {
	if p.Retired {
		return nil, nil
	}
	spec, err := op.SpecOf(ctx, tx, p.Instance, p.Spec)
	if problem.KindOf(err) == problem.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &Was{Node: p.Node, Slot: p.Slot, Spec: spec, Away: p.Home.Site != ""}, nil
}

// Choose finds the snapshot and the node that an ask means.
func Choose(ctx context.Context, in bun.IDB, ask Ask, w World) (Snapshot, string, error) {
	snapshot, err := Find(ctx, in, ask.Instance, ask.Snapshot)
	if err != nil {
		return snapshot, "", err
	}
	node := ask.Node
	if node == "" {
		p, placed, err := op.PlacementOf(ctx, in, ask.Instance)
		if err != nil {
			return snapshot, "", err
		}
		if !placed {
			return snapshot, "", problem.New(problem.Usage, "holdfast restore instance/"+ask.Instance+" --to NODE", "%s is placed nowhere: name the node to restore it on", ask.Instance)
		}
		node = p.Node
	}
	return snapshot, node, refuseNode(ask.Instance, node, w)
}

func refuseNode(instance, node string, w World) error {
	facts, known := w.Nodes[node]
	if !known {
		return problem.New(problem.NotFound, "holdfast get nodes", "%s was not restored: there is no node %s", instance, node)
	}
	if !slices.Contains(facts.Roles, fleet.RoleRun) && !slices.Contains(facts.Roles, fleet.RoleSpare) {
		return problem.New(problem.Invalid, "holdfast get nodes", "%s was not restored: node %s runs no instances", instance, node)
	}
	if !w.Reachable(node) {
		return problem.New(problem.Unreachable, "holdfast restore instance/"+instance+" --to NODE", "%s was not restored: node %s is out of reach", instance, node)
	}
	return nil
}

// specFor is what is started on the data. The data of an older release is started by that release, as it was configured
// then; the plan says afterwards what differs from what is declared. Data of the current release is started as it is
// configured now, so that values that were changed since hold. Expect is the release that the snapshot must then turn
// out to be of, where the catalogue does not know it.
func specFor(ctx context.Context, tx db.Tx, ask Ask, s Snapshot, w World) (spec fleet.Spec, expect string, err error) {
	then, thenErr := op.SpecOf(ctx, tx, s.Instance, s.Spec)
	now, nowErr := currentSpec(ctx, tx, s.Instance, w)
	switch {
	case ask.Release == AsSnapshot:
		return then, "", forgotten(thenErr, s)
	case ask.Release == AsCurrent:
		return now, "", nowErr
	case ask.Release != AsNeeded:
		return then, "", problem.New(problem.Usage, "--release snapshot, or --release current", "%q is no choice of a release", ask.Release)
	case thenErr == nil && (nowErr != nil || then.Release != now.Release):
		return then, "", nil
	case thenErr != nil && s.Release == "":
		return now, now.Release, nowErr
	case thenErr != nil && s.Release != now.Release:
		return then, "", forgotten(thenErr, s)
	}
	return now, "", nowErr
}

// forgotten says that what ran when a snapshot was taken is not known here any more; nil where it is.
func forgotten(err error, s Snapshot) error {
	if err == nil {
		return nil
	}
	return problem.Wrap(err, problem.NotFound, "apply a fleet with its release first, then holdfast restore instance/"+s.Instance+" --release current",
		"%s was not restored: this server does not know what ran when snapshot %s was taken", s.Instance, s.Short())
}

// Older reads what ran when snapshots were taken that are of another release than what was applied last, by instance.
// One of which the server does not know what ran is left out.
func Older(ctx context.Context, in bun.IDB, snapshots map[string]Snapshot, applied map[string]fleet.Spec) (map[string]fleet.Spec, error) {
	older := map[string]fleet.Spec{}
	for instance, s := range snapshots {
		if s.Release == "" || s.Release == applied[instance].Release {
			continue
		}
		then, err := op.SpecOf(ctx, in, instance, s.Spec)
		switch {
		case err == nil:
			older[instance] = then
		case problem.KindOf(err) != problem.NotFound:
			return nil, err
		}
	}
	return older, nil
}

// currentSpec is what was last applied, else what the declared fleet renders to.
func currentSpec(ctx context.Context, tx db.Tx, instance string, w World) (fleet.Spec, error) {
	p, placed, err := op.PlacementOf(ctx, tx, instance)
	if err != nil {
		return fleet.Spec{}, err
	}
	if placed && p.Spec != "" {
		return op.SpecOf(ctx, tx, instance, p.Spec)
	}
	if w.Rendered == nil {
		return fleet.Spec{}, problem.New(problem.NotFound, "holdfast apply -f DIR", "%s was not restored: no fleet is declared that says how it runs", instance)
	}
	return w.Rendered(instance)
}
