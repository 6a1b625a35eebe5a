//go:build !slim

package app

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/libdns/libdns"

	"holdfast/internal/fleet"
	"holdfast/internal/names"
	"holdfast/internal/observe"
)

// zoneInMemory passes for a DNS provider.
type zoneInMemory struct {
	records []libdns.RR
	asked   int
}

func (z *zoneInMemory) GetRecords(context.Context, string) ([]libdns.Record, error) {
	z.asked++
	all := make([]libdns.Record, len(z.records))
	for i, r := range z.records {
		all[i] = r
	}
	return all, nil
}

func (z *zoneInMemory) SetRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	for _, r := range records {
		z.records = slices.DeleteFunc(z.records, func(old libdns.RR) bool { return old.Name == r.RR().Name && old.Type == r.RR().Type })
	}
	for _, r := range records {
		z.records = append(z.records, r.RR())
	}
	return records, nil
}

func (z *zoneInMemory) DeleteRecords(_ context.Context, _ string, records []libdns.Record) ([]libdns.Record, error) {
	for _, r := range records {
		z.records = slices.DeleteFunc(z.records, func(old libdns.RR) bool { return old.Name == r.RR().Name && old.Data == r.RR().Data })
	}
	return records, nil
}

func (z *zoneInMemory) says() []string {
	var all []string
	for _, r := range z.records {
		all = append(all, r.Name+" "+r.Data)
	}
	slices.Sort(all)
	return all
}

func TestNamesFollowInstancesAndEdges(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	world := observe.World{
		Inventory: fleet.Inventory{Nodes: map[string]fleet.NodeFacts{}, Placements: map[string]fleet.Placement{}}, Specs: map[string]fleet.Spec{},
	}
	edgeAt := func(node, edge, address string) {
		world.Nodes[node] = fleet.NodeFacts{Node: node, Roles: []fleet.Role{fleet.RoleEdge}, EdgeAddr: edge, Address: address, SeenAt: now}
	}
	placed := func(instance string) {
		world.Placements[instance] = fleet.Placement{Instance: instance}
		world.Specs[instance] = fleet.Spec{Instance: instance, Hosts: []string{instance + ".example.com", instance + ".customer.test"}}
	}
	store := &zoneInMemory{}
	kept := &keptNames{
		zone: names.NewZone("example.com", 0, store), now: func() time.Time { return now }, log: slog.New(slog.DiscardHandler),
		world: func(context.Context) (observe.World, error) { return world, nil },
	}
	expect := func(what string, want ...string) {
		t.Helper()
		if err := kept.tend(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := store.says(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: the zone says %v, want %v", what, got, want)
		}
	}
	placed("acme")
	expect("no edge yet")
	edgeAt("e1", "192.0.2.1:443", "10.0.0.1")
	edgeAt("e2", "0.0.0.0:443", "192.0.2.2")
	edgeAt("e3", "edge.example.net:443", "")
	expect("two edges", "acme 192.0.2.1", "acme 192.0.2.2")
	asked := store.asked
	expect("nothing new", "acme 192.0.2.1", "acme 192.0.2.2")
	if store.asked != asked {
		t.Error("the provider is asked although nothing changed")
	}
	placed("beta")
	expect("one more instance", "acme 192.0.2.1", "acme 192.0.2.2", "beta 192.0.2.1", "beta 192.0.2.2")
	now = now.Add(observe.Silent)
	edgeAt("e2", "0.0.0.0:443", "192.0.2.2")
	expect("an edge is lost", "acme 192.0.2.2", "beta 192.0.2.2")
	now = now.Add(observe.Silent)
	expect("all edges are out of reach", "acme 192.0.2.2", "beta 192.0.2.2")
	edgeAt("e2", "0.0.0.0:443", "192.0.2.2")
	delete(world.Placements, "beta")
	expect("an instance is gone", "acme 192.0.2.2")
}
