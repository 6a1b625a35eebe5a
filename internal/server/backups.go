package server

import (
	"context"
	"strings"

	"holdfast/internal/access"
	"holdfast/internal/api"
	"holdfast/internal/audit"
	"holdfast/internal/backup"
	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/observe"
	"holdfast/internal/op"
)

func (s *Server) backups() {
	handle(s, route{"POST", "/api/v1/backups", "run-backup", "back up", access.Operator}, s.runBackup)
	handle(s, route{"GET", "/api/v1/snapshots", "list-snapshots", "list snapshots", access.Viewer}, func(ctx context.Context, in *ofInstance) ([]backup.Snapshot, error) {
		return list(backup.List(ctx, s.DB, in.Instance))
	})
	handle(s, route{"GET", "/api/v1/sealed-snapshot", "sealed-snapshot", "open a snapshot with a recovery key", access.Operator}, s.sealedSnapshot)
	handle(s, route{"POST", "/api/v1/prunes", "prune", "prune backups", access.Operator}, s.prune)
	handle(s, route{"POST", "/api/v1/discards", "discard", "discard a copy beside", access.Operator}, s.discard)
	handle(s, route{"POST", "/api/v1/restores", "restore", "restore an instance", access.Operator}, s.restore)
}

type ofInstance struct {
	Instance string `query:"instance"`
}

func (s *Server) runBackup(ctx context.Context, in *body[api.NewBackup]) (o op.Operation, err error) {
	err = s.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		instances := in.Body.Instances
		if len(instances) == 0 {
			if instances, err = backup.All(ctx, tx); err != nil {
				return err
			}
		}
		object := "instance/" + strings.Join(instances, ",")
		if err := s.Audit.Append(ctx, tx, audit.Entry{Verb: "back up", Object: object}); err != nil {
			return err
		}
		o, err = backup.Begin(ctx, tx, access.From(ctx).Name, instances)
		return err
	})
	return o, err
}

func (s *Server) prune(ctx context.Context, in *body[api.NewPrune]) (o op.Operation, err error) {
	err = s.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		if err := s.Audit.Append(ctx, tx, audit.Entry{Verb: "prune backups", Object: "instance/" + in.Body.Instance}); err != nil {
			return err
		}
		o, err = backup.BeginPrune(ctx, tx, access.From(ctx).Name, in.Body.Instance)
		return err
	})
	return o, err
}

func (s *Server) discard(ctx context.Context, in *body[api.NewDiscard]) (o op.Operation, err error) {
	world, err := s.restoreWorld(ctx)
	if err != nil {
		return o, err
	}
	err = s.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		if err := s.Audit.Append(ctx, tx, audit.Entry{Verb: "discard a copy beside", Object: "instance/" + in.Body.Instance, Detail: in.Body}); err != nil {
			return err
		}
		o, err = backup.BeginDiscard(ctx, tx, access.From(ctx).Name, backup.Discard(in.Body), world)
		return err
	})
	return o, err
}

// restoreWorld is what a restore must know of the nodes.
func (s *Server) restoreWorld(ctx context.Context) (backup.World, error) {
	inventory, err := s.Observer.Inventory(ctx)
	if err != nil {
		return backup.World{}, err
	}
	rendered := func(instance string) (fleet.Spec, error) {
		declared, err := s.Declared.Fleet(ctx, s.DB)
		if err != nil {
			return fleet.Spec{}, err
		}
		return fleet.Render(declared, instance)
	}
	return backup.World{Nodes: inventory.Nodes, Rendered: rendered, Reachable: func(node string) bool {
		return s.DB.Now().Sub(inventory.Nodes[node].SeenAt) <= observe.Silent
	}}, nil
}

type sealedFor struct {
	Instance string `query:"instance"`
	Snapshot string `query:"snapshot"`
	Node     string `query:"node"`
}

func (s *Server) sealedSnapshot(ctx context.Context, in *sealedFor) (sealed backup.Sealed, err error) {
	world, err := s.restoreWorld(ctx)
	if err != nil {
		return sealed, err
	}
	err = s.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		snapshot, node, err := backup.Choose(ctx, tx, backup.Ask{Instance: in.Instance, Snapshot: in.Snapshot, Node: in.Node}, world)
		if err != nil {
			return err
		}
		if sealed, err = backup.ForPeople(ctx, tx, snapshot, node, world.Nodes[node].SealTo); err != nil {
			return err
		}
		detail := map[string]string{"snapshot": snapshot.ID, "node": node}
		return s.Audit.Append(ctx, tx, audit.Entry{Verb: "give out envelopes", Object: "instance/" + in.Instance, Detail: detail})
	})
	return sealed, err
}

func (s *Server) restore(ctx context.Context, in *body[api.NewRestore]) (o op.Operation, err error) {
	world, err := s.restoreWorld(ctx)
	if err != nil {
		return o, err
	}
	ask := backup.Ask{
		Instance: in.Body.Instance, Snapshot: in.Body.Snapshot, Node: in.Body.Node, Beside: in.Body.Beside, Release: backup.Release(in.Body.Release), Identities: in.Body.Identities,
	}
	detail := map[string]any{"snapshot": ask.Snapshot, "node": ask.Node, "beside": ask.Beside, "release": ask.Release, "recovery_key": len(ask.Identities) > 0}
	err = s.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		if err := s.Audit.Append(ctx, tx, audit.Entry{Verb: "restore", Object: "instance/" + ask.Instance, Detail: detail}); err != nil {
			return err
		}
		o, err = backup.BeginRestore(ctx, tx, access.From(ctx).Name, ask, world)
		return err
	})
	return o, err
}
