package op

import (
	"context"
	"encoding/json"
	"fmt"

	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// ClaimResult is where a claim placed an instance.
type ClaimResult struct {
	Node   string `json:"node"`
	Site   string `json:"site"`
	Epoch  int64  `json:"epoch"`
	Slot   string `json:"slot"`
	Before string `json:"before,omitempty"` // the node that was its writer before
}

// claim moves the instance's one writer to the node that its arguments name, at a new epoch. From the commit on,
// leases, routes and grants follow the new placement, and orders under an older epoch are refused by the nodes.
func claim(ctx context.Context, tx db.Tx, c Call) (json.RawMessage, error) {
	var args step.ClaimArgs
	if err := json.Unmarshal(c.Step.Args, &args); err != nil {
		return nil, fmt.Errorf("read arguments of step %s: %w", c.Step.ID, err)
	}
	if args.Node == "" || args.Slot == "" || c.site == "" {
		return nil, problem.New(problem.Invalid, "holdfast node list", "%s was not claimed: node %q (site %q) or slot %q is not known", c.Step.Instance, args.Node, c.site, args.Slot)
	}
	before, _, err := PlacementOf(ctx, tx, c.Step.Instance)
	if err != nil {
		return nil, err
	}
	p, err := place(ctx, tx, fleet.Placement{
		Instance: c.Step.Instance, Node: args.Node, Site: c.site, Slot: args.Slot, Spec: args.Spec, Release: args.Release,
	}, args.Away)
	if err != nil {
		return nil, err
	}
	if err := chose(ctx, tx, c.Operation.ID, c.Step.ID, p.Node); err != nil {
		return nil, err
	}
	return json.Marshal(ClaimResult{Node: p.Node, Site: p.Site, Epoch: p.Epoch, Slot: p.Slot, Before: before.Node})
}

// chose writes the node of a claim into its row, where the steps that follow it look. Being done writes the rest.
func chose(ctx context.Context, tx db.Tx, operation, id, node string) error {
	if _, err := tx.NewRaw("UPDATE operation_steps SET placed = ? WHERE operation = ? AND id = ?", node, operation, id).Exec(ctx); err != nil {
		return fmt.Errorf("write the node of claim %s: %w", id, err)
	}
	return nil
}
