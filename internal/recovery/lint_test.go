package recovery

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/fleet"
	"holdfast/internal/step"
)

// sel is a selector that is known to be right.
func sel(text string) fleet.Selector {
	s, err := fleet.ParseSelector(text)
	if err != nil {
		panic(err)
	}
	return s
}

// twoSites is a fleet of three instances in paris, each backed up into lyon, with room for all there.
func twoSites() (fleet.RecoveryPlan, World) {
	node := func(name, site string, roles ...fleet.Role) fleet.NodeFacts {
		return fleet.NodeFacts{Node: name, Site: site, Roles: roles, Engines: []string{"exec"}, SeenAt: t0,
			Capacity: fleet.Capacity{MemoryMB: 4096, DiskMB: 10_000, DiskFreeMB: 8_000}}
	}
	w := World{
		Now: t0,
		Fleet: &fleet.Fleet{
			Sites:     map[string]fleet.Site{"paris": {Name: "paris"}, "lyon": {Name: "lyon"}},
			Instances: map[string]fleet.Instance{},
		},
		Inventory: fleet.Inventory{Placements: map[string]fleet.Placement{}, Nodes: map[string]fleet.NodeFacts{
			"paris1": node("paris1", "paris", fleet.RoleRun, fleet.RoleProbe, fleet.RoleEdge),
			"lyon1":  node("lyon1", "lyon", fleet.RoleSpare), "lyon2": node("lyon2", "lyon", fleet.RoleSpare),
			"lyonv": node("lyonv", "lyon", fleet.RoleVault), "nice": node("nice", "nice", fleet.RoleProbe), "brest": node("brest", "brest", fleet.RoleProbe, fleet.RoleEdge),
		}},
		Specs: map[string]fleet.Spec{}, Catalogue: map[string]Snapshot{},
	}
	w.Inventory.Nodes["paris1"] = holding(w.Inventory.Nodes["paris1"], "acme", "globex", "initech")
	for i, name := range []string{"acme", "globex", "initech"} {
		tier := []string{"gold", "silver", "silver"}[i]
		w.Fleet.Instances[name] = fleet.Instance{Name: name, Product: "notes", Labels: map[string]string{"tier": tier}}
		w.Inventory.Placements[name] = fleet.Placement{Instance: name, Node: "paris1", Site: "paris", Epoch: 3}
		w.Specs[name] = fleet.Spec{Instance: name, Fingerprint: "f" + name, Release: "notes/v1", Backup: fleet.BackupPolicy{Every: time.Hour},
			Services: []fleet.Service{{Name: "api", Artifact: "/bin/notes", MemoryMB: 256}}, Invariants: []fleet.Invariant{{Name: "count"}}}
		w.Catalogue[name] = Snapshot{ID: "snap" + name + "0123456789", Instance: name, TakenAt: t0.Add(-time.Minute), Bytes: int64(i+1) << 28, Vault: "lyonv", Custodian: true}
	}
	plan := fleet.RecoveryPlan{Name: "lose-paris", Scenario: fleet.SiteLost, Lost: "paris",
		Scope: fleet.RecoveryScope{Select: sel("product=notes"), Expect: 3},
		Tiers: []fleet.RecoveryTier{{Name: "gold", Select: sel("tier=gold"), RTO: time.Hour, RPO: 2 * time.Hour}, {Name: "silver", RTO: time.Hour, RPO: 2 * time.Hour}},
		Tell:  []fleet.RecoveryTell{{Event: TellDeclared, Audience: "customers", To: []string{"status"}, Text: "We rebuild."}, {Event: TellTierRestored, Audience: "team", To: []string{"ops"}, Text: "A tier is back."}, {Event: TellRestored, Audience: "customers", To: []string{"status"}, Text: "All is back."}, {Event: TellFailed, Audience: "team", To: []string{"ops"}, Text: "Look."}},
		Fault: fleet.RecoveryFault{Kind: "kill", For: 10 * time.Minute}}
	return plan, w
}

// holding is the node with instances that run on it.
func holding(n fleet.NodeFacts, instances ...string) fleet.NodeFacts {
	n.Instances = map[string]fleet.InstanceFacts{}
	for _, name := range instances {
		n.Instances[name] = fleet.InstanceFacts{Instance: name, State: fleet.StateRunning}
	}
	return n
}

// older is what ran when the instance was on notes/v0.
func older(w World, instance string) map[string]fleet.Spec {
	spec := w.Specs[instance]
	spec.Release, spec.Fingerprint = "notes/v0", "f"+instance+"0"
	return map[string]fleet.Spec{instance: spec}
}

func TestLintOfAGoodPlanFindsNothing(t *testing.T) {
	plan, w := twoSites()
	if d := Lint(plan, w); len(d.Findings) > 0 || len(d.Assignments) != 3 {
		t.Errorf("findings %+v, assignments %+v", d.Findings, d.Assignments)
	}
}

// A product that can run on either engine is rebuilt on nodes that have only one of them.
func TestEitherEngineWillDo(t *testing.T) {
	for _, has := range []string{"exec", "docker"} {
		plan, w := twoSites()
		for name, s := range w.Specs {
			s.Services[0].Image = "registry.example/notes:v1.0.0"
			w.Specs[name] = s
		}
		for name, n := range w.Inventory.Nodes {
			n.Engines = []string{has}
			w.Inventory.Nodes[name] = n
		}
		if d := Lint(plan, w); len(d.Findings) > 0 || len(d.Assignments) != 3 {
			t.Errorf("with %s: findings %+v, assignments %+v", has, d.Findings, d.Assignments)
		}
	}
}

func TestLintFinds(t *testing.T) {
	node := func(w *World, name string, change func(*fleet.NodeFacts)) {
		n := w.Inventory.Nodes[name]
		change(&n)
		w.Inventory.Nodes[name] = n
	}
	spec := func(w *World, name string, change func(*fleet.Spec)) {
		s := w.Specs[name]
		change(&s)
		w.Specs[name] = s
	}
	snapshot := func(w *World, name string, change func(*Snapshot)) {
		s := w.Catalogue[name]
		change(&s)
		w.Catalogue[name] = s
	}
	for want, change := range map[string]func(*fleet.RecoveryPlan, *World){
		"lost-unknown recoveryplan/lose-paris: there is no site rome":                                   func(p *fleet.RecoveryPlan, _ *World) { p.Lost = "rome" },
		`scenario-unknown recoveryplan/lose-paris: scenario "fire" is not known`:                        func(p *fleet.RecoveryPlan, _ *World) { p.Scenario = "fire" },
		"scope-empty recoveryplan/lose-paris: the scope matches no instance that lives in paris":        func(p *fleet.RecoveryPlan, _ *World) { p.Scope.Select = sel("product=notes,tier=lead") },
		"scope-count recoveryplan/lose-paris: the scope matches 1 instances, the plan expects 3":        func(p *fleet.RecoveryPlan, _ *World) { p.Scope.Select = sel("product=notes,tier=gold") },
		"never-unknown recoveryplan/lose-paris: scope.never names hooli, and there is no such instance": func(p *fleet.RecoveryPlan, _ *World) { p.Scope.Never = []string{"hooli"} },
		"tier-missing instance/globex: no tier of the plan takes it":                                    func(p *fleet.RecoveryPlan, _ *World) { p.Tiers = p.Tiers[:1] },
		"tier-empty recoveryplan/lose-paris: tier bronze takes no instance": func(p *fleet.RecoveryPlan, _ *World) {
			p.Tiers = append(p.Tiers, fleet.RecoveryTier{Name: "bronze", RTO: 1, RPO: 1})
		},
		"tier-promises-nothing recoveryplan/lose-paris: tier gold promises no RTO or no RPO, so a slow recovery passes": func(p *fleet.RecoveryPlan, _ *World) { p.Tiers[0].RTO = 0 },
		"target-lost recoveryplan/lose-paris: target site paris is the one that is lost":                                func(p *fleet.RecoveryPlan, _ *World) { p.Target.Sites = []string{"paris", "lyon"} },
		"target-lost node/paris1: it is a target of the plan and is lost itself":                                        func(p *fleet.RecoveryPlan, _ *World) { p.Target.Nodes = []string{"paris1", "lyon1"} },
		"target-unknown node/lyon9: the plan names it as a target, and no such node has ever reported":                  func(p *fleet.RecoveryPlan, _ *World) { p.Target.Nodes = []string{"lyon9", "lyon1"} },
		"target-silent node/lyon1: it is a target of the plan and has not reported for 1h0m0s": func(_ *fleet.RecoveryPlan, w *World) {
			node(w, "lyon1", func(n *fleet.NodeFacts) { n.SeenAt = t0.Add(-time.Hour) })
		},
		"no-target recoveryplan/lose-paris: no node outside paris can take an instance now": func(p *fleet.RecoveryPlan, _ *World) { p.Target.Roles = []fleet.Role{"none"} },
		"does-not-fit instance/initech: it has no place: it needs 256 MB of memory and 1537 MB of disk; what comes before it fills the 2 target nodes (the freest, lyon1, starts with 300 MB and 8000 MB)": func(_ *fleet.RecoveryPlan, w *World) {
			for _, name := range []string{"lyon1", "lyon2"} {
				node(w, name, func(n *fleet.NodeFacts) { n.Capacity.MemoryUsedMB = 4096 - 300 })
			}
			w.Past = map[string]time.Duration{"initech": time.Millisecond}
		},
		"rto-short instance/initech: its restore on lyon2 is estimated to end after 2h0m0s, tier silver promises 1h": func(_ *fleet.RecoveryPlan, w *World) {
			w.Past = map[string]time.Duration{"initech": 2 * time.Hour, "acme": time.Hour - 1, "globex": time.Second}
		},
		"rpo-short instance/acme: it is backed up every 24h, tier gold promises to lose 2h at most": func(_ *fleet.RecoveryPlan, w *World) {
			spec(w, "acme", func(s *fleet.Spec) { s.Backup.Every = 24 * time.Hour })
		},
		"backup-missing instance/acme: it has no backup at all": func(_ *fleet.RecoveryPlan, w *World) { delete(w.Catalogue, "acme") },
		"backup-old instance/acme: its newest backup is 3h0m0s old, tier gold promises to lose 2h at most": func(_ *fleet.RecoveryPlan, w *World) {
			snapshot(w, "acme", func(s *Snapshot) { s.TakenAt = t0.Add(-3 * time.Hour) })
		},
		"release-older instance/acme: its newest backup is of notes/v0 and notes/v1 runs: the recovery starts notes/v0 on it, and a plan afterwards goes on to notes/v1": func(_ *fleet.RecoveryPlan, w *World) {
			snapshot(w, "acme", func(s *Snapshot) { s.Release = "notes/v0" })
			w.Then = older(*w, "acme")
		},
		"release-unknown instance/acme: its newest backup is of notes/v0, notes/v1 runs, and what ran then is not known here: nothing would be started on it": func(_ *fleet.RecoveryPlan, w *World) {
			snapshot(w, "acme", func(s *Snapshot) { s.Release = "notes/v0" })
		},
		`vault-unknown instance/acme: its backups are on "attic", and no such node has ever reported`: func(_ *fleet.RecoveryPlan, w *World) { snapshot(w, "acme", func(s *Snapshot) { s.Vault = "attic" }) },
		"vault-lost instance/acme: its backups are on paris1, which is lost with paris":               func(_ *fleet.RecoveryPlan, w *World) { snapshot(w, "acme", func(s *Snapshot) { s.Vault = "paris1" }) },
		"vault-silent instance/acme: its backups are on lyonv, which has not reported for 5m0s": func(_ *fleet.RecoveryPlan, w *World) {
			node(w, "lyonv", func(n *fleet.NodeFacts) { n.SeenAt = t0.Add(-5 * time.Minute) })
		},
		"key-missing instance/acme: the custodian cannot open its backup and the plan names nobody who can": func(_ *fleet.RecoveryPlan, w *World) { snapshot(w, "acme", func(s *Snapshot) { s.Custodian = false }) },
		"key-with-people instance/acme: its restore waits until one of 2 keepers gives the recovery key": func(p *fleet.RecoveryPlan, w *World) {
			snapshot(w, "acme", func(s *Snapshot) { s.Custodian = false })
			p.Custody.Keepers = []string{"ann", "bob"}
		},
		"no-invariant instance/acme: nothing asks whether its restored data is right":                                        func(_ *fleet.RecoveryPlan, w *World) { spec(w, "acme", func(s *fleet.Spec) { s.Invariants = nil }) },
		`check-unknown recoveryplan/lose-paris: there is no check "vibes"`:                                                   func(p *fleet.RecoveryPlan, _ *World) { p.Checks = []string{"vibes"} },
		"one-probe recoveryplan/lose-paris: only one probe outside paris looks: its own trouble would look like a lost site": func(_ *fleet.RecoveryPlan, w *World) { delete(w.Inventory.Nodes, "nice") },
		"no-probe recoveryplan/lose-paris: no probe outside paris would see it lost": func(_ *fleet.RecoveryPlan, w *World) {
			delete(w.Inventory.Nodes, "nice")
			delete(w.Inventory.Nodes, "brest")
		},
		"no-witness recoveryplan/lose-paris: no probe outside both paris and lyon would see instances come back in lyon": func(_ *fleet.RecoveryPlan, w *World) {
			for _, name := range []string{"nice", "brest"} {
				node(w, name, func(n *fleet.NodeFacts) { n.Site = "lyon" })
			}
		},
		"no-edge recoveryplan/lose-paris: no edge outside paris could send requests to the new place":                         func(_ *fleet.RecoveryPlan, w *World) { delete(w.Inventory.Nodes, "brest") },
		`tell-unknown recoveryplan/lose-paris: there is no event "panic" to tell anybody of`:                                  func(p *fleet.RecoveryPlan, _ *World) { p.Tell[2].Event = "panic" },
		"tell-nobody recoveryplan/lose-paris: the communication to customers at restored has nobody to go to or says nothing": func(p *fleet.RecoveryPlan, _ *World) { p.Tell[2].To = nil },
		"tell-missing recoveryplan/lose-paris: nobody is told when the recovery begins":                                       func(p *fleet.RecoveryPlan, _ *World) { p.Tell = p.Tell[1:] },
		"fault-wrong recoveryplan/lose-paris: fault kill lasts 1s; a fault ends by itself after 10s to 4h":                    func(p *fleet.RecoveryPlan, _ *World) { p.Fault.For = time.Second },
		"not-declared instance/hooli: it lives in paris and no file declares it: the plan leaves it behind": func(_ *fleet.RecoveryPlan, w *World) {
			w.Inventory.Placements["hooli"] = fleet.Placement{Instance: "hooli", Node: "paris1", Site: "paris"}
		},
	} {
		t.Run(strings.Fields(want)[0], func(t *testing.T) {
			plan, w := twoSites()
			change(&plan, &w)
			var got []string
			for _, f := range Lint(plan, w).Findings {
				got = append(got, fmt.Sprintf("%s %s: %s", f.Code, f.Object, f.Message))
			}
			if !slices.Contains(got, want) {
				t.Errorf("want %q, found\n%s", want, strings.Join(got, "\n"))
			}
		})
	}
}

func TestMembersLeaveOutWhatIsNotMeant(t *testing.T) {
	plan, w := twoSites()
	plan.Scope.Never = []string{"initech"}
	acme := w.Inventory.Placements["acme"]
	acme.Retired = true
	w.Inventory.Placements["acme"] = acme
	w.Inventory.Placements["elsewhere"] = fleet.Placement{Instance: "elsewhere", Node: "lyon1", Site: "lyon"}
	w.Fleet.Instances["elsewhere"] = fleet.Instance{Name: "elsewhere", Product: "notes"}
	members, loose := Members(plan, w)
	want := []Member{{Instance: "globex", Tier: "silver", Rank: 1, RTO: time.Hour, RPO: 2 * time.Hour, FromNode: "paris1", FromSite: "paris", Epoch: 3}}
	if d := cmp.Diff(want, members); d != "" || len(loose) > 0 {
		t.Error(d, loose)
	}
}

func TestGraphOfARecovery(t *testing.T) {
	plan, w := twoSites()
	d := Lint(plan, w)
	g, err := Graph(plan, d.Members, d.Assignments, w, func(string) string { return "s2" })
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range g {
		got = append(got, fmt.Sprintf("%s @%s after %v: %s", p.ID, p.Node, p.Needs, p.Step.Note))
	}
	golden(t, "graph.txt", []byte(strings.Join(got, "\n")+"\n"))
	var boot step.BootArgs
	i := slices.IndexFunc(g, func(p step.Planned) bool { return p.ID == "acme/boot" })
	if err := json.Unmarshal(g[i].Step.Args, &boot); err != nil || !boot.Restored || boot.Slot != "s2" || boot.Spec.Instance != "acme" {
		t.Errorf("boot: %+v, %v", boot, err)
	}
}

// Data of an older release comes back with that release, claimed, started and shown as such; the others as they run, and
// only on data of their own release.
func TestRecoveryStartsTheReleaseOfTheSnapshot(t *testing.T) {
	plan, w := twoSites()
	w.Then = older(w, "acme")
	d := Lint(plan, w)
	g, err := Graph(plan, d.Members, d.Assignments, w, func(string) string { return "s2" })
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, p := range g {
		var args struct {
			Spec            json.RawMessage
			Release, Expect string
		}
		var spec fleet.Spec
		if p.Step.Instance == "" || json.Unmarshal(p.Step.Args, &args) != nil {
			continue
		}
		if err := json.Unmarshal(args.Spec, &spec); err != nil { // of a claim: a fingerprint
			_ = json.Unmarshal(args.Spec, &spec.Fingerprint) // shown below
		}
		got[p.ID] = fmt.Sprintf("%s%s %s %s", spec.Release, args.Release, spec.Fingerprint, args.Expect)
	}
	for id, want := range map[string]string{
		"acme/claim": "notes/v0 facme0 ", "acme/fetch": "notes/v0 facme0 notes/v0", "acme/boot": "notes/v0 facme0 ",
		"globex/claim": "notes/v1 fglobex ", "globex/fetch": "notes/v1 fglobex notes/v1", "globex/boot": "notes/v1 fglobex ",
	} {
		if got[id] != want {
			t.Errorf("%s is %q, want %q", id, got[id], want)
		}
	}
	boot := slices.IndexFunc(g, func(p step.Planned) bool { return p.ID == "acme/boot" })
	if note := g[boot].Step.Note; note != "start acme as notes/v0, the release of its snapshot" {
		t.Errorf("the plan says %q", note)
	}
}

// Whatever is lost, the graph is sound, has every placed instance whole and in the order of work, fences before it
// fetches, and no instance waits for another.
func TestGraphProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan, w := twoSites()
		for i := range rapid.IntRange(0, 20).Draw(t, "more") {
			name := fmt.Sprintf("more%02d", i)
			w.Fleet.Instances[name] = fleet.Instance{Name: name, Product: "notes", Labels: map[string]string{"tier": rapid.SampledFrom([]string{"gold", "silver"}).Draw(t, "tier")}}
			w.Inventory.Placements[name] = fleet.Placement{Instance: name, Node: "paris1", Site: "paris"}
			w.Specs[name], w.Catalogue[name] = w.Specs["acme"], w.Catalogue["acme"]
		}
		d := Lint(plan, w)
		g, err := Graph(plan, d.Members, d.Assignments, w, func(string) string { return "s2" })
		if err != nil {
			t.Fatal(err)
		}
		var claims []string
		for _, p := range g {
			if p.Step.Kind == step.Claim {
				claims = append(claims, p.Step.Instance)
			}
			for _, need := range p.Needs {
				if p.Step.Instance != "" && !strings.HasPrefix(need, p.Step.Instance+"/") {
					t.Fatalf("%s waits for %s", p.ID, need)
				}
			}
		}
		var order []string
		for _, a := range d.Assignments {
			order = append(order, a.Instance)
		}
		if diff := cmp.Diff(order, claims); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestFaultGraphIsOneStepANode(t *testing.T) {
	g, err := FaultGraph(step.Arm, "d1", fleet.RecoveryFault{Kind: "cut", For: time.Minute}, []string{"paris1", "paris2"})
	if err != nil {
		t.Fatal(err)
	}
	if len(g) != 2 || g[0].ID != "paris1/arm" || g[0].Step.Note != "arm cut on paris1, ends by itself after 1m" || len(g[0].Needs) > 0 {
		t.Errorf("%+v", g)
	}
}
