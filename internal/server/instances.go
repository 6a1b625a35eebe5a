package server

import (
	"context"
	"maps"
	"slices"
	"time"

	"holdfast/internal/access"
	"holdfast/internal/api"
	"holdfast/internal/backup"
	"holdfast/internal/fleet"
	"holdfast/internal/op"
	"holdfast/internal/problem"
)

func (s *Server) instances() {
	handle(s, route{"GET", "/api/v1/instances", "list-instances", "list instances", access.Viewer}, s.listInstances)
	handle(s, route{"GET", "/api/v1/instances/{id}", "show-instance", "show an instance", access.Viewer}, s.showInstance)
	handle(s, route{"GET", "/api/v1/instances/{id}/explain", "explain-instance", "explain an instance's values", access.Viewer}, s.explain)
}

func (s *Server) listInstances(ctx context.Context, _ *nothing) ([]api.Instance, error) {
	inventory, err := s.Observer.Inventory(ctx)
	if err != nil {
		return nil, err
	}
	specs, err := op.AppliedSpecs(ctx, s.DB)
	if err != nil {
		return nil, err
	}
	snapshots, err := backup.List(ctx, s.DB, "")
	if err != nil {
		return nil, err
	}
	return viewInstances(inventory, specs, snapshots), nil
}

func (s *Server) showInstance(ctx context.Context, in *byID) (api.Instance, error) {
	all, err := s.listInstances(ctx, nil)
	if err != nil {
		return api.Instance{}, err
	}
	at := slices.IndexFunc(all, func(i api.Instance) bool { return i.Instance == in.ID })
	if at < 0 {
		return api.Instance{}, problem.New(problem.NotFound, "holdfast get instances", "there is no instance %s", in.ID)
	}
	return all[at], nil
}

func (s *Server) explain(ctx context.Context, in *byID) (fleet.Explained, error) {
	declared, err := s.Declared.Fleet(ctx, s.DB)
	if err != nil {
		return fleet.Explained{}, err
	}
	return declared.Explain(in.ID)
}

// viewInstances joins where instances are placed with what their nodes say and what there is to return to, by name.
func viewInstances(inventory fleet.Inventory, specs map[string]fleet.Spec, snapshots []backup.Snapshot) []api.Instance {
	taken, proven := newest(snapshots)
	all := make([]api.Instance, 0, len(inventory.Placements))
	for _, name := range slices.Sorted(maps.Keys(inventory.Placements)) {
		p := inventory.Placements[name]
		view := api.Instance{
			Instance: name, Product: specs[name].Product, Release: p.Release, Node: p.Node, Site: p.Site, Epoch: p.Epoch, Retired: p.Retired,
			State: fleet.StateUnknown, Hosts: specs[name].Hosts, Snapshot: taken[name], Proof: proven[name], Placement: p,
		}
		if node, ok := inventory.Nodes[p.Node]; ok {
			view.SeenAt = node.SeenAt
			if facts, ok := node.Instances[name]; ok {
				view.State, view.Facts = facts.State, &facts
			}
		}
		all = append(all, view)
	}
	return all
}

func newest(snapshots []backup.Snapshot) (taken, proven map[string]time.Time) {
	taken, proven = map[string]time.Time{}, map[string]time.Time{}
	for _, snapshot := range snapshots {
		if snapshot.TakenAt.After(taken[snapshot.Instance]) {
			taken[snapshot.Instance] = snapshot.TakenAt
		}
		if snapshot.Proof.At.After(proven[snapshot.Instance]) {
			proven[snapshot.Instance] = snapshot.Proof.At
		}
	}
	return taken, proven
}
