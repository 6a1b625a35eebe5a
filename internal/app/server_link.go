//go:build !slim

package app

import (
	"context"
	"log/slog"

	"holdfast/internal/access"
	"holdfast/internal/link"
	"holdfast/internal/observe"
	"holdfast/internal/op"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// courier carries orders and settings to nodes: it signs settings, and hands both to the link.
type courier struct {
	keys *access.Keys
	link *link.Server
	log  *slog.Logger
}

func (c *courier) sign(order step.Order) (step.Signed, error) {
	return step.Sign(c.keys.OrderKey(), step.ForOrder, order)
}

// Send implements op.Dispatcher.
func (c *courier) Send(_ context.Context, node string, order step.Signed) error {
	return c.link.Deliver(node, link.Delivery{Order: &order})
}

// Cancel implements op.Dispatcher.
func (c *courier) Cancel(_ context.Context, node, orderID string) error {
	return c.link.Deliver(node, link.Delivery{Cancel: orderID})
}

// push signs a setting for the boot that the node is in, so that it is worth nothing after the next one.
func (c *courier) push(_ context.Context, setting link.Setting) error {
	session, ok := c.link.Session(setting.Node)
	if !ok {
		return problem.New(problem.Unreachable, "holdfast get nodes", "setting %s did not go out: node %s does not listen", setting.Kind, setting.Node)
	}
	setting.BootID = session.BootID
	signed, err := step.Sign(c.keys.OrderKey(), step.ForSetting, setting)
	if err != nil {
		return err
	}
	return c.link.Deliver(setting.Node, link.Delivery{Setting: &signed})
}

// greet gives a node that begins to listen all its documents, leases first, and then its orders again.
func (c *courier) greet(ctx context.Context, session link.Session, settings *observe.Settings, orders *op.Interpreter) {
	documents, err := settings.Of(ctx, session.Node)
	if err != nil {
		c.log.Error("settings were not read for a node that listens", "node", session.Node, "err", err)
		return
	}
	for _, setting := range documents {
		if err := c.push(ctx, setting); err != nil {
			c.log.Warn("setting not handed out", "node", session.Node, "kind", setting.Kind, "err", err)
			return
		}
	}
	orders.Connected(session.Node)
}
