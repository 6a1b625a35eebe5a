package plan_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/fleet"
	"holdfast/internal/plan"
)

const base = `
kind: Site
name: par1
domain: par1.example
backup: {vault: ams1-vault}
---
kind: Site
name: ams1
domain: ams1.example
backup: {vault: par1-vault}
---
kind: Ring
name: first
---
kind: Ring
name: second
after: first
---
kind: Product
name: shop
services:
  web:
    image: registry.example/shop/web:v1.0.0
    ports: [8080]
    environment: {COLOUR: "${value:colour}"}
    volumes: ["files:/files"]
    mem_limit: 64m
    x-holdfast: {edge: "8080", artifact: /opt/shop/web}
x-holdfast:
  values: {colour: none}
  secrets: {key: {}}
  state: {files: {kind: folder}}
---
kind: Release
name: shop/v1.0.0
---
kind: Release
name: shop/v1.1.0
services: {web: {image: "registry.example/shop/web:v1.1.0"}}
`

// declared draws a fleet of a few instances, each in its own file or several in one.
func declared(t *rapid.T, label string) fleet.Files {
	files := fleet.Files{"base.yaml": []byte(base)}
	names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h"}), 0, 8, rapid.ID[string]).Draw(t, label+" names")
	for _, name := range names {
		site := rapid.SampledFrom([]string{"par1", "ams1"}).Draw(t, label+" site of "+name)
		node := rapid.SampledFrom([]string{"", "", "", site + "-1", site + "-2"}).Draw(t, label+" node of "+name)
		ring := rapid.SampledFrom([]string{"first", "second"}).Draw(t, label+" ring of "+name)
		release := rapid.SampledFrom([]string{"shop/v1.0.0", "shop/v1.1.0"}).Draw(t, label+" release of "+name)
		colour := rapid.StringMatching(`[a-z]{1,5}`).Draw(t, label+" colour of "+name)
		text := fmt.Sprintf("kind: Instance\nname: %s\nproduct: shop\nrelease: %s\nring: %s\nplacement: {site: %s, node: %q}\nvalues: {colour: %s}\nbackup: {custodian: true}\n", name, release, ring, site, node, colour)
		file := rapid.SampledFrom([]string{name + ".yaml", "some.yaml", "deep/er/" + name + ".yml"}).Draw(t, label+" file of "+name)
		files[file] = append(append(files[file], []byte("---\n")...), text...)
	}
	return files
}

func must(t *rapid.T, files fleet.Files) *fleet.Fleet {
	f, err := fleet.Read(files)
	if err != nil {
		t.Fatalf("read generated fleet: %v", err)
	}
	return f
}

func planOf(t *rapid.T, f *fleet.Fleet, w plan.World, s fleet.Selector) plan.Plan {
	p, err := plan.Diff(f, w, s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// turned draws what else may have happened to a world.
func turned(t *rapid.T, w plan.World) plan.World {
	w = clone(w)
	for _, name := range []string{"par1-1", "ams1-2"} {
		if rapid.IntRange(0, 5).Draw(t, "silence of "+name) == 0 {
			silence(w, name, time.Hour)
		}
	}
	for _, name := range []string{"c", "d"} {
		p, placed := w.Inventory.Placements[name]
		to := map[string]string{"par1": "ams1-2", "ams1": "par1-2"}[p.Site]
		if placed && rapid.Bool().Draw(t, "recovery of "+name) {
			away(w, name, p.Node, to)
		}
	}
	w.Home = rapid.Bool().Draw(t, "home")
	for _, name := range []string{"a", "b"} {
		p, placed := w.Inventory.Placements[name]
		if placed && rapid.Bool().Draw(t, "drift of "+name) {
			hold(w, p.Node, name, func(i *fleet.InstanceFacts) {
				i.Spec = rapid.SampledFrom([]string{i.Spec, "drifted"}).Draw(t, "spec of "+name)
				i.State = rapid.SampledFrom([]fleet.InstanceState{fleet.StateRunning, fleet.StateStopped, fleet.StateDegraded}).Draw(t, "state of "+name)
			})
		}
	}
	return w
}

// From any fleet to any other, over any turn of the world: applying a plan leaves nothing of it to do, touches nobody
// else, starts no second copy and gives away no data; the same input gives the same bytes.
func TestPlanAfterApplyIsEmpty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world()
		w = effect(w, planOf(t, must(t, declared(t, "old")), w, fleet.Selector{}))
		w = turned(t, w)
		files := declared(t, "new")
		f := must(t, files)
		selector, err := fleet.ParseSelector(rapid.SampledFrom([]string{"", "ring=first", "a|b|c", "site!=par1"}).Draw(t, "selector"))
		if err != nil {
			t.Fatal(err)
		}
		p := planOf(t, f, w, selector)
		sameBytes(t, files, w, selector, p)
		after := effect(w, p)
		others(t, p, w, after)
		oneWriter(t, after)
		if again := planOf(t, f, after, selector); len(again.Items) > 0 {
			t.Fatalf("after its own effect the plan still wants %v", say(again))
		}
		if g, err := plan.Graph(p, func(string) string { return "s9" }); err != nil || len(p.Items) > 0 && len(g) == 0 {
			t.Fatalf("graph of %d items: %d steps, %v", len(p.Items), len(g), err)
		}
	})
}

// sameBytes plans once more from files in other places.
func sameBytes(t *rapid.T, files fleet.Files, w plan.World, s fleet.Selector, p plan.Plan) {
	shuffled := fleet.Files{}
	for i, name := range rapid.Permutation(keys(files)).Draw(t, "order of files") {
		shuffled[fmt.Sprintf("%d/x.yaml", i)] = files[name]
	}
	again := planOf(t, must(t, shuffled), clone(w), s)
	first, err1 := json.Marshal(p)
	second, err2 := json.Marshal(again)
	if err1 != nil || err2 != nil || !bytes.Equal(first, second) {
		t.Fatalf("files in another order gave another plan:\n%s\n%s", first, second)
	}
}

func keys(files fleet.Files) []string {
	var all []string
	for name := range files {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// others: what is in no item has the same placement and the same facts as before.
func others(t *rapid.T, p plan.Plan, before, after plan.World) {
	touched := map[string]bool{}
	for _, item := range p.Items {
		if touched[item.Instance] {
			t.Fatalf("%s stands twice in the plan", item.Instance)
		}
		touched[item.Instance] = true
		if item.Action != plan.Retire && item.Spec.Instance != item.Instance {
			t.Fatalf("item %s carries the spec of %s", item.Instance, item.Spec.Instance)
		}
	}
	for name, placement := range before.Inventory.Placements {
		if !touched[name] && after.Inventory.Placements[name] != placement {
			t.Fatalf("%s is in no item and its placement changed", name)
		}
	}
}

// oneWriter: at most one node holds an instance that is not fenced, and data that was placed is still somewhere.
func oneWriter(t *rapid.T, w plan.World) {
	for instance := range w.Inventory.Placements {
		var writers, copies int
		for _, n := range w.Inventory.Nodes {
			held, holds := n.Instances[instance]
			if holds {
				copies++
			}
			if holds && held.State != fleet.StateFenced && held.State != fleet.StateStopped {
				writers++
			}
		}
		if writers > 1 || copies == 0 {
			t.Fatalf("%s has %d writers and %d copies", instance, writers, copies)
		}
	}
}
