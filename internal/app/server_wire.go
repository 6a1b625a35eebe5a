//go:build !slim

package app

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"

	"holdfast/internal/apply"
	"holdfast/internal/backup"
	"holdfast/internal/db"
	"holdfast/internal/link"
	"holdfast/internal/observe"
	"holdfast/internal/op"
	"holdfast/internal/plan"
	"holdfast/internal/recovery"
	"holdfast/internal/secret"
	"holdfast/internal/server"
	"holdfast/internal/step"
)

// wire joins the parts of the control plane: what is mounted on the port and what runs beside it. Data flows one way:
// the link's reports into observe, observe's inventory into operations, their orders back through the link.
func (s *Server) wire() (parts, error) {
	courier := &courier{keys: s.keys, log: s.log}
	observer := &observe.Observer{DB: s.db, Log: s.log}
	duties := duties{s, observer, &nodesView{}}
	catalogue := backup.Catalogue{KeepSecrets: duties.keepSecrets}
	custodian := backup.Custodian{DB: s.db, Keys: s.keys, Audit: s.audit, Node: observer.Node}
	folder := op.Folder{Ended: catalogue.Ended(), Log: s.log}
	observer.Fold = folder.Fold

	fill := custodian.Fill()
	fill[step.Boot] = s.fillBoot
	orders, err := op.NewInterpreter(op.Config{
		DB: s.db, Owner: rand.Text(), Alone: s.db.Engine == "sqlite", Dispatcher: courier, Sign: courier.sign, Nodes: observer.Nodes,
		Serve: duties.serve(custodian), Fill: fill, Folder: folder, Log: s.log,
	})
	if err != nil {
		return parts{}, err
	}
	settings := &observe.Settings{Observer: observer, Asking: s.asking(), Push: courier.push, Log: s.log}
	runner := &recovery.Runner{DB: s.db, Audit: s.audit, Log: s.log}
	pages := pages{s, observer, runner}
	declared := &apply.Declared{}
	runner.World = func(ctx context.Context) (recovery.World, error) {
		now, err := declared.Fleet(ctx, s.db)
		if err != nil {
			return recovery.World{}, err
		}
		return pages.world(ctx, now)
	}
	rooms, err := pages.handler()
	if err != nil {
		return parts{}, err
	}

	loops := []Loop{
		{"operations", orders.Run}, {"settings", settings.Run}, {"drills", runner.Run},
		{"the server's kit", s.keepKit},
		{"scheduled backups", backup.Scheduler{DB: s.db, Log: s.log}.Run},
	}
	if s.settings.DNS != "" {
		kept, err := s.names(observer)
		if err != nil {
			return parts{}, err
		}
		loops = append(loops, Loop{"DNS names", kept.Run})
	}

	gate := s.gate()
	gate.Intake = observer.Intake
	gate.Listening = func(ctx context.Context, session link.Session) { courier.greet(ctx, session, settings, orders) }
	courier.link = link.NewServer(gate)
	path, handler := courier.link.Handler()
	return parts{
		mounts: []server.Mount{{Path: path, Handler: handler, Machine: true}, {Path: "/", Handler: rooms}},
		loops:  loops,
		drain:  courier.link.Close, observer: observer, declared: declared, runner: runner,
		planner: &apply.Planner{DB: s.db, Secrets: s.secrets, Audit: s.audit, Inventory: observer.Inventory, Held: heldIn(s.db)},
	}, nil
}

// heldIn reads what the catalogue knows of vaults, for plans.
func heldIn(d *db.DB) func(context.Context) (map[string]plan.Held, error) {
	return func(ctx context.Context) (map[string]plan.Held, error) {
		newest, err := backup.Newest(ctx, d)
		held := make(map[string]plan.Held, len(newest))
		for instance, s := range newest {
			held[instance] = plan.Held{Vault: s.Vault, Snapshot: s.ID}
		}
		return held, err
	}
}

// How probes ask through the edge.
const (
	askEvery  = 2 * time.Second
	askWithin = 5 * time.Second
)

// asking is how probes ask: they trust this authority.
func (s *Server) asking() observe.Asking {
	return observe.Asking{Authority: s.keys.Authority.Certificate.Raw, Interval: askEvery, Timeout: askWithin}
}

// fillBoot seals an instance's secrets to the node that boots it. They are in no row of the operation.
func (s *Server) fillBoot(ctx context.Context, c op.Call) (json.RawMessage, error) {
	var args step.BootArgs
	if err := json.Unmarshal(c.Step.Args, &args); err != nil {
		return nil, fmt.Errorf("read arguments of step %s: %w", c.Step.ID, err)
	}
	refs := make([]secret.Ref, len(args.Spec.Secrets))
	for i, ref := range args.Spec.Secrets {
		refs[i] = secret.Ref(ref)
	}
	values, err := s.secrets.ForInstance(ctx, s.db, c.Step.Instance, refs)
	if err != nil {
		return nil, err
	}
	if len(values) > 0 {
		if args.Secrets, err = secret.SealTo(c.SealTo, values); err != nil {
			return nil, err
		}
	}
	return json.Marshal(args)
}
