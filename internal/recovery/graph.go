package recovery

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/step"
)

// The events at which somebody can be told something.
const (
	TellDeclared     = "declared"
	TellTierRestored = "tier_restored"
	TellRestored     = "restored"
	TellFailed       = "failed"
	TellUndone       = "undone"
)

// TellEvents lists them.
func TellEvents() []string {
	return []string{TellDeclared, TellTierRestored, TellRestored, TellFailed, TellUndone}
}

// Graph is the recovery as an operation. The instances stand in the order of work, and op starts what is ready in
// that order within its limits per node, so an early tier has its steps first without ever waiting for a neighbour's
// failure: a step needs only the steps of its own instance. slot names the new slot of every instance on its node.
//
// Per instance: claim bumps the epoch and so fences every other node before a byte moves; release opens the keys for
// exactly the fetch; fetch and load fill the new slot; boot starts the release of the snapshot on it; ready and checks prove it; switch and
// route make it serve.
func Graph(plan fleet.RecoveryPlan, members []Member, assignments []Assignment, w World, slot func(instance string) string) (step.Graph, error) {
	b := &builder{plan: plan, world: w, slot: slot, tier: map[string]string{}, ends: map[string][]string{}}
	for _, m := range members {
		b.tier[m.Instance] = m.Tier
	}
	b.tell(TellDeclared, "", nil)
	for _, a := range assignments {
		b.instance(a)
	}
	b.tellTiers()
	b.tell(TellRestored, "", b.allEnds())
	b.tell(TellFailed, "", b.allEnds())
	if b.err != nil {
		return nil, b.err
	}
	return b.graph, b.graph.Validate()
}

type builder struct {
	plan  fleet.RecoveryPlan
	world World
	slot  func(string) string
	tier  map[string]string   // instance -> tier
	ends  map[string][]string // tier -> last steps of its instances
	graph step.Graph
	err   error
}

func (b *builder) instance(a Assignment) {
	spec, expect, known := b.world.starts(a.Instance)
	snapshot, backed := b.world.Catalogue[a.Instance]
	if !known || !backed {
		b.err = cmp.Or(b.err, fmt.Errorf("build graph: %s has no spec or no snapshot", a.Instance))
		return
	}
	slot, short := b.slot(a.Instance), snapshot.ID[:min(8, len(snapshot.ID))]
	add := func(kind step.Kind, node, after, note string, args any) {
		b.add(a.Instance, kind, node, after, note, args)
	}
	add(step.Claim, "", "", "place "+a.Instance+" on "+a.Node+" and fence its old place", step.ClaimArgs{Node: a.Node, Slot: slot, Spec: spec.Fingerprint, Release: spec.Release, Away: true})
	add(step.Release, "", "claim", "open snapshot "+short+" of "+a.Instance+" for this restore", step.ReleaseArgs{Snapshot: snapshot.ID, ForStep: a.Instance + "/fetch"})
	add(step.Fetch, a.Node, "release", "fetch snapshot "+short+" of "+a.Instance, step.FetchArgs{Snapshot: snapshot.ID, Slot: slot, Spec: spec, Expect: expect})
	add(step.Load, a.Node, "fetch", "load the data of "+a.Instance, step.SlotArgs{Slot: slot})
	add(step.Boot, a.Node, "load", b.startNote(a.Instance, spec), step.BootArgs{Spec: spec, Slot: slot, Restored: true})
	add(step.Ready, a.Node, "boot", "wait until "+a.Instance+" is ready", step.SlotArgs{Slot: slot, Within: spec.ReadyWithin()})
	add(step.Checks, a.Node, "ready", "check the data of "+a.Instance, step.SlotArgs{Slot: slot})
	add(step.Switch, a.Node, "checks", "let "+a.Instance+" serve from "+a.Node, step.SwitchArgs{Slot: slot})
	add(step.Route, "", "switch", "wait until the edge answers for "+a.Instance, step.RouteArgs{Within: rules(b.plan.Normal).Within})
	tier := b.tier[a.Instance]
	b.ends[tier] = append(b.ends[tier], a.Instance+"/route")
}

// startNote says so where another release is started than the one that runs.
func (b *builder) startNote(instance string, spec fleet.Spec) string {
	if _, older := b.world.Then[instance]; !older {
		return "start " + instance
	}
	return "start " + instance + " as " + spec.Release + ", the release of its snapshot"
}

func (b *builder) add(instance string, kind step.Kind, node, after, note string, args any) {
	text, err := json.Marshal(args)
	b.err = cmp.Or(b.err, err)
	p := step.Planned{ID: instance + "/" + string(kind), Node: node, Step: step.Step{Kind: kind, Instance: instance, Args: text, Note: note}}
	if after != "" {
		p.Needs = []string{instance + "/" + after}
	}
	b.graph = append(b.graph, p)
}

// tell adds a step for every communication at the event; those of a failure run only if what they wait for failed. tier is set for those of one tier.
func (b *builder) tell(event, tier string, needs []string) {
	for i, t := range b.plan.Tell {
		if t.Event != event {
			continue
		}
		text, err := json.Marshal(step.TellArgs{Event: event, Audience: t.Audience, To: t.To, Text: t.Text})
		b.err = cmp.Or(b.err, err)
		id := fmt.Sprintf("tell/%s/%d", event, i+1)
		note := "tell " + t.Audience + ": " + event
		if tier != "" {
			id, note = id+"/"+tier, note+" "+tier
		}
		b.graph = append(b.graph, step.Planned{ID: id, Needs: needs, OnFailure: event == TellFailed, Step: step.Step{Kind: step.Tell, Args: text, Note: note}})
	}
}

func (b *builder) tellTiers() {
	for _, t := range b.plan.Tiers {
		if ends := b.ends[t.Name]; len(ends) > 0 {
			b.tell(TellTierRestored, t.Name, ends)
		}
	}
}

func (b *builder) allEnds() []string {
	var all []string
	for _, ends := range b.ends {
		all = append(all, ends...)
	}
	slices.Sort(all)
	return all
}

// FaultGraph is one step of a kind (arm, fire or undo) on every node of the drill, all at once.
func FaultGraph(kind step.Kind, drill string, fault fleet.RecoveryFault, nodes []string) (step.Graph, error) {
	args, err := json.Marshal(step.FaultArgs{ID: drill, Fault: fault.Kind, For: fault.For})
	if err != nil {
		return nil, fmt.Errorf("build graph: %w", err)
	}
	var g step.Graph
	for _, node := range nodes {
		note := fmt.Sprintf("%s %s on %s, ends by itself after %s", kind, fault.Kind, node, fleet.FormatDuration(fault.For))
		g = append(g, step.Planned{ID: node + "/" + string(kind), Node: node, Step: step.Step{Kind: kind, Args: args, Note: note}})
	}
	return g, g.Validate()
}

// CheckFault refuses a fault that no node can do or that has no end.
func CheckFault(f fleet.RecoveryFault) error {
	if !slices.Contains([]string{"cut", "kill", "stop"}, f.Kind) {
		return fmt.Errorf("fault %q is not cut, kill or stop", f.Kind)
	}
	if f.For < 10*time.Second || f.For > 4*time.Hour {
		return fmt.Errorf("fault %s lasts %s; a fault ends by itself after 10s to 4h", f.Kind, fleet.FormatDuration(f.For))
	}
	return nil
}
