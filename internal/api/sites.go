package api

import (
	"context"

	"holdfast/internal/check"
)

// Site is one site as it is seen from inside and from outside.
type Site struct {
	Site      string         `json:"site"`
	Nodes     int            `json:"nodes"`
	Heard     int            `json:"heard"`     // nodes that spoke a short while ago
	Instances int            `json:"instances"` // placed here
	Down      int            `json:"down"`      // of them, by the outside probes' verdict
	Suspected bool           `json:"suspected"` // most of it is down at once: it may be lost
	Why       string         `json:"why,omitempty"`
	Suspect   *check.Suspect `json:"suspect,omitempty"`
}

// Sites lists the sites, and which of them look lost from outside.
func (c *Client) Sites(ctx context.Context) ([]Site, error) {
	return get[[]Site](ctx, c, "/api/v1/sites", nil)
}
