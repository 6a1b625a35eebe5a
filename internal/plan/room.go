package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/internal/fleet"
)

// silent is how much older than the newest sign of any node a node's own may be before the plan says that it does not
// know the node's state.
const silent = 2 * time.Minute

// sight knows for how long each node has not been seen, against the newest sign of any: there is no clock here.
type sight map[string]time.Duration

func seen(inventory fleet.Inventory) sight {
	var newest time.Time
	for _, n := range inventory.Nodes {
		if n.SeenAt.After(newest) {
			newest = n.SeenAt
		}
	}
	s := sight{}
	for name, n := range inventory.Nodes {
		s[name] = newest.Sub(n.SeenAt)
	}
	return s
}

func (s sight) unseen(node string) bool {
	age, known := s[node]
	return !known || age > silent
}

func (s sight) why(node string) string {
	if _, known := s[node]; !known {
		return "has never been seen"
	}
	return "has not been seen for " + fleet.FormatDuration(s[node].Truncate(time.Minute))
}

// room is the nodes that may take instances, with what is taken by those that are there and those that this plan adds.
type room struct {
	nodes []*space // by name
}

// space is one node's room.
type space struct {
	name      string
	site      string
	roles     []fleet.Role
	engines   []string
	memory    int64 // MB in all; 0 = not known, not limited
	used      int64 // MB promised
	instances int
	most      int // instances; 0 = not limited
	unseen    string
}

// newRoom takes what nodes say of themselves; what the fleet declares of them wins.
func newRoom(f *fleet.Fleet, inventory fleet.Inventory, s sight) *room {
	r := &room{}
	for _, name := range slices.Sorted(maps.Keys(inventory.Nodes)) {
		n, declared := inventory.Nodes[name], f.Nodes[name]
		at := &space{
			name: name, site: cmp.Or(declared.Site, n.Site), roles: n.Roles, engines: n.Engines,
			memory: cmp.Or(declared.Capacity.MemoryMB, n.Capacity.MemoryMB), used: n.Capacity.MemoryUsedMB,
			most: cmp.Or(declared.Capacity.MaxInstances, n.Capacity.MaxInstances), instances: living(inventory, name),
		}
		if len(declared.Roles) > 0 {
			at.roles = declared.Roles
		}
		if s.unseen(name) {
			at.unseen = s.why(name)
		}
		r.nodes = append(r.nodes, at)
	}
	return r
}

// living counts the instances placed on a node.
func living(inventory fleet.Inventory, node string) int {
	n := 0
	for _, p := range inventory.Placements {
		if p.Node == node && !p.Retired {
			n++
		}
	}
	return n
}

// choose finds the node of a site for a spec, and takes the room there: the one with the fewest instances, then with
// the most free memory, then by name. not is a node that is out of the question. Without a node it says why.
func (r *room) choose(wanted fleet.Place, spec fleet.Spec, not string) (node, why string) {
	var best *space
	var reasons []string
	for _, s := range r.nodes {
		if s.site != wanted.Site || wanted.Node != "" && s.name != wanted.Node || s.name == not {
			continue
		}
		if reason := s.refuses(spec, wanted.Node != ""); reason != "" {
			reasons = append(reasons, s.name+" "+reason)
			continue
		}
		if best == nil || s.before(best) {
			best = s
		}
	}
	if best == nil {
		return "", nowhere(wanted, reasons)
	}
	best.instances++
	best.used += memory(spec)
	return best.name, ""
}

func (s *space) before(other *space) bool {
	return cmp.Or(cmp.Compare(s.instances, other.instances), cmp.Compare(other.memory-other.used, s.memory-s.used), strings.Compare(s.name, other.name)) < 0
}

func nowhere(wanted fleet.Place, reasons []string) string {
	place := "site " + wanted.Site
	if wanted.Node != "" {
		place = "node " + wanted.Node + " of " + place
	}
	if len(reasons) == 0 {
		return place + " has no node that was ever seen"
	}
	return place + " has no room: " + strings.Join(reasons, ", ")
}

// refuses says why a node cannot take a spec; named is true when the fleet asks for this very node.
func (s *space) refuses(spec fleet.Spec, named bool) string {
	mayRun := slices.Contains(s.roles, fleet.RoleRun) || named && slices.Contains(s.roles, fleet.RoleSpare)
	switch {
	case !mayRun:
		return "has not the role run"
	case s.unseen != "":
		return s.unseen
	case !slices.ContainsFunc(s.engines, func(engine string) bool { return slices.Contains(spec.Engines(), engine) }):
		return "has no engine for it (" + strings.Join(s.engines, ", ") + ")"
	case s.most > 0 && s.instances >= s.most:
		return fmt.Sprintf("is full with %d instances", s.instances)
	case s.memory > 0 && s.used+memory(spec) > s.memory:
		return fmt.Sprintf("has %d of %d MB left and it needs %d", s.memory-s.used, s.memory, memory(spec))
	}
	return ""
}

// memory is what a spec is promised, in MB.
func memory(spec fleet.Spec) int64 {
	var all int64
	for _, s := range spec.Services {
		all += s.MemoryMB * int64(s.Replicas)
	}
	return all
}
