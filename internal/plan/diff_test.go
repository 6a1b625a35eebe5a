package plan_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/fleet"
	"holdfast/internal/plan"
)

// say writes a plan as lines, to compare.
func say(p plan.Plan) []string {
	var lines []string
	for _, i := range p.Items {
		action := string(i.Action)
		if i.Home {
			action += " home"
		}
		lines = append(lines, fmt.Sprintf("%s %s %s->%s again=%v", action, i.Instance, i.From.Node, i.To.Node, i.Again))
		for _, c := range i.Changes {
			lines = append(lines, fmt.Sprintf("  %s: %q -> %q", c.Name, c.From, c.To))
		}
	}
	for _, b := range p.Blocked {
		lines = append(lines, "blocked "+b.Instance+": "+b.Why)
	}
	for _, u := range p.Unknown {
		lines = append(lines, "unknown "+u.Instance+": "+u.Why)
	}
	for _, a := range p.Away {
		lines = append(lines, fmt.Sprintf("%s stays on %s, home %s: %s", a.Instance, a.At.Node, a.Home.Site, a.Note))
	}
	return lines
}

func TestFirstPlanPlacesEverything(t *testing.T) {
	p := diff(t, read(t, example(t)), world(), "")
	want := []string{"create acme ->par1-1 again=false", "create globex ->ams1-1 again=false", "create staging ->par1-2 again=false"}
	if d := cmp.Diff(want, say(p)); d != "" {
		t.Errorf("plan (-want +got):\n%s", d)
	}
	if !diff(t, read(t, example(t)), effect(world(), p), "").Empty() {
		t.Error("the plan after its own effect is not empty")
	}
}

func TestSelectorLeavesOthersAlone(t *testing.T) {
	p := diff(t, read(t, example(t)), world(), "ring=staging")
	if d := cmp.Diff([]string{"create staging ->par1-1 again=false"}, say(p)); d != "" {
		t.Errorf("plan (-want +got):\n%s", d)
	}
}

// recovered is acme after the recovery of its site.
func recovered(w plan.World) { away(w, "acme", "par1-1", "ams1-2") }

// What one edit of a file, or one turn of the world, does to the plan of a fleet that runs.
func TestPlanAfterOneTurn(t *testing.T) {
	for name, c := range map[string]struct {
		edit [][3]string
		turn func(w plan.World)
		home bool
		want []string
	}{
		"nothing": {},
		"a value of the product": {
			edit: [][3]string{{"product.yaml", "/opt/notes/bin", "/srv/notes"}},
			want: []string{
				"change acme par1-1->par1-1 again=false",
				`  services.api.artifact: "/opt/notes/bin/notes-api" -> "/srv/notes/notes-api"`,
				`  services.worker.artifact: "/opt/notes/bin/notes-worker" -> "/srv/notes/notes-worker"`,
				`  values.programs: "/opt/notes/bin" -> "/srv/notes"`,
				"change globex ams1-1->ams1-1 again=false",
				`  services.api.artifact: "/opt/notes/bin/notes-api" -> "/srv/notes/notes-api"`,
				`  services.worker.artifact: "/opt/notes/bin/notes-worker" -> "/srv/notes/notes-worker"`,
				`  values.programs: "/opt/notes/bin" -> "/srv/notes"`,
				"change staging par1-2->par1-2 again=false",
				`  services.api.artifact: "/opt/notes/bin/notes-api" -> "/srv/notes/notes-api"`,
				`  services.worker.artifact: "/opt/notes/bin/notes-worker" -> "/srv/notes/notes-worker"`,
				`  values.programs: "/opt/notes/bin" -> "/srv/notes"`,
			},
		},
		"a release, a backup setting and a secret": {
			edit: [][3]string{{"instances/acme.yaml", "release: notes/v1.0.0", "release: notes/v1.1.0\nsecrets: {session_key: 2}"}, {"instances/acme.yaml", "every: 15m", "every: 10m"}},
			want: []string{
				"change acme par1-1->par1-1 again=false",
				`  backup.every: "15m" -> "10m"`,
				`  release: "notes/v1.0.0" -> "notes/v1.1.0"`,
				`  secrets.session_key.version: "[sealed]" -> "[sealed]"`,
				`  services.api.env.NOTES_VERSION: "notes/v1.0.0" -> "notes/v1.1.0"`,
				`  services.api.image: "registry.example/notes/notes-api:v1.0.0" -> "registry.example/notes/notes-api:v1.1.0"`,
				`  services.worker.image: "registry.example/notes/notes-worker:v1.0.0" -> "registry.example/notes/notes-worker:v1.1.0"`,
			},
		},
		"a release that may not be reached": {
			edit: [][3]string{{"instances/staging.yaml", "release: notes/v1.1.0", "release: notes/v1.1.1"}, {"releases.yaml", "name: notes/v1.1.0", "name: notes/v1.1.1"}, {"releases.yaml", "<v2.0.0", "<v1.1.0"}},
			want: []string{"blocked staging: notes/v1.1.1 may not be reached from notes/v1.1.0 directly"},
		},
		"another node": {
			edit: [][3]string{{"instances/acme.yaml", "{site: par1}", "{site: par1, node: par1-2}"}},
			want: []string{"move acme par1-1->par1-2 again=false"},
		},
		"a file removed": {
			edit: [][3]string{{"instances/globex.yaml", "", ""}},
			want: []string{"retire globex ams1-1-> again=false"},
		},
		"a node that is silent": {
			edit: [][3]string{{"instances/globex.yaml", "", ""}, {"instances/acme.yaml", "every: 15m", "every: 10m"}},
			turn: func(w plan.World) {
				silence(w, "par1-1", 7*time.Minute+20*time.Second)
				silence(w, "ams1-1", time.Hour)
			},
			want: []string{
				"unknown acme: par1-1, where it is placed, has not been seen for 7m",
				"unknown globex: it is declared no more, and ams1-1, where it is placed, has not been seen for 1h",
			},
		},
		"a node that lost its data": {
			turn: func(w plan.World) { delete(w.Inventory.Nodes["par1-1"].Instances, "acme") },
			want: []string{"blocked acme: node par1-1 does not hold its data in slot s1 any more"},
		},
		"a start that was not finished": {
			turn: func(w plan.World) {
				delete(w.Inventory.Nodes["par1-1"].Instances, "acme")
				p := w.Inventory.Placements["acme"]
				p.Booted = false
				w.Inventory.Placements["acme"] = p
			},
			want: []string{"create acme ->par1-1 again=false"},
		},
		"an instance that only a vault knows": {
			turn: func(w plan.World) {
				delete(w.Inventory.Placements, "acme")
				delete(w.Inventory.Nodes["par1-1"].Instances, "acme")
				w.Held["acme"] = plan.Held{Vault: "ams1-vault", Snapshot: "7f3c0123456789abcdef"}
				w.Held["globex"] = plan.Held{Vault: "par1-vault", Snapshot: "aa"} // placed: an ordinary backup
			},
			want: []string{"blocked acme: it is known in vault ams1-vault, last snapshot 7f3c01234567, and this server has never placed it: an empty one is not put over a lost one"},
		},
		"a server that lost its database": {
			turn: func(w plan.World) { delete(w.Inventory.Placements, "acme") },
			want: []string{"blocked acme: node par1-1 holds it and this server has never placed it: a second copy is not started"},
		},
		"drift": {
			turn: func(w plan.World) {
				hold(w, "par1-1", "acme", func(i *fleet.InstanceFacts) { i.Spec = "0123456789abcdef" })
			},
			want: []string{"change acme par1-1->par1-1 again=false", `  spec: "0123456789ab" -> "SPEC"`},
		},
		"stopped by hand": {
			turn: func(w plan.World) {
				hold(w, "par1-1", "acme", func(i *fleet.InstanceFacts) { i.State = fleet.StateStopped })
			},
			want: []string{"change acme par1-1->par1-1 again=true"},
		},
		"degraded, which heals by itself": {
			turn: func(w plan.World) {
				hold(w, "par1-1", "acme", func(i *fleet.InstanceFacts) { i.State = fleet.StateDegraded })
			},
		},
		"retired and declared again": {
			turn: func(w plan.World) {
				p := w.Inventory.Placements["acme"]
				p.Retired = true
				w.Inventory.Placements["acme"] = p
			},
			want: []string{"change acme par1-1->par1-1 again=true"},
		},
		"a vault that turned out to be near": {
			turn: func(w plan.World) {
				v := w.Inventory.Nodes["ams1-vault"]
				v.Site = "par1"
				w.Inventory.Nodes["ams1-vault"] = v
			},
			want: []string{
				"blocked acme: its vault ams1-vault stands in its own site par1 and would be lost with it",
				"blocked staging: its vault ams1-vault stands in its own site par1 and would be lost with it",
			},
		},
		"rebuilt elsewhere after a loss": {
			turn: func(w plan.World) {
				spec := w.Applied["acme"]
				run(w, plan.Item{Instance: "acme", To: plan.Where{Site: "ams1", Node: "ams1-2"}, Spec: spec}, "s2", 2)
				hold(w, "par1-1", "acme", func(i *fleet.InstanceFacts) { i.State = fleet.StateFenced })
			},
			want: []string{"move acme ams1-2->par1-1 again=false"},
		},
		"recovered elsewhere: it stays": {
			turn: recovered,
			want: []string{"acme stays on ams1-2, home par1: its vault ams1-vault stands in ams1 too: the loss of that site would now take both"},
		},
		"recovered elsewhere, and changed there": {
			turn: func(w plan.World) {
				recovered(w)
				hold(w, "ams1-2", "acme", func(i *fleet.InstanceFacts) { i.State = fleet.StateStopped })
			},
			want: []string{"change acme ams1-2->ams1-2 again=true", "acme stays on ams1-2, home par1: its vault ams1-vault stands in ams1 too: the loss of that site would now take both"},
		},
		"recovered elsewhere, and declared there": {
			edit: [][3]string{{"instances/acme.yaml", "{site: par1}", "{site: ams1}"}},
			turn: recovered,
			want: []string{"change acme ams1-2->ams1-2 again=false", `  backup.vault: "ams1-vault" -> "par1-vault"`, `  hosts.0: "acme.par1.notes.example" -> "acme.ams1.notes.example"`},
		},
		"recovered elsewhere, and sent home": {
			turn: recovered, home: true,
			want: []string{"move home acme ams1-2->par1-1 again=false"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			files := example(t)
			before := read(t, files)
			w := effect(world(), diff(t, before, world(), ""))
			for _, e := range c.edit {
				files[e[0]] = bytes.Replace(files[e[0]], []byte(e[1]), []byte(e[2]), 1)
				if e[1] == "" {
					delete(files, e[0])
				}
			}
			if c.turn != nil {
				c.turn(w)
			}
			f := read(t, files)
			w.Home = c.home
			p := diff(t, f, w, "")
			want := slices.Clone(c.want)
			for i := range want {
				if want[i] == `  spec: "0123456789ab" -> "SPEC"` {
					want[i] = fmt.Sprintf(`  spec: "0123456789ab" -> "%.12s"`, w.Inventory.Placements["acme"].Spec)
				}
			}
			if d := cmp.Diff(want, say(p)); d != "" {
				t.Errorf("plan (-want +got):\n%s", d)
			}
		})
	}
}

func silence(w plan.World, node string, age time.Duration) {
	n := w.Inventory.Nodes[node]
	n.SeenAt = noon.Add(-age)
	w.Inventory.Nodes[node] = n
}

func hold(w plan.World, node, instance string, turn func(*fleet.InstanceFacts)) {
	held := w.Inventory.Nodes[node].Instances[instance]
	turn(&held)
	w.Inventory.Nodes[node].Instances[instance] = held
}

func TestPlacementSaysWhyThereIsNoRoom(t *testing.T) {
	w := world()
	silence(w, "par1-1", 10*time.Minute)
	n := w.Inventory.Nodes["par1-2"]
	n.Capacity.MemoryMB, n.Capacity.MemoryUsedMB = 1000, 900
	w.Inventory.Nodes["par1-2"] = n
	docker := w.Inventory.Nodes["ams1-1"]
	docker.Engines = nil
	w.Inventory.Nodes["ams1-1"] = docker
	full := w.Inventory.Nodes["ams1-2"]
	full.Capacity.MaxInstances = 1
	w.Inventory.Nodes["ams1-2"] = full
	w.Inventory.Placements["other"] = fleet.Placement{Instance: "other", Node: "ams1-2", Site: "ams1"}
	p := diff(t, read(t, example(t)), w, "name=acme|globex")
	want := []string{
		"blocked acme: site par1 has no room: par1-1 has not been seen for 10m, par1-2 has 100 of 1000 MB left and it needs 192, par1-edge has not the role run, par1-vault has not the role run",
		"blocked globex: site ams1 has no room: ams1-1 has no engine for it (), ams1-2 is full with 1 instances, ams1-edge has not the role run, ams1-vault has not the role run",
	}
	if d := cmp.Diff(want, say(p)); d != "" {
		t.Errorf("plan (-want +got):\n%s", d)
	}
}

func TestFingerprintsIgnoreAges(t *testing.T) {
	f := read(t, example(t))
	w := effect(world(), diff(t, f, world(), ""))
	before := diff(t, f, w, "")
	later := clone(w)
	for name := range later.Inventory.Nodes {
		n := later.Inventory.Nodes[name]
		n.SeenAt, n.TakenAt, n.Journal = n.SeenAt.Add(time.Hour), noon, n.Journal+5
		later.Inventory.Nodes[name] = n
	}
	if after := diff(t, f, later, ""); after.ID != before.ID {
		t.Error("an hour later, with the same facts, the plan has another id")
	}
	silence(later, "par1-1", -time.Hour*3)
	if after := diff(t, f, later, ""); after.Inventory == before.Inventory {
		t.Error("nodes went silent and the inventory has the same fingerprint")
	}
}
