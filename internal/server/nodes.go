package server

import (
	"context"
	"maps"
	"slices"
	"time"

	"holdfast/internal/access"
	"holdfast/internal/api"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/observe"
)

func (s *Server) nodes() {
	handle(s, route{"GET", "/api/v1/nodes", "list-nodes", "list nodes", access.Viewer}, func(ctx context.Context, _ *nothing) ([]api.Node, error) {
		joined, err := access.ListNodes(ctx, s.DB)
		if err != nil {
			return nil, err
		}
		inventory, err := s.Observer.Inventory(ctx)
		return viewNodes(joined, inventory, s.DB.Now()), err
	})
	handle(s, route{"POST", "/api/v1/nodes/{id}/revoke", "revoke-node", "revoke a node's certificates", access.Admin}, s.revokeNode)
	handle(s, route{"GET", "/api/v1/results", "list-results", "read probe results", access.Viewer}, func(ctx context.Context, _ *nothing) ([]observe.Result, error) {
		return list(observe.Latest(ctx, s.DB, s.DB.Now().Add(-resultsSince)))
	})
}

// resultsSince is how far back a prober's newest answer still says something.
const resultsSince = 10 * time.Minute

func (s *Server) revokeNode(ctx context.Context, in *byID) (view api.Node, err error) {
	err = s.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		if err := access.RevokeNode(ctx, tx, in.ID); err != nil {
			return err
		}
		node, err := access.FindNode(ctx, tx, in.ID)
		view = viewNode(node, nil, tx.Now)
		if err != nil {
			return err
		}
		return s.Audit.Append(ctx, tx, audit.Entry{Verb: "revoke node", Object: "node/" + in.ID})
	})
	return view, err
}

// viewNodes joins who has joined with what was seen, by name.
func viewNodes(joined []access.Node, inventory fleet.Inventory, now time.Time) []api.Node {
	views := map[string]api.Node{}
	for name, facts := range inventory.Nodes {
		views[name] = viewNode(access.Node{Name: name, Site: facts.Site}, &facts, now)
	}
	for _, node := range joined {
		var seen *fleet.NodeFacts
		if facts, ok := inventory.Nodes[node.Name]; ok {
			seen = &facts
		}
		views[node.Name] = viewNode(node, seen, now)
	}
	all := make([]api.Node, 0, len(views))
	for _, name := range slices.Sorted(maps.Keys(views)) {
		all = append(all, views[name])
	}
	return all
}

func viewNode(node access.Node, facts *fleet.NodeFacts, now time.Time) api.Node {
	view := api.Node{Node: node.Name, Site: node.Site, State: stateOf(node, facts, now), JoinedAt: node.JoinedAt, Roles: []fleet.Role{}}
	for _, role := range node.Roles {
		view.Roles = append(view.Roles, fleet.Role(role))
	}
	if facts != nil {
		view.Roles, view.SeenAt, view.Version, view.Instances, view.Facts = facts.Roles, facts.SeenAt, facts.Version, len(facts.Instances), facts
	}
	return view
}

func stateOf(node access.Node, facts *fleet.NodeFacts, now time.Time) api.NodeState {
	switch {
	case !node.RevokedAt.IsZero():
		return api.NodeRevoked
	case facts == nil:
		return api.NodeJoined
	case now.Sub(facts.SeenAt) > observe.Silent:
		return api.NodeUnknown
	}
	return api.NodeReady
}
