package server

import (
	"context"
	"time"

	"holdfast/internal/access"
	"holdfast/internal/api"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/problem"
)

func (s *Server) me() {
	handle(s, route{"GET", "/api/v1/me", "me", "ask who one is", access.Viewer}, func(ctx context.Context, _ *nothing) (api.Me, error) {
		actor := access.From(ctx)
		return api.Me{Name: actor.Name, Role: actor.Role, Version: s.Version}, nil
	})
}

func (s *Server) tokens() {
	handle(s, route{"GET", "/api/v1/tokens", "list-tokens", "list tokens", access.Admin}, func(ctx context.Context, _ *nothing) ([]access.Token, error) {
		return list(access.ListTokens(ctx, s.DB))
	})
	handle(s, route{"POST", "/api/v1/tokens", "create-token", "create a token", access.Admin}, s.createToken)
	handle(s, route{"DELETE", "/api/v1/tokens/{id}", "revoke-token", "revoke a token", access.Admin}, s.revokeToken)
}

func (s *Server) createToken(ctx context.Context, in *body[api.NewToken]) (made api.MadeToken, err error) {
	life, err := lifeOf(in.Body.Ends, 0)
	if err != nil {
		return made, err
	}
	err = s.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		if made.Text, made.Token, err = access.CreateToken(ctx, tx, in.Body.Name, in.Body.Role, life); err != nil {
			return err
		}
		return s.Audit.Append(ctx, tx, audit.Entry{Verb: "create token", Object: "token/" + in.Body.Name, Detail: made.Token})
	})
	return made, err
}

func (s *Server) revokeToken(ctx context.Context, in *byID) (token access.Token, err error) {
	err = s.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		if token, err = access.RevokeToken(ctx, tx, in.ID); err != nil {
			return err
		}
		return s.Audit.Append(ctx, tx, audit.Entry{Verb: "revoke token", Object: "token/" + token.Name, Detail: token})
	})
	return token, err
}

func (s *Server) joinTokens() {
	handle(s, route{"GET", "/api/v1/join-tokens", "list-join-tokens", "list join tokens", access.Admin}, func(ctx context.Context, _ *nothing) ([]access.JoinToken, error) {
		return list(access.ListJoinTokens(ctx, s.DB))
	})
	handle(s, route{"POST", "/api/v1/join-tokens", "create-join-token", "create a join token", access.Admin}, s.createJoinToken)
}

// joinLife is how long a join token lives unless its maker says otherwise.
const joinLife = time.Hour

func (s *Server) createJoinToken(ctx context.Context, in *body[api.NewJoinToken]) (made api.MadeJoinToken, err error) {
	life, err := lifeOf(in.Body.Ends, joinLife)
	if err != nil {
		return made, err
	}
	bounds := access.JoinBounds{Site: in.Body.Site, Roles: in.Body.Roles, Node: in.Body.Node, Life: life}
	err = s.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		if made.Text, made.Token, err = s.Keys.CreateJoinToken(ctx, tx, bounds); err != nil {
			return err
		}
		return s.Audit.Append(ctx, tx, audit.Entry{Verb: "create join token", Object: "join-token/" + made.Token.ID, Detail: made.Token})
	})
	return made, err
}

// lifeOf reads how long something lives; usual when nothing is said.
func lifeOf(text string, usual time.Duration) (time.Duration, error) {
	if text == "" {
		return usual, nil
	}
	life, err := time.ParseDuration(text)
	if err != nil || life <= 0 {
		return 0, problem.New(problem.Usage, "say it like 90m or 24h", "%q is not a length of time", text)
	}
	return life, nil
}
