package web

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"holdfast/internal/fleet"
)

// unheardAfter is when a node that reports every five seconds is shown as out of reach.
const unheardAfter = 15 * time.Second

// fleetView is the fleet page.
type fleetView struct {
	Counts []stateCount
	Sites  []siteView
}

type stateCount struct {
	State string
	Tone  tone
	Count int
}

type siteView struct {
	Site    string
	Summary string
	Cells   []cell
}

// cell is one instance.
type cell struct {
	Instance, State, Release, Node, Proof, Find string
	Tone                                        tone
}

func (w *Web) fleet(rw http.ResponseWriter, r *http.Request) {
	inventory, err := w.Inventory(r.Context())
	if err != nil {
		w.fail(rw, r, err)
		return
	}
	proofs, err := w.Proofs(r.Context())
	if err != nil {
		w.fail(rw, r, err)
		return
	}
	w.draw(rw, r, "fleet", "Fleet", drawFleet(inventory, proofs, w.now()))
}

// Proof is what is known of an instance's newest backup: when it was taken, and when one was last really restored.
type Proof struct {
	Snapshot time.Time // zero: none
	Proven   time.Time // zero: never
}

// words never say that a backup is fine: they give the age of the proof, or say that there is none.
func (p Proof) words(now time.Time) string {
	switch {
	case p.Snapshot.IsZero():
		return "no snapshot"
	case p.Proven.IsZero():
		return "unproven · snapshot " + age(p.Snapshot, now)
	}
	return "proven " + age(p.Proven, now)
}

// drawFleet groups the instances by the site they are placed in.
func drawFleet(inv fleet.Inventory, proofs map[string]Proof, now time.Time) fleetView {
	sites := map[string][]cell{}
	counts := map[fleet.InstanceState]int{}
	for _, p := range inv.Placements {
		state := stateOf(inv, p, now)
		counts[state]++
		c := cell{Instance: p.Instance, State: string(state), Tone: toneOfInstance(state), Release: p.Release, Node: p.Node, Proof: proofs[p.Instance].words(now)}
		c.Find = strings.ToLower(strings.Join([]string{c.Instance, c.State, c.Release, c.Node, p.Site}, " "))
		sites[p.Site] = append(sites[p.Site], c)
	}
	view := fleetView{Counts: countsOf(counts)}
	for site, cells := range sites {
		slices.SortFunc(cells, func(a, b cell) int { return cmp.Compare(a.Instance, b.Instance) })
		view.Sites = append(view.Sites, siteView{Site: site, Cells: cells, Summary: fmt.Sprintf("%d instances", len(cells))})
	}
	slices.SortFunc(view.Sites, func(a, b siteView) int { return cmp.Compare(a.Site, b.Site) })
	return view
}

// countsOf lists the states in a fixed order, running always, others when there are any.
func countsOf(counts map[fleet.InstanceState]int) []stateCount {
	var list []stateCount
	for _, s := range []fleet.InstanceState{fleet.StateRunning, fleet.StateStarting, fleet.StateBeside, fleet.StateDegraded, fleet.StateUnknown, fleet.StateFenced, fleet.StateStopped} {
		if n := counts[s]; n > 0 || s == fleet.StateRunning {
			list = append(list, stateCount{State: string(s), Tone: toneOfInstance(s), Count: n})
		}
	}
	return list
}

// stateOf is the state of a placed instance as its node last told it; unknown when the node is out of reach.
func stateOf(inv fleet.Inventory, p fleet.Placement, now time.Time) fleet.InstanceState {
	if p.Retired {
		return fleet.StateStopped
	}
	node, ok := inv.Nodes[p.Node]
	if !ok || now.Sub(node.SeenAt) > unheardAfter {
		return fleet.StateUnknown
	}
	facts, ok := node.Instances[p.Instance]
	if !ok {
		return fleet.StateStarting
	}
	return facts.State
}
