package main

import (
	"fmt"
	"slices"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/plan"
)

const product = `kind: Site
name: par1
domain: par1.example
backup: {vault: ams1-0}
---
kind: Site
name: ams1
domain: ams1.example
backup: {vault: par1-0}
---
kind: Product
name: suite
services:
  front: {ports: [8080], mem_limit: 64m, environment: {API: "http://${host:back}:${port:back.8081}", TITLE: "${value:title}"}, depends_on: {back: {condition: service_healthy}}, x-holdfast: {edge: "8080", artifact: /opt/front, readiness: {http: /}}}
  back: {ports: [8081], mem_limit: 256m, volumes: ["files:/files"], environment: {DB: "${host:db}", PASSWORD: "${secret:db}"}, depends_on: [db, cache], x-holdfast: {artifact: /opt/back, readiness: {http: /ready}}}
  work: {mem_limit: 128m, scale: 2, volumes: ["files:/files"], depends_on: [back], x-holdfast: {artifact: /opt/work}}
  db: {image: "postgres:16.4", ports: [5432], mem_limit: 256m, volumes: ["db:/var/lib/postgresql/data"], x-holdfast: {artifact: /opt/db}}
  cache: {image: "redis:7.2.5", ports: [6379], mem_limit: 64m, volumes: ["cache:/data"], x-holdfast: {artifact: /opt/cache}}
x-holdfast:
  values: {title: Suite}
  secrets: {db: {}}
  same_major: [front, back, work]
  state:
    files: {kind: folder}
    db: {kind: postgres, service: db, database: suite, password: "${secret:db}"}
    cache: {kind: redis, service: cache}
`

// declare writes a fleet of n instances, one file each, all at a release.
func declare(n int, version string) fleet.Files {
	files := fleet.Files{"product.yaml": []byte(product)}
	for _, v := range []string{"v1.0.0", "v1.1.0"} {
		files[v+".yaml"] = fmt.Appendf(nil, "kind: Release\nname: suite/%s\nservices:\n  front: {image: registry.example/front:%s}\n  back: {image: registry.example/back:%s}\n  work: {image: registry.example/work:%s}\n", v, v, v, v)
	}
	for i := range n {
		site := []string{"par1", "ams1"}[i%2]
		files[fmt.Sprintf("instances/c%04d.yaml", i)] = fmt.Appendf(nil, `kind: Instance
name: c%04d
product: suite
release: suite/%s
placement: {site: %s}
labels: {customer: c%04d, tier: gold}
values: {title: "Customer %d", back.memory: %dm}
backup: {custodian: true}
contacts: [{name: Somebody, email: somebody@c%04d.example}]
`, i, version, site, i, i, 256+i%64, i)
	}
	return files
}

// nodes are n machines in two sites, the first of each a vault too, seen at one moment, with room for everything.
func nodes(n int) plan.World {
	w := plan.World{Inventory: fleet.Inventory{Nodes: map[string]fleet.NodeFacts{}, Placements: map[string]fleet.Placement{}}, Applied: map[string]fleet.Spec{}}
	for i := range n {
		site := []string{"par1", "ams1"}[i%2]
		name := fmt.Sprintf("%s-%d", site, i/2)
		w.Inventory.Nodes[name] = fleet.NodeFacts{
			Node: name, Site: site, Roles: []fleet.Role{fleet.RoleRun, fleet.RoleVault, fleet.RoleEdge}, Engines: []string{"docker", "exec"},
			Capacity: fleet.Capacity{MemoryMB: 128 << 10}, Instances: map[string]fleet.InstanceFacts{}, SeenAt: time.Unix(1, 0),
		}
	}
	return w
}

// run lets the nodes hold what a plan creates.
func run(w plan.World, p plan.Plan) {
	for _, item := range p.Items {
		w.Applied[item.Instance] = item.Spec
		w.Inventory.Placements[item.Instance] = fleet.Placement{Instance: item.Instance, Node: item.To.Node, Site: item.To.Site, Epoch: 1, Slot: item.Slot,
			Spec: item.Spec.Fingerprint, Release: item.Spec.Release, Booted: true}
		w.Inventory.Nodes[item.To.Node].Instances[item.Instance] = fleet.InstanceFacts{Instance: item.Instance, Epoch: 1, Slot: item.Slot,
			Spec: item.Spec.Fingerprint, Release: item.Spec.Release, State: fleet.StateRunning}
	}
}

func middle(times []time.Duration) float64 {
	slices.Sort(times)
	return float64(times[len(times)/2].Microseconds()) / 1000
}
