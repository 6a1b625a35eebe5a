//go:build !slim

package app

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/access"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/op"
	"holdfast/internal/problem"
)

// gate is who lets nodes in, as the agent link asks for it.
func (s *Server) gate() link.Gate {
	return link.Gate{Node: s.nodeOf, Join: s.join, Renew: s.renew, Certify: s.certify, Displaced: s.displaced}
}

func (s *Server) nodeOf(ctx context.Context, certificate *x509.Certificate) (string, error) {
	id, err := access.NodeOf(certificate)
	if err != nil {
		return "", err
	}
	return id.Name, access.CheckNode(ctx, s.db, id)
}

func (s *Server) join(ctx context.Context, r link.JoinRequest) (link.JoinResponse, error) {
	who := access.Applicant{Node: r.Node, Site: r.Site, CSR: r.CSR}
	for _, role := range r.Roles {
		who.Roles = append(who.Roles, string(role))
	}
	answer := link.JoinResponse{Authority: s.keys.Authority.Certificate.Raw, OrderKey: s.keys.OrderPublic(), ReplyTo: s.keys.ReplyToRecipient()}
	ctx = access.With(ctx, access.Actor{Name: "node/" + r.Node})
	err := s.db.Tx(ctx, func(ctx context.Context, tx db.Tx) (err error) {
		if answer.Certificate, err = s.keys.Join(ctx, tx, r.Token, who); err != nil {
			return err
		}
		return s.audit.Append(ctx, tx, audit.Entry{Verb: "join", Object: "node/" + r.Node, Detail: map[string]any{"site": r.Site, "roles": r.Roles, "version": r.Version}})
	})
	if err != nil {
		s.log.Warn("node was not let in", "node", r.Node, "err", err)
		return link.JoinResponse{}, err
	}
	return answer, nil
}

// renew takes the node's newest generation: that the caller's certificate is of it was checked when it connected.
func (s *Server) renew(ctx context.Context, node string, csr []byte) (certificate []byte, err error) {
	err = s.db.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		known, err := access.FindNode(ctx, tx, node)
		if err != nil {
			return err
		}
		certificate, err = s.keys.Renew(ctx, tx, known.ID(), csr)
		return err
	})
	return certificate, err
}

// certify signs for an edge what instances are reached by, and nothing else: not the server's own name, and not names
// that no instance has.
func (s *Server) certify(ctx context.Context, node string, csr []byte) ([][]byte, error) {
	known, err := access.FindNode(ctx, s.db, node)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(known.Roles, string(fleet.RoleEdge)) {
		return nil, problem.New(problem.Denied, "holdfast join-token create --node "+node+" --roles edge", "node %s gets no certificate for customers' names: it has not the role edge", node)
	}
	specs, err := op.AppliedSpecs(ctx, s.db)
	if err != nil {
		return nil, err
	}
	served := servedNames(specs, s.settings.CertificateNames())
	return s.keys.Authority.IssueRequested(csr, func(name string) bool { return served[name] }, s.db.Now(), edgeLife)
}

// servedNames is what an edge may be certified for: the instances' names, and a wildcard for each domain directly
// above them, unless that would cover a name of the server itself.
func servedNames(specs map[string]fleet.Spec, own []string) map[string]bool {
	served := map[string]bool{}
	for _, spec := range specs {
		for _, host := range spec.Hosts {
			served[host], served[wildcard(host)] = true, true
		}
	}
	for _, name := range own {
		served[name], served[wildcard(name)] = false, false
	}
	return served
}

func wildcard(host string) string {
	_, domain, _ := strings.Cut(host, ".")
	return "*." + domain
}

// edgeLife is how long an edge's certificate lives; the edge asks for the next one long before.
const edgeLife = 30 * 24 * time.Hour

// displaced records that two agents claim to be one node: it is either a clone or a theft.
func (s *Server) displaced(ctx context.Context, old, now link.Session) {
	s.log.Error("two agents claim to be one node", "node", now.Node, "was", old.Remote, "is", now.Remote)
	ctx = access.With(ctx, access.Actor{Name: "node/" + now.Node})
	err := s.db.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		return s.audit.Append(ctx, tx, audit.Entry{Verb: "displace another agent", Object: "node/" + now.Node, Detail: map[string]any{"was": old.Remote, "is": now.Remote}})
	})
	if err != nil {
		s.log.Error("not recorded", "node", now.Node, "err", fmt.Errorf("record displaced agent: %w", err))
	}
}
