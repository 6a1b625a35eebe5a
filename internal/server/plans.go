package server

import (
	"context"

	"holdfast/internal/access"
	"holdfast/internal/plan"
)

func (s *Server) plans() {
	handle(s, route{"POST", "/api/v1/plans", "make-plan", "make a plan", access.Operator}, func(ctx context.Context, in *body[plan.Request]) (plan.Plan, error) {
		return s.Planner.Make(ctx, in.Body)
	})
	handle(s, route{"GET", "/api/v1/plans/{id}", "show-plan", "show a plan", access.Viewer}, func(ctx context.Context, in *byID) (plan.Plan, error) {
		return s.Planner.Plan(ctx, in.ID)
	})
	handle(s, route{"POST", "/api/v1/plans/{id}/apply", "apply-plan", "apply a plan", access.Operator}, func(ctx context.Context, in *byID) (plan.Applied, error) {
		return s.Planner.Apply(ctx, in.ID)
	})
}
