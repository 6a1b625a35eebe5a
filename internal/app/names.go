//go:build !slim

package app

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/names"
	"holdfast/internal/observe"
	"holdfast/internal/op"
)

// keptNames points the DNS names of all placed instances at the edges that are in reach, and takes the names of
// instances away that it has pointed and that are no more.
type keptNames struct {
	zone  *names.Zone
	world func(ctx context.Context) (observe.World, error)
	now   func() time.Time
	log   *slog.Logger

	hosts, targets []string // as last pointed
}

// namesEvery is how often the names are compared with the inventory. It bounds, with the records' own age, how long
// customers go to an edge that is gone.
const namesEvery = 2 * time.Second

// names opens the zone of the settings.
func (s *Server) names(observer *observe.Observer) (*keptNames, error) {
	settings, err := names.Read(s.settings.DNS)
	if err != nil {
		return nil, err
	}
	zone, err := names.Open(settings)
	if err != nil {
		return nil, err
	}
	return &keptNames{zone: zone, world: worldOf(observer, s.db), now: s.db.Now, log: s.log}, nil
}

func worldOf(observer *observe.Observer, d *db.DB) func(ctx context.Context) (observe.World, error) {
	return func(ctx context.Context) (observe.World, error) {
		inventory, err := observer.Inventory(ctx)
		if err != nil {
			return observe.World{}, err
		}
		specs, err := op.AppliedSpecs(ctx, d)
		return observe.World{Inventory: inventory, Specs: specs}, err
	}
}

// Run keeps the names until ctx ends. A provider that does not answer is asked again; nothing else waits for it.
func (k *keptNames) Run(ctx context.Context) error {
	tick := time.NewTicker(namesEvery)
	defer tick.Stop()
	for {
		if err := k.tend(ctx); err != nil && ctx.Err() == nil {
			k.log.Warn("DNS names were not kept; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// tend changes the zone when hosts or edges are others than before. Without an edge in reach the names stay: wrong
// names are no worse than none, and the edge may only be out of our reach.
func (k *keptNames) tend(ctx context.Context) error {
	world, err := k.world(ctx)
	if err != nil {
		return err
	}
	hosts, targets := k.hostsOf(world), edgeTargets(world.Inventory, k.now())
	if len(targets) == 0 || slices.Equal(hosts, k.hosts) && slices.Equal(targets, k.targets) {
		return nil
	}
	gone := slices.DeleteFunc(slices.Clone(k.hosts), func(host string) bool { return slices.Contains(hosts, host) })
	pointed, err := k.zone.Point(ctx, hosts, targets)
	if err != nil {
		return err
	}
	withdrawn, err := k.zone.Withdraw(ctx, gone)
	if err != nil {
		return err
	}
	k.hosts, k.targets = hosts, targets
	k.log.Info("DNS names kept", "hosts", len(hosts), "edges", targets, "set", len(pointed.Set), "removed", len(pointed.Removed)+len(withdrawn.Removed))
	return nil
}

// hostsOf lists the names of placed instances that the zone covers.
func (k *keptNames) hostsOf(world observe.World) []string {
	var hosts []string
	for _, route := range world.Routes().Routes {
		for _, host := range route.Hosts {
			if k.zone.Covers(host) {
				hosts = append(hosts, host)
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// edgeTargets lists where the edges in reach take requests. An edge that listens on every address is reached at its
// node's; one that is only known by a name is left out when there are others with an address, because a name beside an
// address cannot stand in the DNS.
func edgeTargets(inventory fleet.Inventory, now time.Time) []string {
	var addresses, byName []string
	for _, node := range inventory.Nodes {
		if !isEdge(node, now) {
			continue
		}
		host, _, err := net.SplitHostPort(node.EdgeAddr)
		if err != nil {
			continue
		}
		if address, err := netip.ParseAddr(host); host == "" || err == nil && address.IsUnspecified() {
			host = node.Address
		}
		if _, err := netip.ParseAddr(host); err == nil {
			addresses = append(addresses, host)
		} else if host != "" {
			byName = append(byName, host)
		}
	}
	slices.Sort(addresses)
	slices.Sort(byName)
	if len(addresses) > 0 || len(byName) == 0 {
		return slices.Compact(addresses)
	}
	return byName[:1]
}
