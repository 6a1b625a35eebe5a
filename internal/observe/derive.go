package observe

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/step"
)

// World is what settings are derived from.
type World struct {
	fleet.Inventory
	Former   map[string][]string   // instance -> nodes that held it before
	Specs    map[string]fleet.Spec // instance -> what was last applied to it
	Fetching []Fetching
	Asking   Asking
	Kit      []byte // the server's own, sealed; nil = none yet
}

// Fetching is a node that is about to bring, or is bringing, a snapshot of an instance.
type Fetching struct{ Node, Instance string }

// Asking is how probers ask. The zero value asks nothing.
type Asking struct {
	Authority []byte // DER of the CA that the edges' certificates come from; nil = the system's
	Interval  time.Duration
	Timeout   time.Duration
}

type settingKey struct {
	node string
	kind link.SettingKind
}

func (k settingKey) compare(other settingKey) int {
	return cmp.Or(cmp.Compare(k.node, other.node), cmp.Compare(k.kind, other.kind))
}

// Leases says who may serve each instance of which the node may hold a copy: placed there now or before, or found
// there. A retired instance is leased to nobody.
func (w World) Leases(node string) link.LeasesSetting {
	leases := map[string]step.FenceArgs{}
	for name, p := range w.Placements {
		_, found := w.Nodes[node].Instances[name]
		if p.Node != node && !found && !slices.Contains(w.Former[name], node) {
			continue
		}
		leases[name] = step.FenceArgs{Epoch: p.Epoch, Node: p.Node}
		if p.Retired {
			leases[name] = step.FenceArgs{Epoch: p.Epoch}
		}
	}
	return link.LeasesSetting{Leases: leases}
}

// Routes sends the names of every instance to the endpoints of its active slot, and to the maintenance page where
// there is none under the right epoch. Every edge has the same routes.
func (w World) Routes() link.RoutesSetting {
	routes := []link.Route{}
	for _, name := range slices.Sorted(maps.Keys(w.Placements)) {
		p, spec := w.Placements[name], w.Specs[name]
		if p.Retired || len(spec.Hosts) == 0 {
			continue
		}
		routes = append(routes, link.Route{Instance: name, Hosts: spec.Hosts, Endpoints: w.endpoints(p), Epoch: p.Epoch, Health: health(spec)})
	}
	return link.RoutesSetting{Routes: routes}
}

// endpoints are where an instance takes requests; none when its node does not say that it serves under the epoch.
func (w World) endpoints(p fleet.Placement) []string {
	facts, ok := w.Nodes[p.Node].Instances[p.Instance]
	if !ok || facts.Epoch != p.Epoch || facts.Slot != p.Slot || !serves(facts) {
		return []string{}
	}
	return slices.Sorted(slices.Values(facts.Endpoints))
}

// serves tells whether a node lets an instance take requests. Of a node that is out of reach the last word holds: the
// edge asks the endpoints themselves, also those that are just starting, and nodes go on serving without the server.
func serves(facts fleet.InstanceFacts) bool {
	switch facts.State {
	case fleet.StateRunning, fleet.StateDegraded, fleet.StateUnknown, fleet.StateStarting:
		return true
	case fleet.StateStopped, fleet.StateFenced, fleet.StateBeside:
		return false
	}
	return false
}

// health is the path that tells whether an endpoint is well: the readiness probe of the service behind the edge.
func health(spec fleet.Spec) string {
	for _, service := range spec.Services {
		for _, port := range service.Ports {
			ready := service.Readiness
			if port.Edge && ready != nil && (ready.Port == "" || ready.Port == port.Name) {
				return ready.HTTP
			}
		}
	}
	return ""
}

// Probes has every instance asked through every edge, but never by a prober in the site where the instance is: a
// site that is lost must be seen from outside.
func (w World) Probes(prober string) link.ProbesSetting {
	checks := []link.Check{}
	if w.Asking.Interval == 0 {
		return link.ProbesSetting{Checks: checks}
	}
	for _, route := range w.Routes().Routes {
		if w.Placements[route.Instance].Site == w.Nodes[prober].Site {
			continue
		}
		for _, edge := range w.edges() {
			checks = append(checks, w.check(route, edge))
		}
	}
	return link.ProbesSetting{Checks: checks}
}

func (w World) check(route link.Route, edge fleet.NodeFacts) link.Check {
	path := cmp.Or(route.Health, "/")
	return link.Check{
		Name: "edge/" + edge.Node, Instance: route.Instance, URL: "https://" + route.Hosts[0] + path, Connect: edge.EdgeAddr, Host: route.Hosts[0],
		Status: 200, Authority: w.Asking.Authority, Interval: w.Asking.Interval, Timeout: w.Asking.Timeout,
	}
}

func (w World) edges() []fleet.NodeFacts {
	var edges []fleet.NodeFacts
	for _, name := range slices.Sorted(maps.Keys(w.Nodes)) {
		if node := w.Nodes[name]; slices.Contains(node.Roles, fleet.RoleEdge) && node.EdgeAddr != "" {
			edges = append(edges, node)
		}
	}
	return edges
}

// Grants says who may write and read in a vault: the node where an instance is placed writes its repository, a node
// that is to fetch reads that one repository for as long as the fetch is not through. Grants of one key add up.
func (w World) Grants(vault string) link.GrantsSetting {
	grants := []link.Grant{}
	for _, name := range slices.Sorted(maps.Keys(w.Placements)) {
		p := w.Placements[name]
		if key := w.Nodes[p.Node].SSHKey; key != "" && !p.Retired && w.Specs[name].Backup.Vault == vault {
			grants = append(grants, link.Grant{Key: key, Instance: name, Rights: "write"})
		}
	}
	for _, f := range w.Fetching {
		grant := link.Grant{Key: w.Nodes[f.Node].SSHKey, Instance: f.Instance, Rights: "read"}
		if grant.Key != "" && !slices.Contains(grants, grant) {
			grants = append(grants, grant)
		}
	}
	return link.GrantsSetting{Grants: grants}
}

// settings derives every document of every node.
func (w World) settings() map[settingKey]any {
	all := map[settingKey]any{}
	routes := w.Routes()
	for name, node := range w.Nodes {
		for _, role := range node.Roles {
			switch role {
			case fleet.RoleRun, fleet.RoleSpare:
				all[settingKey{name, link.SettingLeases}] = w.Leases(name)
			case fleet.RoleEdge:
				all[settingKey{name, link.SettingRoutes}] = routes
			case fleet.RoleProbe:
				all[settingKey{name, link.SettingProbes}] = w.Probes(name)
			case fleet.RoleVault:
				all[settingKey{name, link.SettingGrants}] = w.Grants(name)
				if len(w.Kit) > 0 && node.Capability >= link.CapabilityKit {
					all[settingKey{name, link.SettingKit}] = link.KitSetting{Kit: w.Kit}
				}
			}
		}
	}
	return all
}
