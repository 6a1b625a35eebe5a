package server

import (
	"context"

	"holdfast/internal/access"
	"holdfast/internal/adopt"
	"holdfast/internal/api"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/kit"
	"holdfast/internal/op"
	"holdfast/internal/problem"
)

func (s *Server) adoptions() {
	handle(s, route{"POST", "/api/v1/adoptions", "adopt", "adopt what nodes hold", access.Admin}, s.adopt)
	handle(s, route{"GET", "/api/v1/server-kit", "server-kit", "take the server's kit", access.Admin}, s.kit)
}

func (s *Server) adopt(ctx context.Context, in *body[api.NewAdopt]) (o op.Operation, err error) {
	inventory, err := s.Observer.Inventory(ctx)
	if err != nil {
		return o, err
	}
	err = s.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		if o, err = adopt.Begin(ctx, tx, s.Keys, inventory, in.Body.WithoutSilent); err != nil {
			return err
		}
		return s.Audit.Append(ctx, tx, audit.Entry{Verb: "begin to adopt", Object: "operation/" + o.ID, Detail: in.Body})
	})
	return o, err
}

func (s *Server) kit(ctx context.Context, _ *nothing) (given api.Kit, err error) {
	err = s.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		held, err := kit.Current(ctx, tx)
		if err != nil {
			return err
		}
		if len(held.Sealed) == 0 {
			return problem.New(problem.Unavailable, "try again in a few seconds", "the server has not made its kit yet")
		}
		given.Kit = held.Sealed
		return s.Audit.Append(ctx, tx, audit.Entry{Verb: "take the server's kit", Object: "server", Detail: map[string]any{"made_at": held.MadeAt.Time}})
	})
	return given, err
}
