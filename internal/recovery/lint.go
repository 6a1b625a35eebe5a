package recovery

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast/internal/fleet"
)

// Severity tells what would fail from what would only be worse than it could.
type Severity string

// The severities. A plan with an error is not run without being told so.
const (
	Broken  Severity = "error"
	Warning Severity = "warning"
)

// Finding is one thing that would fail if the plan ran now.
type Finding struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code"`   // stable: "backup-missing"
	Object   string   `json:"object"` // "instance/acme"
	Message  string   `json:"message"`
	Hint     string   `json:"hint,omitempty"`
}

// Draft is a plan held against the world: who would go where, and what would fail.
type Draft struct {
	Plan        string       `json:"plan"`
	Members     []Member     `json:"members"`
	Assignments []Assignment `json:"assignments"` // in the order of work
	Unplaced    []Unplaced   `json:"unplaced,omitempty"`
	Findings    []Finding    `json:"findings"`
}

// Broken tells whether the plan would fail.
func (d Draft) Broken() bool {
	return slices.ContainsFunc(d.Findings, func(f Finding) bool { return f.Severity == Broken })
}

// Lint drafts the plan and lists what would fail today, errors first. It changes nothing.
func Lint(plan fleet.RecoveryPlan, w World) Draft {
	members, loose := Members(plan, w)
	d := Draft{Plan: plan.Name, Members: members}
	d.Assignments, d.Unplaced = Place(Needs(members, w), Rooms(plan, w, len(members)))
	l := &lint{plan: plan, world: w, draft: d}
	l.names()
	l.scope(loose)
	l.tiers()
	l.targets()
	l.capacity()
	l.times()
	for _, m := range members {
		l.backup(m)
		l.custody(m)
		l.invariants(m)
	}
	l.checks()
	l.watchers()
	l.witnesses()
	l.communications()
	l.fault()
	slices.SortStableFunc(l.found, func(a, b Finding) int { return order(a.Severity) - order(b.Severity) })
	d.Findings = l.found
	return d
}

func order(s Severity) int {
	if s == Broken {
		return 0
	}
	return 1
}

type lint struct {
	plan  fleet.RecoveryPlan
	world World
	draft Draft
	found []Finding
}

func (l *lint) broken(code, object, hint, format string, args ...any) {
	l.found = append(l.found, Finding{Broken, code, object, fmt.Sprintf(format, args...), hint})
}

func (l *lint) warn(code, object, hint, format string, args ...any) {
	l.found = append(l.found, Finding{Warning, code, object, fmt.Sprintf(format, args...), hint})
}

func (l *lint) self() string { return "recoveryplan/" + l.plan.Name }

// names holds the plan's own words against what exists.
func (l *lint) names() {
	switch l.plan.Scenario {
	case fleet.SiteLost:
		if _, ok := l.world.Fleet.Sites[l.plan.Lost]; !ok {
			l.broken("lost-unknown", l.self(), "name a declared site in lost:", "there is no site %s", l.plan.Lost)
		}
	case fleet.NodeLost:
		if _, ok := l.world.Inventory.Nodes[l.plan.Lost]; !ok {
			l.broken("lost-unknown", l.self(), "holdfast get nodes", "there is no node %s", l.plan.Lost)
		}
	default:
		l.broken("scenario-unknown", l.self(), "scenario: site_lost or node_lost", "scenario %q is not known", l.plan.Scenario)
	}
	for _, name := range l.plan.Scope.Never {
		if _, ok := l.world.Fleet.Instances[name]; !ok {
			l.warn("never-unknown", l.self(), "take it out of scope.never", "scope.never names %s, and there is no such instance", name)
		}
	}
}

// scope holds the selector against the count that the author counted: wrong by one label, and the counts disagree.
func (l *lint) scope(loose []string) {
	have, want := len(l.draft.Members), l.plan.Scope.Expect
	switch {
	case have == 0:
		l.broken("scope-empty", l.self(), "holdfast explain instance/NAME shows labels and placement", "the scope matches no instance that lives in %s", l.plan.Lost)
	case abs(have-want) > l.plan.Scope.Tolerance:
		l.broken("scope-count", l.self(), fmt.Sprintf("scope.expect: %d, if that is what you mean", have), "the scope matches %d instances, the plan expects %d", have, want)
	}
	for _, name := range loose {
		l.broken("tier-missing", "instance/"+name, "add a tier that selects it, or name it in scope.never", "no tier of the plan takes it")
	}
	for _, name := range slices.Sorted(maps.Keys(l.world.Inventory.Placements)) {
		_, declared := l.world.Fleet.Instances[name]
		if !declared && lives(l.plan, l.world.Inventory.Placements[name]) {
			l.warn("not-declared", "instance/"+name, "declare it again, or retire it: holdfast plan", "it lives in %s and no file declares it: the plan leaves it behind", l.plan.Lost)
		}
	}
}

func (l *lint) tiers() {
	for rank, t := range l.plan.Tiers {
		if !slices.ContainsFunc(l.draft.Members, func(m Member) bool { return m.Rank == rank }) {
			l.warn("tier-empty", l.self(), "", "tier %s takes no instance", t.Name)
		}
		if t.RTO == 0 || t.RPO == 0 {
			l.warn("tier-promises-nothing", l.self(), "give it rto and rpo", "tier %s promises no RTO or no RPO, so a slow recovery passes", t.Name)
		}
	}
}

// targets looks for target nodes that are lost too, unknown or silent.
func (l *lint) targets() {
	for _, site := range l.plan.Target.Sites {
		if l.plan.Scenario == fleet.SiteLost && site == l.plan.Lost {
			l.broken("target-lost", l.self(), "name another site in target.sites", "target site %s is the one that is lost", site)
		}
	}
	for _, name := range l.plan.Target.Nodes {
		if _, ok := l.world.Inventory.Nodes[name]; !ok {
			l.broken("target-unknown", "node/"+name, "holdfast get nodes", "the plan names it as a target, and no such node has ever reported")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.world.Inventory.Nodes)) {
		l.target(l.world.Inventory.Nodes[name])
	}
}

func (l *lint) target(n fleet.NodeFacts) {
	if !isTarget(l.plan, n) {
		return
	}
	named := slices.Contains(l.plan.Target.Nodes, n.Node)
	switch {
	case gone(l.plan, n) && named:
		l.broken("target-lost", "node/"+n.Node, "name nodes outside "+l.plan.Lost+" in target.nodes", "it is a target of the plan and is lost itself")
	case gone(l.plan, n):
	case l.world.Now.Sub(n.SeenAt) > staleAfter:
		l.warn("target-silent", "node/"+n.Node, "look at the agent on it", "it is a target of the plan and has not reported for %s", l.world.Now.Sub(n.SeenAt).Truncate(time.Second))
	}
}

func (l *lint) capacity() {
	rooms := Rooms(l.plan, l.world, len(l.draft.Members))
	if len(rooms) == 0 {
		l.broken("no-target", l.self(), "join nodes with role spare in another site", "no node outside %s can take an instance now", l.plan.Lost)
		return
	}
	for _, u := range l.draft.Unplaced {
		l.broken("does-not-fit", "instance/"+u.Instance, "join another spare node, or lower target.headroom", "it has no place: %s", u.Why)
	}
}

// times compares what tiers promise with what is estimated. The estimate leaves out detection and decision.
func (l *lint) times() {
	tiers := map[string]Member{}
	for _, m := range l.draft.Members {
		tiers[m.Instance] = m
	}
	for _, a := range l.draft.Assignments {
		if m := tiers[a.Instance]; m.RTO > 0 && a.Ends > m.RTO {
			l.warn("rto-short", "instance/"+a.Instance, "more target nodes, or a longer rto", "its restore on %s is estimated to end after %s, tier %s promises %s", a.Node, a.Ends.Round(time.Second), m.Tier, fleet.FormatDuration(m.RTO))
		}
	}
}

func (l *lint) backup(m Member) {
	object, spec := "instance/"+m.Instance, l.world.Specs[m.Instance]
	if m.RPO > 0 && spec.Backup.Every > m.RPO {
		l.broken("rpo-short", object, "lower backup.every, or raise the tier's rpo", "it is backed up every %s, tier %s promises to lose %s at most", fleet.FormatDuration(spec.Backup.Every), m.Tier, fleet.FormatDuration(m.RPO))
	}
	newest, ok := l.world.Catalogue[m.Instance]
	if !ok {
		l.broken("backup-missing", object, "holdfast backup run "+object, "it has no backup at all")
		return
	}
	if age := l.world.Now.Sub(newest.TakenAt); m.RPO > 0 && age > m.RPO {
		l.broken("backup-old", object, "holdfast backup run "+object, "its newest backup is %s old, tier %s promises to lose %s at most", age.Truncate(time.Second), m.Tier, fleet.FormatDuration(m.RPO))
	}
	l.release(m.Instance, newest)
	l.vault(object, newest)
}

// release says which release comes back where it is not the one that runs, and what would stop a restore half way.
func (l *lint) release(instance string, newest Snapshot) {
	object, now := "instance/"+instance, l.world.Specs[instance].Release
	then, known := l.world.Then[instance]
	switch {
	case known:
		l.warn("release-older", object, "holdfast backup run "+object, "its newest backup is of %s and %s runs: the recovery starts %s on it, and a plan afterwards goes on to %s", then.Release, now, then.Release, now)
	case newest.Release != "" && newest.Release != now:
		l.broken("release-unknown", object, "holdfast backup run "+object, "its newest backup is of %s, %s runs, and what ran then is not known here: nothing would be started on it", newest.Release, now)
	}
}

func (l *lint) vault(object string, newest Snapshot) {
	vault, known := l.world.Inventory.Nodes[newest.Vault]
	switch {
	case !known:
		l.broken("vault-unknown", object, "holdfast get nodes", "its backups are on %q, and no such node has ever reported", newest.Vault)
	case gone(l.plan, vault):
		l.broken("vault-lost", object, "set backup.vault to a vault in another site, then holdfast backup run "+object, "its backups are on %s, which is lost with %s", newest.Vault, l.plan.Lost)
	case l.world.Now.Sub(vault.SeenAt) > staleAfter:
		l.broken("vault-silent", object, "look at the agent on "+newest.Vault, "its backups are on %s, which has not reported for %s", newest.Vault, l.world.Now.Sub(vault.SeenAt).Truncate(time.Second))
	}
}

// custody asks who can open the backup. Without the custodian the recovery waits for people.
func (l *lint) custody(m Member) {
	newest, ok := l.world.Catalogue[m.Instance]
	if !ok || newest.Custodian {
		return
	}
	if len(l.plan.Custody.Keepers) == 0 {
		l.broken("key-missing", "instance/"+m.Instance, "backup.custodian: true, or name the keepers of the recovery key in custody.keepers", "the custodian cannot open its backup and the plan names nobody who can")
		return
	}
	l.warn("key-with-people", "instance/"+m.Instance, "backup.custodian: true", "its restore waits until one of %d keepers gives the recovery key", len(l.plan.Custody.Keepers))
}

func (l *lint) invariants(m Member) {
	if len(l.world.Specs[m.Instance].Invariants) == 0 {
		l.warn("no-invariant", "instance/"+m.Instance, "add x-holdfast invariants to its product", "nothing asks whether its restored data is right")
	}
}

func (l *lint) checks() {
	for _, name := range l.plan.Checks {
		if !slices.Contains(fleet.RecoveryChecks(), name) {
			l.broken("check-unknown", l.self(), fmt.Sprintf("checks: %v", fleet.RecoveryChecks()), "there is no check %q", name)
		}
	}
}

// watchers wants a probe and an edge that live on when the site is lost.
func (l *lint) watchers() {
	probes, edges := 0, 0
	for _, n := range l.world.Inventory.Nodes {
		if gone(l.plan, n) || l.world.Now.Sub(n.SeenAt) > staleAfter {
			continue
		}
		if slices.Contains(n.Roles, fleet.RoleProbe) {
			probes++
		}
		if slices.Contains(n.Roles, fleet.RoleEdge) {
			edges++
		}
	}
	switch probes {
	case 0:
		l.broken("no-probe", l.self(), "join a node with role probe in another site", "no probe outside %s would see it lost", l.plan.Lost)
	case 1:
		l.warn("one-probe", l.self(), "join a second node with role probe", "only one probe outside %s looks: its own trouble would look like a lost site", l.plan.Lost)
	}
	if edges == 0 {
		l.broken("no-edge", l.self(), "join a node with role edge in another site", "no edge outside %s could send requests to the new place", l.plan.Lost)
	}
}

// witnesses wants, for each site that instances are rebuilt in, a probe that is neither there nor in what is lost: a
// probe of the instance's own site is no witness, so nobody would see it come back.
func (l *lint) witnesses() {
	var sites []string
	for _, a := range l.draft.Assignments {
		sites = append(sites, a.Site)
	}
	slices.Sort(sites)
	for _, site := range slices.Compact(sites) {
		if !l.seenFrom(func(n fleet.NodeFacts) bool { return n.Site != site }) && l.seenFrom(func(fleet.NodeFacts) bool { return true }) {
			l.broken("no-witness", l.self(), "join a node with role probe in a third site",
				"no probe outside both %s and %s would see instances come back in %s", l.plan.Lost, site, site)
		}
	}
}

// seenFrom tells whether a probe lives on that fits.
func (l *lint) seenFrom(fits func(fleet.NodeFacts) bool) bool {
	for _, n := range l.world.Inventory.Nodes {
		if slices.Contains(n.Roles, fleet.RoleProbe) && !gone(l.plan, n) && l.world.Now.Sub(n.SeenAt) <= staleAfter && fits(n) {
			return true
		}
	}
	return false
}

func (l *lint) communications() {
	known := TellEvents()
	for _, t := range l.plan.Tell {
		if !slices.Contains(known, t.Event) {
			l.broken("tell-unknown", l.self(), fmt.Sprintf("event: one of %v", known), "there is no event %q to tell anybody of", t.Event)
		}
		if len(t.To) == 0 || t.Text == "" {
			l.broken("tell-nobody", l.self(), "give to: and text:", "the communication to %s at %s has nobody to go to or says nothing", t.Audience, t.Event)
		}
	}
	if !slices.ContainsFunc(l.plan.Tell, func(t fleet.RecoveryTell) bool { return t.Event == TellDeclared }) {
		l.warn("tell-missing", l.self(), "tell: [{event: declared, ...}]", "nobody is told when the recovery begins")
	}
}

func (l *lint) fault() {
	if f := l.plan.Fault; f.Kind != "" {
		if err := CheckFault(f); err != nil {
			l.broken("fault-wrong", l.self(), "", "%s", err.Error())
		}
	}
}

func abs(n int) int { return max(n, -n) }

// faultNodes are the nodes that a drill hits: those of the lost site that run stacks. A vault's, an edge's or a
// probe's own node is left alone: a drill never touches backups or the witnesses.
func faultNodes(plan fleet.RecoveryPlan, w World) []string {
	var nodes []string
	for _, name := range slices.Sorted(maps.Keys(w.Inventory.Nodes)) {
		n := w.Inventory.Nodes[name]
		runs := slices.Contains(n.Roles, fleet.RoleRun) || slices.Contains(n.Roles, fleet.RoleSpare)
		if gone(plan, n) && runs {
			nodes = append(nodes, name)
		}
	}
	return nodes
}

// lintFault looks for what would make the fault hit more than it should, or not end.
func lintFault(run Run, w World) []Finding {
	l := &lint{plan: run.Plan, world: w}
	if len(run.Nodes) == 0 {
		l.broken("no-node", l.self(), "holdfast get nodes", "no node of %s runs stacks, so there is nothing to inject a fault on", run.Plan.Lost)
	}
	member := map[string]bool{}
	for _, m := range run.Members {
		member[m.Instance] = true
		l.runs(m)
	}
	for _, name := range run.Nodes {
		l.faultNode(w.Inventory.Nodes[name], member)
	}
	return l.found
}

// runs counts a second time: what the placements say must be what the nodes say. A drill over an instance that is down
// already measures nothing.
func (l *lint) runs(m Member) {
	facts, held := l.world.Inventory.Nodes[m.FromNode].Instances[m.Instance]
	switch {
	case !held:
		l.broken("counts-differ", "instance/"+m.Instance, "holdfast plan -f DIR", "it is placed on %s, and that node does not report it", m.FromNode)
	case facts.State != fleet.StateRunning:
		l.broken("not-running", "instance/"+m.Instance, "holdfast get instances", "it is %s on %s: a drill would measure an outage that is there already", facts.State, m.FromNode)
	}
}

func (l *lint) faultNode(n fleet.NodeFacts, member map[string]bool) {
	object := "node/" + n.Node
	if l.world.Now.Sub(n.SeenAt) > staleAfter {
		l.broken("node-silent", object, "look at the agent on it", "the fault is to be armed on it, and it has not reported for %s", l.world.Now.Sub(n.SeenAt).Truncate(time.Second))
	}
	if len(n.Faults) > 0 {
		l.broken("fault-left", object, "holdfast drill list", "a fault is armed or active on it already: %v", n.Faults)
	}
	for _, instance := range slices.Sorted(maps.Keys(n.Instances)) {
		state := n.Instances[instance].State
		serves := state == fleet.StateRunning || state == fleet.StateDegraded || state == fleet.StateStarting
		if serves && !member[instance] {
			l.broken("bystander", "instance/"+instance, "widen the scope, or move it off "+n.Node, "it runs on %s and is not in the scope: the fault would hit it and nobody would rebuild it", n.Node)
		}
	}
}
