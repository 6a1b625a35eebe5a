package api

import (
	"context"
	"net/url"

	"holdfast/internal/plan"
)

// MakePlan compares fleet files with what the server last saw, and keeps the plan for an apply.
func (c *Client) MakePlan(ctx context.Context, r plan.Request) (plan.Plan, error) {
	return post[plan.Plan](ctx, c, "/api/v1/plans", r)
}

// Plan reads a kept plan.
func (c *Client) Plan(ctx context.Context, id string) (plan.Plan, error) {
	return get[plan.Plan](ctx, c, "/api/v1/plans/"+url.PathEscape(id), nil)
}

// ApplyPlan begins the operation that does a kept plan. It is refused with kind Stale when fleet or inventory have
// moved on since the plan was made.
func (c *Client) ApplyPlan(ctx context.Context, id string) (plan.Applied, error) {
	return post[plan.Applied](ctx, c, "/api/v1/plans/"+url.PathEscape(id)+"/apply", struct{}{})
}
