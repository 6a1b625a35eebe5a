package backup

import (
	"encoding/json"
	"fmt"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/step"
)

// Source is an instance to be backed up: what runs, and where.
type Source struct {
	Instance string
	Node     string
	Spec     fleet.Spec
}

// BackupGraph backs instances up, each for itself. Where the repository is and the keys to it are completed when an
// order goes out.
func BackupGraph(sources []Source) (step.Graph, error) {
	var g step.Graph
	for _, s := range sources {
		p, err := planned(s.Instance, step.Backup, s.Node, nil, "back "+s.Instance+" up to "+s.Spec.Backup.Vault, step.BackupArgs{Spec: s.Spec})
		if err != nil {
			return nil, err
		}
		g = append(g, p)
	}
	return g, g.Validate()
}

// Restore is a restore to be planned.
type Restore struct {
	Spec       fleet.Spec // as it is to run; its Instance is the one that is restored
	Expect     string     // the release that the snapshot must turn out to be of; "" = any
	Snapshot   string
	Node       string
	Slot       string // a new one, see op.NextSlot
	Beside     bool   // leave it beside what serves, neutralised; do not switch
	Identities []byte // sealed to Node, from a person's recovery key; nil = the custodian releases them
	FenceNode  string // the node that serves now, if it is another one and can be reached; "" = none
	Was        *Was   // what serves now and can serve again; nil = nothing does, or its node is out of reach
}

// Was is what served when a restore was planned, to go back to.
type Was struct {
	Node string
	Slot string
	Spec fleet.Spec
	Away bool // it was not where its fleet file says
}

// RestoreGraph brings a snapshot into a new slot beside what serves, boots and checks it there, and only then moves the
// instance's one writer. Whatever fails before that point leaves what served alone, and the new slot is discarded. When
// the switch itself fails, the writer goes back to what served; when it is not known whether it came to be, nobody does
// anything more: the new copy may have taken writes.
func RestoreGraph(r Restore) (step.Graph, error) {
	b := builder{r: r, instance: r.Spec.Instance}
	short := r.Snapshot[:min(8, len(r.Snapshot))]
	into := fmt.Sprintf("%s on %s", r.Slot, r.Node)
	after := ""
	if r.Identities == nil {
		b.add(step.Release, "", "", "open snapshot "+short+" of "+b.instance+" for this restore", step.ReleaseArgs{Snapshot: r.Snapshot, ForStep: b.instance + "/fetch"})
		after = "release"
	}
	b.add(step.Fetch, r.Node, after, "fetch snapshot "+short+" of "+b.instance+" into slot "+into,
		step.FetchArgs{Snapshot: r.Snapshot, Slot: r.Slot, Identities: r.Identities, Spec: r.Spec, Expect: r.Expect})
	b.add(step.Load, r.Node, "fetch", "load the data of "+b.instance+" in slot "+into, step.SlotArgs{Slot: r.Slot})
	b.add(step.Boot, r.Node, "load", "start "+b.instance+" in slot "+into, step.BootArgs{Spec: r.Spec, Slot: r.Slot, Restored: true, Beside: true, Neutralise: r.Beside})
	b.add(step.Ready, r.Node, "boot", "wait until "+b.instance+" is ready in slot "+into, step.SlotArgs{Slot: r.Slot, Within: r.Spec.ReadyWithin()})
	b.add(step.Checks, r.Node, "ready", "check the data of "+b.instance+" in slot "+into, step.SlotArgs{Slot: r.Slot})
	b.clearUp(into)
	if !r.Beside {
		b.goOver()
	}
	if b.err != nil {
		return nil, b.err
	}
	return b.graph, b.graph.Validate()
}

type builder struct {
	r        Restore
	instance string
	graph    step.Graph
	err      error
}

func (b *builder) add(kind step.Kind, node, after, note string, args any) {
	var needs []string
	if after != "" {
		needs = []string{b.instance + "/" + after}
	}
	p, err := planned(b.instance, kind, node, needs, note, args)
	if b.err == nil {
		b.err = err
	}
	b.graph = append(b.graph, p)
}

// clearUp drops the new slot when it did not come to be.
func (b *builder) clearUp(into string) {
	b.add(step.Discard, b.r.Node, "", "discard slot "+into+", which did not come to be", step.SlotArgs{Slot: b.r.Slot})
	last := &b.graph[len(b.graph)-1]
	last.OnFailure = true
	for _, kind := range []step.Kind{step.Fetch, step.Load, step.Boot, step.Ready, step.Checks} {
		last.Needs = append(last.Needs, b.instance+"/"+string(kind))
	}
}

// goOver moves the writer: from the claim on, the old place may not serve.
func (b *builder) goOver() {
	r := b.r
	b.add(step.Claim, "", "checks", "place "+b.instance+" on "+r.Node+" in slot "+r.Slot,
		step.ClaimArgs{Node: r.Node, Slot: r.Slot, Spec: r.Spec.Fingerprint, Release: r.Spec.Release, Away: true})
	after := "claim"
	if r.FenceNode != "" {
		b.add(step.Fence, r.FenceNode, after, "stop serving "+b.instance+" on "+r.FenceNode, step.FenceArgs{})
		after = "fence"
	}
	b.add(step.Switch, r.Node, after, "let "+b.instance+" serve from "+r.Node, step.SwitchArgs{Slot: r.Slot})
	b.add(step.Route, "", "switch", "wait until the edge answers for "+b.instance, step.RouteArgs{Within: time.Minute})
	if r.Was != nil {
		b.goBack(*r.Was)
	}
}

// goBack gives the instance back to what served before when the new place was claimed and did not come to serve. No
// write is lost by it: the new copy never served.
func (b *builder) goBack(was Was) {
	tried := []string{"switch"}
	if b.r.FenceNode != "" {
		tried = []string{"fence", "switch"}
	}
	again := "place " + b.instance + " on " + was.Node + " again"
	b.clear("reclaim", step.Claim, "", tried, again, step.ClaimArgs{Node: was.Node, Slot: was.Slot, Spec: was.Spec.Fingerprint, Release: was.Spec.Release, Away: was.Away})
	b.clear("drop", step.Discard, b.r.Node, append(tried, "reclaim"), "discard slot "+b.r.Slot+" on "+b.r.Node+", which did not come to serve", step.SlotArgs{Slot: b.r.Slot})
	b.clear("return", step.Boot, was.Node, append(tried, "reclaim", "drop"), "start "+b.instance+" on "+was.Node+" again", step.BootArgs{Spec: was.Spec, Slot: was.Slot})
	b.clear("resume", step.Switch, was.Node, append(tried, "return"), "let "+b.instance+" serve from "+was.Node+" again", step.SwitchArgs{Slot: was.Slot})
}

// clear adds a step that runs only when something it needs was tried and went wrong.
func (b *builder) clear(id string, kind step.Kind, node string, needs []string, note string, args any) {
	b.add(kind, node, "", note, args)
	last := &b.graph[len(b.graph)-1]
	last.ID, last.OnFailure = b.instance+"/"+id, true
	for _, need := range needs {
		last.Needs = append(last.Needs, b.instance+"/"+need)
	}
}

func planned(instance string, kind step.Kind, node string, needs []string, note string, args any) (step.Planned, error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return step.Planned{}, fmt.Errorf("encode arguments of %s/%s: %w", instance, kind, err)
	}
	return step.Planned{
		ID: instance + "/" + string(kind), Node: node, Needs: needs,
		Step: step.Step{Kind: kind, Instance: instance, Args: raw, Note: note},
	}, nil
}
