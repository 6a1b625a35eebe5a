package server

import (
	"context"

	"holdfast/internal/access"
	"holdfast/internal/api"
	"holdfast/internal/audit"
	"holdfast/internal/db"
)

type auditQuery struct {
	Object string `query:"object"`
	Actor  string `query:"actor"`
	Before int64  `query:"before" minimum:"0"`
	Limit  int    `query:"limit" minimum:"0" maximum:"1000"`
}

func (s *Server) audit() {
	handle(s, route{"GET", "/api/v1/audit", "list-audit", "read the audit log", access.Viewer}, func(ctx context.Context, in *auditQuery) ([]audit.Record, error) {
		return list(audit.List(ctx, s.DB, audit.Filter{Before: in.Before, Object: in.Object, Actor: in.Actor, Limit: in.Limit}))
	})
	handle(s, route{"POST", "/api/v1/audit/verify", "verify-audit", "verify the audit log", access.Viewer}, s.verifyAudit)
}

func (s *Server) verifyAudit(ctx context.Context, in *body[api.VerifyAudit]) (found audit.Verified, err error) {
	err = s.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		found, err = s.Audit.Verify(ctx, tx, in.Body.Head)
		return err
	})
	return found, err
}
