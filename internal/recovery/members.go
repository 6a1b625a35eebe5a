package recovery

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/observe"
)

// World is everything that a plan is held against, at one moment.
type World struct {
	Fleet     *fleet.Fleet
	Inventory fleet.Inventory
	Specs     map[string]fleet.Spec    // by instance
	Catalogue map[string]Snapshot      // by instance: the newest
	Then      map[string]fleet.Spec    // by instance: what ran when the newest was taken, where that is of another release
	Past      map[string]time.Duration // by instance: how long its last restore took
	Now       time.Time
}

// starts is what a recovery starts on the data of the newest snapshot: the snapshot's own release, as it was configured
// then, where another one runs by now; else what runs. A newer release is never let loose on older data unasked: expect
// is the release that the snapshot must turn out to be of.
func (w World) starts(instance string) (spec fleet.Spec, expect string, known bool) {
	now, known := w.Specs[instance]
	if then, differs := w.Then[instance]; differs {
		return then, then.Release, true
	}
	return now, now.Release, known
}

// Members are the instances that live in what the plan calls lost and that its scope selects, in order of tier, then
// name. Loose lists those that no tier takes: they are not members, and lint says so.
func Members(plan fleet.RecoveryPlan, w World) (members []Member, loose []string) {
	for _, name := range slices.Sorted(maps.Keys(w.Inventory.Placements)) {
		placement := w.Inventory.Placements[name]
		instance, declared := w.Fleet.Instances[name]
		if !declared || !lives(plan, placement) || !inScope(plan.Scope, instance) {
			continue
		}
		m, ok := member(plan.Tiers, instance, placement)
		if !ok {
			loose = append(loose, name)
			continue
		}
		members = append(members, m)
	}
	slices.SortStableFunc(members, func(a, b Member) int { return cmp.Compare(a.Rank, b.Rank) })
	return members, loose
}

// lives tells whether the placement is in what the plan calls lost.
func lives(plan fleet.RecoveryPlan, p fleet.Placement) bool {
	if p.Retired {
		return false
	}
	if plan.Scenario == fleet.NodeLost {
		return p.Node == plan.Lost
	}
	return p.Site == plan.Lost
}

func inScope(scope fleet.RecoveryScope, i fleet.Instance) bool {
	return !slices.Contains(scope.Never, i.Name) && scope.Select.Matches(i.Selectable())
}

// member gives the instance its tier: the first that selects it. A plan without tiers promises nothing to all.
func member(tiers []fleet.RecoveryTier, i fleet.Instance, p fleet.Placement) (Member, bool) {
	m := Member{Instance: i.Name, FromNode: p.Node, FromSite: p.Site, Epoch: p.Epoch}
	for rank, t := range tiers {
		if t.Select.Matches(i.Selectable()) {
			m.Tier, m.Rank, m.RTO, m.RPO = t.Name, rank, t.RTO, t.RPO
			return m, true
		}
	}
	return m, len(tiers) == 0
}

// Needs says what every member takes on a node, and how long its restore is estimated to last.
func Needs(members []Member, w World) []Need {
	var needs []Need
	for _, m := range members {
		spec, _, _ := w.starts(m.Instance)
		needs = append(needs, Need{
			Instance: m.Instance, Tier: m.Rank, Engines: spec.Engines(), Restore: estimate(m.Instance, w),
			MemoryMB: memory(spec), DiskMB: disk(w.Catalogue[m.Instance]),
		})
	}
	return needs
}

// memory is the sum of the limits; a service without one counts 64 MB, so that a stack without limits is not free.
func memory(spec fleet.Spec) int64 {
	var total int64
	for _, s := range spec.Services {
		total += cmp.Or(s.MemoryMB, 64) * int64(max(s.Replicas, 1))
	}
	return total
}

// disk holds the fetched dump and the data loaded from it at the same time.
func disk(s Snapshot) int64 { return 2*s.Bytes>>20 + 1 }

// estimate is the last measured restore, or else 5 s and 30 MB/s, the pace of a small stack on one lane.
func estimate(instance string, w World) time.Duration {
	if past := w.Past[instance]; past > 0 {
		return past
	}
	return 5*time.Second + time.Duration(float64(w.Catalogue[instance].Bytes)/30e6*float64(time.Second))
}

// staleAfter is how old a node's last word may be before recovery does not count on the node.
const staleAfter = 2 * observe.Silent

// Rooms are the nodes that the plan may rebuild on, seen lately and outside what is lost, headroom taken off.
func Rooms(plan fleet.RecoveryPlan, w World, members int) []Room {
	var rooms []Room
	for _, name := range slices.Sorted(maps.Keys(w.Inventory.Nodes)) {
		node := w.Inventory.Nodes[name]
		if isTarget(plan, node) && !gone(plan, node) && w.Now.Sub(node.SeenAt) <= staleAfter {
			rooms = append(rooms, room(plan.Target, node, w.Fleet.Nodes[name].Capacity, members))
		}
	}
	return rooms
}

// isTarget tells whether the plan names the node, or its site and role.
func isTarget(plan fleet.RecoveryPlan, n fleet.NodeFacts) bool {
	t := plan.Target
	if len(t.Nodes) > 0 {
		return slices.Contains(t.Nodes, n.Node)
	}
	if len(t.Sites) > 0 && !slices.Contains(t.Sites, n.Site) {
		return false
	}
	roles := t.Roles
	if len(roles) == 0 {
		roles = []fleet.Role{fleet.RoleSpare, fleet.RoleRun}
	}
	return slices.ContainsFunc(n.Roles, func(r fleet.Role) bool { return slices.Contains(roles, r) })
}

// gone tells whether the node is in what the plan calls lost.
func gone(plan fleet.RecoveryPlan, n fleet.NodeFacts) bool {
	if plan.Scenario == fleet.NodeLost {
		return n.Node == plan.Lost
	}
	return n.Site == plan.Lost
}

func room(t fleet.RecoveryTarget, n fleet.NodeFacts, declared fleet.NodeCapacity, members int) Room {
	c := n.Capacity
	total, most := cmp.Or(declared.MemoryMB, c.MemoryMB), cmp.Or(declared.MaxInstances, c.MaxInstances)
	r := Room{
		Node: n.Node, Site: n.Site, Engines: n.Engines, Slots: -1,
		MemoryMB: total - c.MemoryUsedMB - total*int64(t.Headroom)/100,
		DiskMB:   c.DiskFreeMB - c.DiskMB*int64(t.Headroom)/100,
	}
	if most > 0 {
		r.Slots = max(0, most-c.Instances)
	}
	if t.MaxShare > 0 {
		share := (members*t.MaxShare + 99) / 100
		if r.Slots < 0 || share < r.Slots {
			r.Slots = share
		}
	}
	return r
}
