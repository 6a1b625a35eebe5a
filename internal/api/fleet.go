package api

import (
	"context"
	"net/url"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/observe"
)

// NodeState says how a node was last heard.
type NodeState string

// The states of a node.
const (
	NodeReady   NodeState = "ready"   // it reports
	NodeUnknown NodeState = "unknown" // it has reported, and is silent now
	NodeJoined  NodeState = "joined"  // it has joined, and has not reported yet
	NodeRevoked NodeState = "revoked" // its certificate no longer counts
)

// Node is one node: what it joined as and what was last seen of it.
type Node struct {
	Node      string           `json:"node"`
	Site      string           `json:"site"`
	Roles     []fleet.Role     `json:"roles"`
	State     NodeState        `json:"state"`
	SeenAt    time.Time        `json:"seen_at,omitzero"`
	JoinedAt  time.Time        `json:"joined_at,omitzero"`
	Version   string           `json:"version,omitempty"`
	Instances int              `json:"instances"` // of which it holds a copy
	Facts     *fleet.NodeFacts `json:"facts,omitempty"`
}

// Instance is one instance: where it is placed, what the node says of it, how old its newest snapshot and proof are.
type Instance struct {
	Instance  string               `json:"instance"`
	Product   string               `json:"product,omitempty"`
	Release   string               `json:"release"`
	Node      string               `json:"node"`
	Site      string               `json:"site"`
	Epoch     int64                `json:"epoch"`
	Retired   bool                 `json:"retired,omitempty"`
	State     fleet.InstanceState  `json:"state"`
	SeenAt    time.Time            `json:"seen_at,omitzero"` // age of the state
	Hosts     []string             `json:"hosts,omitempty"`
	Snapshot  time.Time            `json:"snapshot_at,omitzero"` // newest
	Proof     time.Time            `json:"proof_at,omitzero"`    // newest; zero: never proven
	Facts     *fleet.InstanceFacts `json:"facts,omitempty"`
	Placement fleet.Placement      `json:"placement"`
}

// Nodes lists nodes by name.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	return get[[]Node](ctx, c, "/api/v1/nodes", nil)
}

// RevokeNode turns a node's certificates off.
func (c *Client) RevokeNode(ctx context.Context, name string) (Node, error) {
	return post[Node](ctx, c, "/api/v1/nodes/"+url.PathEscape(name)+"/revoke", struct{}{})
}

// Instances lists instances by name.
func (c *Client) Instances(ctx context.Context) ([]Instance, error) {
	return get[[]Instance](ctx, c, "/api/v1/instances", nil)
}

// Explain shows for every value of an instance, as last applied, which layer won and which lost.
func (c *Client) Explain(ctx context.Context, instance string) (fleet.Explained, error) {
	return get[fleet.Explained](ctx, c, "/api/v1/instances/"+url.PathEscape(instance)+"/explain", nil)
}

// Results lists the newest answer of each prober to each question.
func (c *Client) Results(ctx context.Context) ([]observe.Result, error) {
	return get[[]observe.Result](ctx, c, "/api/v1/results", nil)
}
