package apply_test

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	"holdfast/internal/access"
	"holdfast/internal/access/accesstest"
	"holdfast/internal/apply"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/fleet"
	"holdfast/internal/op"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/secret"
)

// bench is a planner over a real database and an inventory that the test writes.
type bench struct {
	*apply.Planner
	inventory fleet.Inventory
	files     fleet.Files
	ctx       context.Context // as an operator
}

func open(t *testing.T, d *db.DB) *bench {
	t.Helper()
	files, err := fleet.Collect("../../examples/notes/fleet")
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.New(accesstest.Keys(t, d))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{files: files, inventory: inventory(), ctx: access.With(t.Context(), access.Actor{Name: "token/ci", Role: access.Operator})}
	b.Planner = &apply.Planner{DB: d, Secrets: secret.NewStore(accesstest.Box(t, d)), Audit: log,
		Inventory: func(context.Context) (fleet.Inventory, error) { return b.inventory, nil }}
	return b
}

func inventory() fleet.Inventory {
	w := fleet.Inventory{Nodes: map[string]fleet.NodeFacts{}, Placements: map[string]fleet.Placement{}}
	for _, site := range []string{"par1", "ams1"} {
		for name, role := range map[string]fleet.Role{"1": fleet.RoleRun, "2": fleet.RoleRun, "vault": fleet.RoleVault, "edge": fleet.RoleEdge} {
			w.Nodes[site+"-"+name] = fleet.NodeFacts{
				Node: site + "-" + name, Site: site, Roles: []fleet.Role{role}, Engines: []string{"exec"}, SeenAt: time.Now(),
				Capacity: fleet.Capacity{MemoryMB: 4096}, Instances: map[string]fleet.InstanceFacts{},
			}
		}
	}
	return w
}

func (b *bench) make(t *testing.T, selector string) plan.Plan {
	t.Helper()
	p, err := b.Make(b.ctx, plan.Request{Files: b.files, Selector: selector})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestApply(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		b := open(t, d)
		made := b.make(t, "")
		if len(made.Items) != 3 {
			t.Fatalf("plan of the example: %+v", made.Items)
		}
		kept, err := b.Plan(b.ctx, made.ID)
		if err != nil || kept.ID != made.ID || len(kept.Items) != 3 {
			t.Fatalf("kept plan %+v, %v", kept, err)
		}
		if declared := declared(t, d); len(declared.Instances) != 0 {
			t.Fatalf("declared before any apply: %d instances", len(declared.Instances))
		}
		done, err := b.Apply(b.ctx, made.ID)
		if err != nil {
			t.Fatal(err)
		}
		o, err := op.Get(t.Context(), d, done.Operation)
		if err != nil || o.Kind != "deploy" || o.Actor != "token/ci" || o.Plan != made.ID || o.Title != "create 3" {
			t.Fatalf("operation %+v, %v", o, err)
		}
		if now := declared(t, d); now.Revision != made.Fleet || len(now.Instances) != 3 {
			t.Fatalf("declared: revision %s with %d instances", now.Revision, len(now.Instances))
		}
		for _, item := range made.Items {
			secrets(t, b, item)
		}
		records, err := audit.List(t.Context(), d, audit.Filter{Object: "plan/" + made.ID})
		if err != nil || len(records) != 1 || records[0].Actor != "token/ci" {
			t.Fatalf("recorded %+v, %v", records, err)
		}
	})
}

// secrets checks that every secret of an item was made before its operation could need it.
func secrets(t *testing.T, b *bench, item plan.Item) {
	t.Helper()
	var refs []secret.Ref
	for _, ref := range item.Spec.Secrets {
		refs = append(refs, secret.Ref(ref))
	}
	values, err := b.Secrets.ForInstance(t.Context(), b.DB, item.Instance, refs)
	if err != nil || len(refs) == 0 || len(values) != len(refs) {
		t.Fatalf("secrets of %s: %d of %d, %v", item.Instance, len(values), len(refs), err)
	}
}

func TestStalePlansAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		turn func(t *testing.T, b *bench)
		want string
	}{
		{"the inventory changed", func(_ *testing.T, b *bench) { delete(b.inventory.Nodes, "par1-1") }, "the inventory has changed since it was made"},
		{"another fleet was applied", func(t *testing.T, b *bench) {
			other := *b
			other.files = maps.Clone(b.files)
			other.files["more.yaml"] = []byte("kind: Site\nname: lon1\n")
			if _, err := b.Apply(b.ctx, other.make(t, "ring=none").ID); err != nil {
				t.Fatal(err)
			}
		}, "another fleet was applied since it was made"},
		{"it was applied already", func(t *testing.T, b *bench) {
			if _, err := b.Apply(b.ctx, b.make(t, "").ID); err != nil {
				t.Fatal(err)
			}
		}, "another fleet was applied since it was made"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := open(t, dbtest.Open(t))
			made := b.make(t, "")
			c.turn(t, b)
			before := operations(t, b.DB)
			_, err := b.Apply(b.ctx, made.ID)
			if problem.KindOf(err) != problem.Stale || err.Error() != "plan "+made.ID+" was not applied: "+c.want {
				t.Fatalf("got %v", err)
			}
			if now := operations(t, b.DB); now != before {
				t.Fatalf("a stale plan began an operation: %d, were %d", now, before)
			}
		})
	}
}

// A fact that only grew older makes no plan stale.
func TestOlderFactsAreNotStale(t *testing.T) {
	b := open(t, dbtest.Open(t))
	made := b.make(t, "")
	for name, facts := range b.inventory.Nodes {
		facts.SeenAt, facts.TakenAt, facts.Journal = facts.SeenAt.Add(time.Second), facts.SeenAt, 99
		b.inventory.Nodes[name] = facts
	}
	if _, err := b.Apply(b.ctx, made.ID); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsWrongIsToldWhole(t *testing.T) {
	b := open(t, dbtest.Open(t))
	b.files["instances/acme.yaml"] = []byte(strings.Replace(string(b.files["instances/acme.yaml"]), "release:", "releese:", 1))
	_, err := b.Make(b.ctx, plan.Request{Files: b.files})
	if problem.KindOf(err) != problem.Invalid || !strings.Contains(err.Error(), "instances/acme.yaml:") {
		t.Fatalf("got %v", err)
	}
	if _, err := b.Apply(b.ctx, "none"); problem.KindOf(err) != problem.NotFound || err.Error() != "there is no plan none" {
		t.Fatalf("got %v", err)
	}
	if _, err := b.Make(b.ctx, plan.Request{Files: fleet.Files{}, Selector: "=="}); problem.KindOf(err) != problem.Usage {
		t.Fatalf("got %v", err)
	}
}

func declared(t *testing.T, d *db.DB) *fleet.Fleet {
	t.Helper()
	f, err := (&apply.Declared{}).Fleet(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func operations(t *testing.T, d *db.DB) int {
	t.Helper()
	all, err := op.List(t.Context(), d, false, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
