//go:build !slim

package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"holdfast/internal/access"
	"holdfast/internal/backup"
	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/observe"
	"holdfast/internal/op"
	"holdfast/internal/problem"
	"holdfast/internal/recovery"
	"holdfast/internal/server"
	"holdfast/internal/web"
)

// pages gives the web what it shows, read from where the packages to its left keep it.
type pages struct {
	*Server
	observer *observe.Observer
	runner   *recovery.Runner
}

func (p pages) handler() (http.Handler, error) {
	pages, err := web.New(web.Config{
		Reads: web.Reads{
			Inventory: p.observer.Inventory, Proofs: p.proofs, Instance: p.instance, Operations: p.operations, Operation: p.operation,
			Drills: p.drills, Report: p.report,
		},
		Enter:   p.enter,
		Allowed: func(r *http.Request) bool { return access.From(r.Context()).May(access.Viewer, "look at pages") == nil },
		Changed: p.db.Doorbell.Wait,
		Now:     p.db.Now,
		Log:     p.log,
	})
	if err != nil {
		return nil, fmt.Errorf("read the pages: %w", err)
	}
	return pages.Handler(), nil
}

// enter trades a token for a session. The cookie is the browser's alone: no script reads it, no other site sends it.
func (p pages) enter(ctx context.Context, token string) (*http.Cookie, error) {
	cookie := &http.Cookie{Name: server.SessionCookie, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}
	err := p.db.Tx(ctx, func(ctx context.Context, tx db.Tx) (err error) {
		cookie.Value, cookie.Expires, err = access.OpenSession(ctx, tx, token)
		return err
	})
	return cookie, err
}

func (p pages) proofs(ctx context.Context) (map[string]web.Proof, error) {
	snapshots, err := backup.List(ctx, p.db, "")
	proofs := map[string]web.Proof{}
	for _, s := range snapshots {
		proof := proofs[s.Instance]
		if s.TakenAt.After(proof.Snapshot) {
			proof.Snapshot = s.TakenAt
		}
		if s.Proof.At.After(proof.Proven) {
			proof.Proven = s.Proof.At
		}
		proofs[s.Instance] = proof
	}
	return proofs, err
}

// seenWithin is how old an answer of a prober may be to be shown as its last.
const seenWithin = time.Minute

func (p pages) instance(ctx context.Context, name string) (web.InstanceReads, error) {
	placement, ok, err := op.PlacementOf(ctx, p.db, name)
	if err != nil {
		return web.InstanceReads{}, err
	}
	if !ok {
		return web.InstanceReads{}, problem.New(problem.NotFound, "holdfast get instances", "there is no instance %s", name)
	}
	reads := web.InstanceReads{Placement: placement}
	if spec, err := op.SpecOf(ctx, p.db, name, placement.Spec); err == nil {
		reads.Hosts = spec.Hosts
	}
	if reads.Snapshots, err = p.snapshots(ctx, name); err != nil {
		return reads, err
	}
	if reads.Probes, err = p.probes(ctx, name); err != nil {
		return reads, err
	}
	reads.Operations, err = p.operationsOf(ctx, name)
	return reads, err
}

func (p pages) snapshots(ctx context.Context, instance string) ([]web.Snapshot, error) {
	list, err := backup.List(ctx, p.db, instance)
	rows := make([]web.Snapshot, len(list))
	for i, s := range list {
		rows[i] = web.Snapshot{ID: s.Short(), Release: s.Release, Vault: s.Vault, Taken: s.TakenAt, Bytes: s.Bytes, Added: s.AddedBytes, Proven: s.Proof.At}
	}
	return rows, err
}

func (p pages) probes(ctx context.Context, instance string) ([]web.ProbeAnswer, error) {
	latest, err := observe.Latest(ctx, p.db, p.db.Now().Add(-seenWithin))
	var rows []web.ProbeAnswer
	for _, r := range latest {
		if r.Instance != instance {
			continue
		}
		row := web.ProbeAnswer{Prober: r.Node, OK: r.OK, Words: r.Error, At: r.At, Took: r.Took}
		if row.Words == "" {
			row.Words = fmt.Sprint(r.Status)
		}
		rows = append(rows, row)
	}
	return rows, err
}

// shownOperations is how many operations a page lists.
const shownOperations = 100

func (p pages) operations(ctx context.Context) ([]web.Operation, error) {
	return op.List(ctx, p.db, false, "", shownOperations)
}

func (p pages) operationsOf(ctx context.Context, instance string) ([]web.Operation, error) {
	return op.ListOf(ctx, p.db, instance, 20)
}

func (p pages) operation(ctx context.Context, id string) (web.Operation, []web.Step, error) {
	shown, err := op.Show(ctx, p.db, id)
	return shown.Operation, shown.Steps, err
}

func (p pages) drills(ctx context.Context) ([]web.Drill, error) {
	runs, err := recovery.List(ctx, p.db, false, 100)
	if err != nil {
		return nil, err
	}
	list := make([]web.Drill, len(runs))
	for i, r := range runs {
		list[i] = web.Drill{ID: r.ID, Plan: r.Plan.Name, Scenario: r.Scenario, Phase: string(r.Phase), Instances: len(r.Members), Started: r.StartedAt}
		card, err := recovery.Kept(ctx, p.db, r.ID)
		if err != nil {
			return nil, err
		}
		if card != nil {
			list[i].Verdict, list[i].DowntimeP95, list[i].LossMax = card.Verdict, card.DowntimeSeconds.P95, card.DataLossSeconds.Max
		}
	}
	return list, nil
}

// report renders the scorecard as it is now: what the lost nodes tell once they are back is in it.
func (p pages) report(ctx context.Context, id, format string) ([]byte, error) {
	card, err := p.runner.Scorecard(ctx, id)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	switch format {
	case "json":
		enc := json.NewEncoder(&out)
		enc.SetIndent("", "  ")
		err = enc.Encode(card)
	case "md":
		err = recovery.WriteMarkdown(&out, card)
	default:
		err = recovery.WriteHTML(&out, card)
	}
	return out.Bytes(), err
}

// world is what recovery decides over: the fleet as last applied, what runs where, and what there is to return to.
func (p pages) world(ctx context.Context, declared *fleet.Fleet) (w recovery.World, err error) {
	w.Fleet = declared
	if w.Inventory, err = p.observer.Inventory(ctx); err != nil {
		return w, err
	}
	if w.Specs, err = op.AppliedSpecs(ctx, p.db); err != nil {
		return w, err
	}
	newest, err := backup.Newest(ctx, p.db)
	w.Catalogue = map[string]recovery.Snapshot{}
	for instance, s := range newest {
		w.Catalogue[instance] = recovery.Snapshot{
			ID: s.ID, Instance: s.Instance, TakenAt: s.TakenAt, Bytes: s.Bytes, CanaryFrom: s.CanaryFrom, CanaryTo: s.CanaryTo,
			Vault: s.Vault, Release: s.Release, Custodian: s.Custodian,
		}
	}
	if err != nil {
		return w, err
	}
	w.Then, err = backup.Older(ctx, p.db, newest, w.Specs)
	return w, err
}
