package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast/internal/fleet"
)

// World is what was last seen, and what was last applied.
type World struct {
	Inventory fleet.Inventory
	Applied   map[string]fleet.Spec // instance -> what runs, as rendered then; names what changes. May lack some
	Home      bool                  // what a recovery or a restore took away is to go home
	Held      map[string]Held       // instance -> its newest snapshot in a vault
}

// Held is what a vault holds of an instance.
type Held struct {
	Vault    string
	Snapshot string
}

// Diff compares a fleet with the world. Only instances that the selector matches are planned; all count for room.
func Diff(f *fleet.Fleet, w World, selector fleet.Selector) (Plan, error) {
	d := &diff{fleet: f, world: w, selector: selector, seen: seen(w.Inventory), plan: Plan{Fleet: f.Revision, Selector: selector.String(), Home: w.Home}}
	d.room = newRoom(f, w.Inventory, d.seen)
	for _, name := range d.names() {
		if err := d.instance(name); err != nil {
			return Plan{}, err
		}
	}
	d.edges()
	return d.end()
}

type diff struct {
	fleet    *fleet.Fleet
	world    World
	selector fleet.Selector
	seen     sight
	room     *room
	plan     Plan
}

// names are all instances that are declared or placed, sorted.
func (d *diff) names() []string {
	all := map[string]bool{}
	for name := range d.fleet.Instances {
		all[name] = true
	}
	for name := range d.world.Inventory.Placements {
		all[name] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// end fingerprints the plan.
func (d *diff) end() (Plan, error) {
	var err error
	if d.plan.Inventory, err = hash(facts(d.world, d.seen)); err != nil {
		return Plan{}, err
	}
	d.plan.Items = append([]Item{}, d.plan.Items...) // [] rather than null in JSON
	id, err := hash(d.plan)
	if err != nil {
		return Plan{}, err
	}
	d.plan.ID = id[:20] // 80 bits: enough to tell plans apart, short enough to type
	return d.plan, nil
}

func (d *diff) block(instance, next, why string, args ...any) {
	d.plan.Blocked = append(d.plan.Blocked, Blocked{Instance: instance, Why: fmt.Sprintf(why, args...), Next: next})
}

func (d *diff) cannotTell(instance, why string, args ...any) {
	d.plan.Unknown = append(d.plan.Unknown, Unknown{Instance: instance, Why: fmt.Sprintf(why, args...)})
}

// instance decides about one instance.
func (d *diff) instance(name string) error {
	wanted, declared := d.fleet.Instances[name]
	placement, placed := d.world.Inventory.Placements[name]
	if !d.selector.Matches(d.labels(wanted, declared, placement)) {
		return nil
	}
	if !declared {
		d.retire(placement)
		return nil
	}
	spec, err := fleet.Render(d.fleet, name)
	if err != nil {
		return err
	}
	if !d.vaultHolds(wanted, spec) {
		return nil
	}
	c := candidate{wanted: wanted, spec: spec, placement: placement}
	if placed {
		d.placed(c)
	} else {
		d.create(c)
	}
	return nil
}

// candidate is an instance under decision.
type candidate struct {
	wanted    fleet.Instance
	spec      fleet.Spec
	placement fleet.Placement
}

// labels are those of the declared instance, or what is known of one that is declared no more.
func (d *diff) labels(wanted fleet.Instance, declared bool, p fleet.Placement) fleet.Labels {
	if declared {
		return wanted.Selectable()
	}
	product, _, _ := strings.Cut(p.Release, "/")
	gone := fleet.Instance{Name: p.Instance, Product: product, Release: p.Release, Placement: fleet.Place{Site: p.Site, Node: p.Node}}
	return gone.Selectable()
}

// vaultHolds refuses an instance whose vault turned out to stand in its own site, and says when it was never seen.
func (d *diff) vaultHolds(wanted fleet.Instance, spec fleet.Spec) bool {
	vault := spec.Backup.Vault
	if vault == "" || len(spec.State) == 0 {
		return true
	}
	node, known := d.world.Inventory.Nodes[vault]
	if !known {
		d.cannotTell(wanted.Name, "its vault %s has never been seen: no backup can be made until it is", vault)
		return true
	}
	if node.Site == wanted.Placement.Site {
		d.block(wanted.Name, "write a vault of another site into its backup settings",
			"its vault %s stands in its own site %s and would be lost with it", vault, node.Site)
		return false
	}
	return true
}

// create places an instance that nobody has placed. One that a node holds all the same is never started twice, and one
// of which a vault has a snapshot was lost: it is restored, never begun anew.
func (d *diff) create(c candidate) {
	if holder := d.holder(c.wanted.Name); holder != "" {
		d.block(c.wanted.Name, "bring the server's own database back from its backup; holdfast node show "+holder,
			"node %s holds it and this server has never placed it: a second copy is not started", holder)
		return
	}
	if held, lost := d.world.Held[c.wanted.Name]; lost {
		d.block(c.wanted.Name, "holdfast restore instance/"+c.wanted.Name+" --to NODE",
			"it is known in vault %s, last snapshot %.12s, and this server has never placed it: an empty one is not put over a lost one", held.Vault, held.Snapshot)
		return
	}
	d.start(c, nil)
}

// holder is a node that says it holds an instance which is not fenced.
func (d *diff) holder(name string) string {
	for _, node := range slices.Sorted(maps.Keys(d.world.Inventory.Nodes)) {
		facts, holds := d.world.Inventory.Nodes[node].Instances[name]
		if holds && facts.State != fleet.StateFenced {
			return node
		}
	}
	return ""
}

// start chooses a node and plans a first start there.
func (d *diff) start(c candidate, notes []string) {
	node, why := d.room.choose(c.wanted.Placement, c.spec, "")
	if node == "" {
		d.block(c.wanted.Name, "add a node with role run to the site, or make room", "%s", why)
		return
	}
	d.add(c, Item{Action: Create, To: Where{c.wanted.Placement.Site, node}, Slot: "s1", Notes: notes})
}

// add completes an item from what is wanted.
func (d *diff) add(c candidate, item Item) {
	item.Instance, item.Ring, item.Spec = c.wanted.Name, c.wanted.Ring, c.spec
	item.After = d.before(c.wanted.Ring)
	if item.Changes == nil {
		item.Changes = []Difference{}
	}
	d.plan.Items = append(d.plan.Items, item)
}

// before lists the rings that a ring stands after, nearest first.
func (d *diff) before(ring string) []string {
	var all []string
	for at := d.fleet.Rings[ring].After; at != "" && !slices.Contains(all, at); at = d.fleet.Rings[at].After {
		all = append(all, at)
	}
	return all
}

// placed decides about an instance that has a place.
func (d *diff) placed(c candidate) {
	p := c.placement
	if d.seen.unseen(p.Node) {
		d.cannotTell(p.Instance, "%s, where it is placed, %s", p.Node, d.seen.why(p.Node))
		return
	}
	held, holds := d.world.Inventory.Nodes[p.Node].Instances[p.Instance]
	switch {
	case !holds && !p.Booted:
		d.start(c, []string{"an earlier start did not come to its end"})
	case !holds, !hasSlot(held, p.Slot):
		d.block(p.Instance, "holdfast restore instance/"+p.Instance,
			"node %s does not hold its data in slot %s any more", p.Node, p.Slot)
	case !d.fleet.Releases[c.wanted.Release].ReachableFrom(cmp.Or(held.Release, p.Release)) && held.Release != c.wanted.Release:
		d.block(p.Instance, "go by a release that may be reached; see from: of "+c.wanted.Release,
			"%s may not be reached from %s directly", c.wanted.Release, cmp.Or(held.Release, p.Release))
	case elsewhere(c.wanted.Placement, p) && !d.world.Home && atHome(c.wanted.Placement, p):
		d.away(c)
		d.change(c, held)
	case elsewhere(c.wanted.Placement, p):
		d.move(c)
	default:
		d.change(c, held)
	}
}

func hasSlot(held fleet.InstanceFacts, slot string) bool {
	return held.Slot == slot || slices.Contains(held.Beside, slot)
}

// elsewhere tells whether an instance is wanted in another place than where it is.
func elsewhere(wanted fleet.Place, p fleet.Placement) bool {
	return wanted.Site != p.Site || wanted.Node != "" && wanted.Node != p.Node
}

// atHome tells whether an instance is declared where it was taken from: the files say nothing new of its place.
func atHome(wanted fleet.Place, p fleet.Placement) bool {
	return p.Home.Site != "" && wanted.Site == p.Home.Site && (wanted.Node == "" || wanted.Node == p.Home.Node)
}

// away says that an instance stays where it was brought. A move costs its customer an outage, and its home may have
// been back for a minute: that is for a person to choose.
func (d *diff) away(c candidate) {
	p := c.placement
	away := Away{Instance: p.Instance, At: Where{p.Site, p.Node}, Home: Where{c.wanted.Placement.Site, c.wanted.Placement.Node}}
	if vault, known := d.world.Inventory.Nodes[c.spec.Backup.Vault]; known && vault.Site == p.Site {
		away.Note = fmt.Sprintf("its vault %s stands in %s too: the loss of that site would now take both", c.spec.Backup.Vault, p.Site)
	}
	d.plan.Away = append(d.plan.Away, away)
}

// change brings an instance to its spec in its place, or lets it serve again.
func (d *diff) change(c candidate, held fleet.InstanceFacts) {
	item := Item{Action: Change, From: Where{c.placement.Site, c.placement.Node}, To: Where{c.placement.Site, c.placement.Node}, Slot: c.placement.Slot}
	item.Again, item.Notes = again(c.placement, held)
	if held.Spec == c.spec.Fingerprint && c.placement.Spec == c.spec.Fingerprint && !item.Again {
		return
	}
	item.Changes = d.changes(c, held.Spec)
	if held.Spec != c.placement.Spec && !item.Again {
		item.Notes = append(item.Notes, fmt.Sprintf("drift: node %s runs something else than was last applied", c.placement.Node))
	}
	d.add(c, item)
}

// again tells whether an instance does not serve although it is placed, and why.
func again(p fleet.Placement, held fleet.InstanceFacts) (bool, []string) {
	switch {
	case p.Retired:
		return true, []string{"it was retired; the data that was kept serves again"}
	case held.State == fleet.StateStopped:
		return true, []string{"it was stopped on order"}
	case held.State == fleet.StateFenced, held.State == fleet.StateBeside, held.Slot != p.Slot, held.Epoch != p.Epoch:
		return true, []string{"an earlier operation did not come to its end"}
	}
	return false, nil
}

// changes names the values that change, if what runs is known, and else the fingerprints.
func (d *diff) changes(c candidate, runs string) []Difference {
	applied, known := d.world.Applied[c.wanted.Name]
	if known && applied.Fingerprint == runs {
		return Differences(applied, c.spec)
	}
	if runs == c.spec.Fingerprint {
		return nil
	}
	return []Difference{{Name: "spec", From: short(runs), To: short(c.spec.Fingerprint)}}
}

func short(fingerprint string) string { return fingerprint[:min(12, len(fingerprint))] }

// move takes an instance to another place by a backup and a restore, between which nothing is written.
func (d *diff) move(c candidate) {
	p := c.placement
	if database := needsService(c.spec); database != "" {
		d.block(p.Instance, fmt.Sprintf("holdfast backup run instance/%s, then holdfast restore instance/%s --to NODE, at a time when losing what is written in between is agreed", p.Instance, p.Instance),
			"state %s can only be dumped while it serves, so a move would lose what is written meanwhile", database)
		return
	}
	node, why := d.room.choose(c.wanted.Placement, c.spec, p.Node)
	if node == "" {
		d.block(p.Instance, "add a node with role run to the site, or make room", "%s", why)
		return
	}
	was, known := d.world.Applied[p.Instance]
	if !known {
		was = c.spec
	}
	runs := d.world.Inventory.Nodes[p.Node].Instances[p.Instance].Spec
	d.add(c, Item{Action: Move, Home: atHome(c.wanted.Placement, p), Was: &was, From: Where{p.Site, p.Node}, To: Where{c.wanted.Placement.Site, node}, Slot: p.Slot, Changes: d.changes(c, runs),
		Notes: []string{"it does not serve from the backup to the switch; the old copy stays on " + p.Node + ", fenced"}})
}

// needsService is a state that only a running service can dump.
func needsService(spec fleet.Spec) string {
	for _, s := range spec.State {
		if len(s.Dump.Args) > 0 {
			return s.Name
		}
	}
	return ""
}

// retire stops what is declared no more, and nothing else.
func (d *diff) retire(p fleet.Placement) {
	if p.Retired {
		return
	}
	if d.seen.unseen(p.Node) {
		d.cannotTell(p.Instance, "it is declared no more, and %s, where it is placed, %s", p.Node, d.seen.why(p.Node))
		return
	}
	item := Item{Instance: p.Instance, Action: Retire, From: Where{p.Site, p.Node}, Slot: p.Slot, Changes: []Difference{},
		Notes: []string{"it stops; its data stays on " + p.Node + " and its backups in the vault"}}
	d.plan.Items = append(d.plan.Items, item)
}

// edges says when nobody would pass requests to what is started.
func (d *diff) edges() {
	if d.plan.Count(Create)+d.plan.Count(Move) == 0 {
		return
	}
	for name, node := range d.world.Inventory.Nodes {
		if slices.Contains(node.Roles, fleet.RoleEdge) && !d.seen.unseen(name) {
			return
		}
	}
	d.cannotTell("", "no node with role edge is seen: whether instances can be reached is not known")
}
