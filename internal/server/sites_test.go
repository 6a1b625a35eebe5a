package server

import (
	"testing"
	"time"

	"holdfast/internal/check"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
)

func TestALostSiteIsSuspectedAndTheOtherIsNot(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	inv := fleet.Inventory{Nodes: map[string]fleet.NodeFacts{
		"a1": {Node: "a1", Site: "a", SeenAt: now.Add(-time.Minute)}, "b1": {Node: "b1", Site: "b", SeenAt: now},
		"p1": {Node: "p1", Site: "out1", Roles: []fleet.Role{fleet.RoleProbe}, SeenAt: now}, "p2": {Node: "p2", Site: "out2", Roles: []fleet.Role{fleet.RoleProbe}, SeenAt: now},
	}, Placements: map[string]fleet.Placement{
		"acme": {Instance: "acme", Node: "a1", Site: "a"}, "hooli": {Instance: "hooli", Node: "a1", Site: "a"}, "stark": {Instance: "stark", Node: "b1", Site: "b"},
	}}
	var seen []check.Seen
	for i := range 10 {
		for instance := range inv.Placements {
			for _, prober := range []string{"p1", "p2"} {
				ok := instance == "stark" || i < 5
				seen = append(seen, check.Seen{Prober: prober, Result: link.Result{Check: "edge/e", Instance: instance, OK: ok, At: now.Add(time.Duration(i-10) * time.Second)}})
			}
		}
	}
	sites := map[string]bool{}
	for _, s := range drawSites(inv, seen, now) {
		sites[s.Site] = s.Suspected
		if s.Site == "a" && (s.Down != 2 || s.Heard != 0 || s.Why == "") {
			t.Errorf("site a: %+v", s)
		}
	}
	if !sites["a"] || sites["b"] {
		t.Errorf("suspected: %v", sites)
	}
}
