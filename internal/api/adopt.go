package api

import (
	"context"

	"holdfast/internal/op"
)

// NewAdopt asks a rebuilt server to take over what its nodes hold.
type NewAdopt struct {
	WithoutSilent bool `json:"without_silent,omitempty" doc:"go on although some nodes that have joined are not in reach"`
}

// Kit is the sealed copy of what the server cannot do without.
type Kit struct {
	Kit []byte `json:"kit"`
}

// Adopt begins the operation by which a rebuilt server takes over what its nodes hold.
func (c *Client) Adopt(ctx context.Context, a NewAdopt) (op.Operation, error) {
	return post[op.Operation](ctx, c, "/api/v1/adoptions", a)
}

// Kit reads the newest kit of the server.
func (c *Client) Kit(ctx context.Context) (Kit, error) {
	return get[Kit](ctx, c, "/api/v1/server-kit", nil)
}
