package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast/internal/access"
	"holdfast/internal/api"
	"holdfast/internal/check"
	"holdfast/internal/fleet"
	"holdfast/internal/observe"
)

// lookBack is how far back probes' answers are read for a verdict.
const lookBack = 2 * time.Minute

func (s *Server) sites() {
	handle(s, route{"GET", "/api/v1/sites", "list-sites", "list sites", access.Viewer}, func(ctx context.Context, _ *nothing) ([]api.Site, error) {
		inventory, err := s.Observer.Inventory(ctx)
		if err != nil {
			return nil, err
		}
		results, err := observe.Results(ctx, s.DB, 0, s.DB.Now().Add(-lookBack), manyResults)
		if err != nil {
			return nil, err
		}
		return drawSites(inventory, seenOf(results), s.DB.Now()), nil
	})
}

// manyResults bounds one reading: 500 instances asked each second by two probers for the time of lookBack.
const manyResults = 200_000

func seenOf(results []observe.Result) []check.Seen {
	seen := make([]check.Seen, len(results))
	for i, r := range results {
		seen[i] = check.Seen{Prober: r.Node, Result: r.Result}
	}
	return seen
}

// drawSites counts what each site holds, and what the outside says of it.
func drawSites(inventory fleet.Inventory, seen []check.Seen, now time.Time) []api.Site {
	sites := map[string]*api.Site{}
	at := func(name string) *api.Site {
		if sites[name] == nil {
			sites[name] = &api.Site{Site: name}
		}
		return sites[name]
	}
	probers := 0
	for _, n := range inventory.Nodes {
		site := at(n.Site)
		site.Nodes++
		heard := now.Sub(n.SeenAt) <= observe.Silent
		if heard {
			site.Heard++
		}
		if heard && slices.Contains(n.Roles, fleet.RoleProbe) {
			probers++
		}
	}
	findings := check.Verdicts(seen, check.Rule{N: probers}, now)
	for _, p := range inventory.Placements {
		if p.Retired {
			continue
		}
		site := at(p.Site)
		site.Instances++
		if findings[p.Instance].State == check.StateDown {
			site.Down++
		}
	}
	for _, suspect := range check.SiteSuspect(findings, inventory) {
		site := at(suspect.Site)
		site.Suspected, site.Suspect, site.Why = !suspect.Everywhere, &suspect, why(suspect, now)
	}
	list := make([]api.Site, 0, len(sites))
	for _, name := range slices.Sorted(maps.Keys(sites)) {
		list = append(list, *sites[name])
	}
	return list
}

func why(s check.Suspect, now time.Time) string {
	text := fmt.Sprintf("%d of %d instances are down from outside, since %.1f s", len(s.Down), s.Placed, now.Sub(s.FirstBad).Seconds())
	if s.Everywhere {
		text += "; every site looks the same, so the edge, the names or the probers are likelier"
	}
	return text
}
