package plan_test

import (
	"maps"
	"testing"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/plan"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world is two sites with two run nodes and a vault each, and an edge, all seen at noon, with nothing on them.
func world() plan.World {
	w := plan.World{
		Inventory: fleet.Inventory{Nodes: map[string]fleet.NodeFacts{}, Placements: map[string]fleet.Placement{}},
		Applied:   map[string]fleet.Spec{}, Held: map[string]plan.Held{},
	}
	for _, site := range []string{"par1", "ams1"} {
		addNode(w, site+"-1", site, fleet.RoleRun)
		addNode(w, site+"-2", site, fleet.RoleRun)
		addNode(w, site+"-vault", site, fleet.RoleVault)
		addNode(w, site+"-edge", site, fleet.RoleEdge)
	}
	return w
}

func addNode(w plan.World, name, site string, role fleet.Role) {
	w.Inventory.Nodes[name] = fleet.NodeFacts{
		Node: name, Site: site, Roles: []fleet.Role{role}, Engines: []string{"exec"}, SeenAt: noon,
		Capacity: fleet.Capacity{MemoryMB: 4096}, Instances: map[string]fleet.InstanceFacts{},
	}
}

// effect is the world after a plan was applied and every step of it was done.
func effect(w plan.World, p plan.Plan) plan.World {
	after := clone(w)
	for _, item := range p.Items {
		before := after.Inventory.Placements[item.Instance]
		switch item.Action {
		case plan.Create:
			run(after, item, item.Slot, before.Epoch+1)
		case plan.Change:
			epoch := before.Epoch
			if item.Again {
				epoch++
			}
			run(after, item, item.Slot, epoch)
		case plan.Move:
			old := after.Inventory.Nodes[item.From.Node].Instances[item.Instance]
			old.State = fleet.StateFenced
			after.Inventory.Nodes[item.From.Node].Instances[item.Instance] = old
			run(after, item, "s9", before.Epoch+1)
		case plan.Retire:
			before.Retired = true
			after.Inventory.Placements[item.Instance] = before
			held := after.Inventory.Nodes[item.From.Node].Instances[item.Instance]
			held.State = fleet.StateStopped
			after.Inventory.Nodes[item.From.Node].Instances[item.Instance] = held
		}
	}
	return after
}

// run lets a node hold what an item says.
func run(w plan.World, item plan.Item, slot string, epoch int64) {
	w.Applied[item.Instance] = item.Spec
	home := fleet.Place{}
	if before := w.Inventory.Placements[item.Instance]; before.Node == item.To.Node {
		home = before.Home
	}
	w.Inventory.Placements[item.Instance] = fleet.Placement{
		Instance: item.Instance, Node: item.To.Node, Site: item.To.Site, Epoch: epoch, Slot: slot,
		Spec: item.Spec.Fingerprint, Release: item.Spec.Release, Booted: true, Home: home,
	}
	w.Inventory.Nodes[item.To.Node].Instances[item.Instance] = fleet.InstanceFacts{
		Instance: item.Instance, Epoch: epoch, Slot: slot, Spec: item.Spec.Fingerprint, Release: item.Spec.Release, State: fleet.StateRunning,
	}
	node := w.Inventory.Nodes[item.To.Node]
	node.Capacity.MemoryUsedMB = 0
	for name := range node.Instances {
		for _, s := range w.Applied[name].Services {
			node.Capacity.MemoryUsedMB += s.MemoryMB * int64(s.Replicas)
		}
	}
	w.Inventory.Nodes[item.To.Node] = node
}

// away is what a recovery does: the instance runs on another node, its old copy is fenced.
func away(w plan.World, name, from, to string) {
	home := w.Inventory.Placements[name]
	run(w, plan.Item{Instance: name, To: plan.Where{Site: w.Inventory.Nodes[to].Site, Node: to}, Spec: w.Applied[name]}, "s7", home.Epoch+1)
	p := w.Inventory.Placements[name]
	p.Home = fleet.Place{Site: home.Site, Node: home.Node}
	w.Inventory.Placements[name] = p
	hold(w, from, name, func(i *fleet.InstanceFacts) { i.State = fleet.StateFenced })
}

func clone(w plan.World) plan.World {
	c := plan.World{Home: w.Home, Applied: maps.Clone(w.Applied), Held: maps.Clone(w.Held), Inventory: fleet.Inventory{Placements: maps.Clone(w.Inventory.Placements), Nodes: map[string]fleet.NodeFacts{}}}
	for name, n := range w.Inventory.Nodes {
		n.Instances = maps.Clone(n.Instances)
		c.Inventory.Nodes[name] = n
	}
	return c
}

func example(t testing.TB) fleet.Files {
	t.Helper()
	files, err := fleet.Collect("../../examples/notes/fleet")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func read(t testing.TB, files fleet.Files) *fleet.Fleet {
	t.Helper()
	f, err := fleet.Read(files)
	if err != nil {
		t.Fatalf("read fleet: %v", err)
	}
	return f
}

func diff(t testing.TB, f *fleet.Fleet, w plan.World, selector string) plan.Plan {
	t.Helper()
	s, err := fleet.ParseSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Diff(f, w, s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
