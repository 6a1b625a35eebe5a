package plan

import (
	"slices"
	"time"

	"holdfast/internal/fleet"
)

// nodeFact is what of a node matters to a plan.
type nodeFact struct {
	Site      string
	Roles     []fleet.Role
	Engines   []string
	Memory    int64
	Used      int64
	Most      int
	Unseen    bool
	Instances map[string]instanceFact
}

// instanceFact is what of an instance on a node matters.
type instanceFact struct {
	Epoch   int64
	Slot    string
	Beside  []string
	Spec    string
	Release string
	Idle    fleet.InstanceState // set where it does not serve
}

// facts leaves out whatever changes by itself: ages, counters, readiness.
func facts(w World, s sight) any {
	inventory := w.Inventory
	nodes := map[string]nodeFact{}
	for name, n := range inventory.Nodes {
		held := map[string]instanceFact{}
		for instance, i := range n.Instances {
			held[instance] = instanceFact{i.Epoch, i.Slot, slices.Sorted(slices.Values(i.Beside)), i.Spec, i.Release, idle(i.State)}
		}
		nodes[name] = nodeFact{
			n.Site, slices.Sorted(slices.Values(n.Roles)), slices.Sorted(slices.Values(n.Engines)),
			n.Capacity.MemoryMB, n.Capacity.MemoryUsedMB, n.Capacity.MaxInstances, s.unseen(name), held,
		}
	}
	placements := map[string]fleet.Placement{}
	for instance, p := range inventory.Placements {
		p.Since = time.Time{}
		placements[instance] = p
	}
	return map[string]any{"nodes": nodes, "placements": placements, "lost": lost(w)}
}

// lost is what vaults hold of instances that are placed nowhere; what is placed is backed up without a word to the plan.
func lost(w World) map[string]Held {
	all := map[string]Held{}
	for instance, held := range w.Held {
		if _, placed := w.Inventory.Placements[instance]; !placed {
			all[instance] = held
		}
	}
	return all
}

// idle keeps the states in which an instance does not serve on order; starting, running and degraded come and go.
func idle(state fleet.InstanceState) fleet.InstanceState {
	switch state {
	case fleet.StateStopped, fleet.StateFenced, fleet.StateBeside:
		return state
	case fleet.StateStarting, fleet.StateRunning, fleet.StateDegraded, fleet.StateUnknown:
		return ""
	}
	return ""
}
