package server

import (
	"context"

	"holdfast/internal/access"
	"holdfast/internal/api"
	"holdfast/internal/fleet"
	"holdfast/internal/op"
	"holdfast/internal/problem"
	"holdfast/internal/recovery"
)

func (s *Server) drills() {
	handle(s, route{"POST", "/api/v1/drills/draft", "draft-drill", "lint a recovery plan", access.Viewer}, s.draftDrill)
	handle(s, route{"POST", "/api/v1/drills", "start-drill", "start a drill or a recovery", access.Operator}, s.startDrill)
	handle(s, route{"GET", "/api/v1/drills", "list-drills", "list drills", access.Viewer}, func(ctx context.Context, _ *nothing) ([]recovery.Run, error) {
		return list(recovery.List(ctx, s.DB, false, 200))
	})
	handle(s, route{"GET", "/api/v1/drills/{id}", "show-drill", "show a drill", access.Viewer}, func(ctx context.Context, in *byID) (api.Drill, error) {
		return s.drill(ctx, in.ID)
	})
	handle(s, route{"GET", "/api/v1/drills/{id}/scorecard", "score-drill", "score a drill", access.Viewer}, func(ctx context.Context, in *byID) (recovery.Scorecard, error) {
		return s.Recovery.Scorecard(ctx, in.ID)
	})
	handle(s, route{"POST", "/api/v1/drills/{id}/abort", "abort-drill", "abort a drill", access.Operator}, func(ctx context.Context, in *byID) (api.Drill, error) {
		if _, err := s.Recovery.Abort(ctx, in.ID); err != nil {
			return api.Drill{}, err
		}
		return s.drill(ctx, in.ID)
	})
	handle(s, route{"POST", "/api/v1/drills/{id}/counts", "count-drill", "add counts to a drill", access.Operator}, s.countDrill)
}

func (s *Server) draftDrill(ctx context.Context, in *body[api.NewDrill]) (recovery.Draft, error) {
	order, err := drillOrder(in.Body)
	if err != nil {
		return recovery.Draft{}, err
	}
	return s.Recovery.Draft(ctx, order)
}

func (s *Server) startDrill(ctx context.Context, in *body[api.NewDrill]) (api.Drill, error) {
	order, err := drillOrder(in.Body)
	if err != nil {
		return api.Drill{}, err
	}
	run, err := s.Recovery.Start(ctx, order)
	if err != nil {
		return api.Drill{}, err
	}
	return s.drill(ctx, run.ID)
}

// drillOrder reads what was asked for.
func drillOrder(asked api.NewDrill) (recovery.Order, error) {
	order := recovery.Order{Kind: asked.Kind, Plan: asked.Plan, Force: asked.Force, Fault: fleet.RecoveryFault{Kind: asked.Fault}}
	if asked.For == "" {
		return order, nil
	}
	length, err := fleet.ParseDuration(asked.For)
	if err != nil {
		return order, problem.Wrap(err, problem.Usage, "holdfast drill run "+asked.Plan+" --for 10m", "drill of %s was not started", asked.Plan)
	}
	order.Fault.For = length
	return order, nil
}

func (s *Server) countDrill(ctx context.Context, in *struct {
	ID   string `path:"id"`
	Body api.NewCounts
}) (api.Drill, error) {
	if _, err := s.Recovery.Count(ctx, in.ID, recovery.Counts(in.Body)); err != nil {
		return api.Drill{}, err
	}
	return s.drill(ctx, in.ID)
}

// drill reads a run with its events and how many instances are through.
func (s *Server) drill(ctx context.Context, id string) (api.Drill, error) {
	run, err := recovery.Get(ctx, s.DB, id)
	if err != nil {
		return api.Drill{}, err
	}
	shown := api.Drill{Run: run}
	if shown.Events, err = list(recovery.Events(ctx, s.DB, id)); err != nil || run.Operations.Recover == "" {
		return shown, err
	}
	operation, err := op.Show(ctx, s.DB, run.Operations.Recover)
	shown.Recovered = operation.Operation.Counts.InstancesDone
	return shown, err
}
