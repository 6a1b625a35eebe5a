package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/step"
)

// Graph is the steps that apply a plan. slot names a slot that the instance never had, for a move. Secrets, keys and
// repositories are completed by the server when an order goes out.
//
// A create claims its node first and serves last. A change boots the active slot and waits for the changes of the
// rings before its own. A move stops, backs up, restores and checks elsewhere, and only then claims; what fails before
// lets the old place serve again. A retire is one stop.
func Graph(p Plan, slot func(instance string) string) (step.Graph, error) {
	b := &builder{ends: map[string][]string{}}
	for _, item := range p.Items {
		if item.Action == Change {
			b.ends[item.Ring] = append(b.ends[item.Ring], item.Instance+"/checks")
		}
	}
	for _, item := range p.Items {
		b.item(item, slot)
	}
	if b.err != nil {
		return nil, fmt.Errorf("make graph of plan %.12s: %w", p.ID, b.err)
	}
	return b.graph, b.graph.Validate()
}

type builder struct {
	ends  map[string][]string // ring -> last steps of its changes
	graph step.Graph
	err   error
}

func (b *builder) item(item Item, slot func(string) string) {
	switch item.Action {
	case Create:
		b.place(item, nil)
	case Change:
		b.change(item)
	case Move:
		b.move(item, slot(item.Instance))
	case Retire:
		b.add(item.Instance, step.Stop, item.From.Node, nil, "retire "+item.Instance+": stop it, keep its data",
			step.StopArgs{Retire: true, Why: "declared no more"})
	}
}

// gate is what a change waits for: the changes of the rings before its own.
func (b *builder) gate(item Item) []string {
	var ends []string
	for _, ring := range item.After {
		ends = append(ends, b.ends[ring]...)
	}
	return slices.Sorted(slices.Values(ends))
}

func (b *builder) change(item Item) {
	if item.Again {
		b.place(item, b.gate(item))
		return
	}
	name, node := item.Instance, item.To.Node
	b.add(name, step.Stage, node, b.gate(item), "see that "+node+" can run "+what(item), step.StageArgs{Spec: item.Spec})
	b.bring(item, node, item.Slot, "stage", false)
}

// place claims a node for an instance, starts it in its slot and lets it serve.
func (b *builder) place(item Item, needs []string) {
	name, node := item.Instance, item.To.Node
	b.add(name, step.Claim, "", needs, "place "+name+" on "+node, b.claim(item, item.Slot))
	b.add(name, step.Stage, node, after(name, "claim"), "see that "+node+" can run "+what(item), step.StageArgs{Spec: item.Spec})
	b.bring(item, node, item.Slot, "stage", false)
	b.serve(item, item.Slot, "checks")
}

// bring boots a slot and checks it.
func (b *builder) bring(item Item, node, slot, first string, restored bool) {
	name := item.Instance
	b.add(name, step.Boot, node, after(name, first), "start "+what(item), step.BootArgs{Spec: item.Spec, Slot: slot, Restored: restored})
	b.add(name, step.Ready, node, after(name, "boot"), "wait until "+name+" is ready", step.SlotArgs{Slot: slot, Within: item.Spec.ReadyWithin()})
	b.add(name, step.Checks, node, after(name, "ready"), "check the data of "+name, step.SlotArgs{Slot: slot})
}

// serve switches to a slot and waits for the edge.
func (b *builder) serve(item Item, slot, needs string) {
	name, node := item.Instance, item.To.Node
	b.add(name, step.Switch, node, after(name, needs), "let "+name+" serve from "+node, step.SwitchArgs{Slot: slot})
	b.add(name, step.Route, "", after(name, "switch"), "wait until the edge answers for "+name, step.RouteArgs{Within: time.Minute})
}

// move goes by a backup that nothing is written after.
func (b *builder) move(item Item, slot string) {
	name, from, to := item.Instance, item.From.Node, item.To.Node
	snapshot := step.SnapshotOf(name + "/backup")
	b.add(name, step.Stage, to, nil, "see that "+to+" can run "+what(item), step.StageArgs{Spec: item.Spec})
	b.add(name, step.Stop, from, after(name, "stage"), "stop "+name+" on "+from+", so that nothing is written after its backup", step.StopArgs{Why: "moves to " + to})
	b.add(name, step.Backup, from, after(name, "stop"), "back "+name+" up to "+item.Spec.Backup.Vault, step.BackupArgs{Spec: item.Spec})
	b.add(name, step.Release, "", after(name, "backup"), "open that snapshot for this restore", step.ReleaseArgs{Snapshot: snapshot, ForStep: name + "/fetch"})
	b.add(name, step.Fetch, to, after(name, "release"), "fetch it into slot "+slot+" on "+to, step.FetchArgs{Snapshot: snapshot, Slot: slot, Spec: item.Spec})
	b.add(name, step.Load, to, after(name, "fetch"), "load the data of "+name, step.SlotArgs{Slot: slot})
	b.add(name, step.Claim, "", after(name, "load"), "place "+name+" on "+to, b.claim(item, slot))
	b.add(name, step.Fence, from, after(name, "claim"), "fence the old copy on "+from, step.FenceArgs{})
	b.bring(item, to, slot, "fence", true)
	b.serve(item, slot, "checks")
	b.goBack(item, slot)
	b.takeBack(item)
}

// goBack clears up after a move that failed before its claim: the new copy goes, the old place serves again.
func (b *builder) goBack(item Item, slot string) {
	name := item.Instance
	b.clear(item, "discard", step.Discard, item.To.Node, after(name, "fetch", "load", "boot", "ready", "checks"),
		"discard slot "+slot+" on "+item.To.Node+", which did not come to be", step.SlotArgs{Slot: slot})
	b.clear(item, "back", step.Boot, item.From.Node, after(name, "stop", "backup", "release", "fetch", "load"),
		"let "+name+" serve from "+item.From.Node+" again", step.BootArgs{Spec: *item.Was, Slot: item.Slot})
}

// takeBack gives the instance back to its old place when the new one was claimed and did not come to be. No write is
// lost by it: the new copy never served.
func (b *builder) takeBack(item Item) {
	name, from := item.Instance, item.From.Node
	tried := after(name, "boot", "ready", "checks")
	b.clear(item, "reclaim", step.Claim, "", tried, "place "+name+" on "+from+" again",
		step.ClaimArgs{Node: from, Slot: item.Slot, Spec: item.Was.Fingerprint, Release: item.Was.Release, Away: item.Home})
	b.clear(item, "return", step.Boot, from, append(after(name, "reclaim"), tried...), "start "+name+" on "+from+" again", step.BootArgs{Spec: *item.Was, Slot: item.Slot})
	b.clear(item, "resume", step.Switch, from, append(after(name, "return"), tried...), "let "+name+" serve from "+from+" again", step.SwitchArgs{Slot: item.Slot})
}

// clear adds a step that runs only when something it needs went wrong.
func (b *builder) clear(item Item, id string, kind step.Kind, node string, needs []string, note string, args any) {
	b.add(item.Instance, kind, node, needs, note, args)
	last := &b.graph[len(b.graph)-1]
	last.ID, last.OnFailure = item.Instance+"/"+id, true
}

func (b *builder) claim(item Item, slot string) step.ClaimArgs {
	return step.ClaimArgs{Node: item.To.Node, Slot: slot, Spec: item.Spec.Fingerprint, Release: item.Spec.Release}
}

// after names steps of an instance.
func after(instance string, kinds ...string) []string {
	ids := make([]string, len(kinds))
	for i, kind := range kinds {
		ids[i] = instance + "/" + kind
	}
	return ids
}

// what says instance and release.
func what(item Item) string { return item.Instance + " (" + item.Spec.Release + ")" }

func (b *builder) add(instance string, kind step.Kind, node string, needs []string, note string, args any) {
	text, err := json.Marshal(args)
	b.err = errors.Join(b.err, err)
	b.graph = append(b.graph, step.Planned{
		ID: instance + "/" + string(kind), Node: node, Needs: needs,
		Step: step.Step{Kind: kind, Instance: instance, Args: text, Note: note},
	})
}
