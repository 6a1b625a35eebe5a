package server

import (
	"context"
	"time"

	"holdfast/internal/access"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/op"
	"holdfast/internal/problem"
)

func (s *Server) operations() {
	handle(s, route{"GET", "/api/v1/operations", "list-operations", "list operations", access.Viewer}, s.listOperations)
	handle(s, route{"GET", "/api/v1/operations/{id}", "show-operation", "show an operation", access.Viewer}, func(ctx context.Context, in *byID) (op.Shown, error) {
		return op.Show(ctx, s.DB, in.ID)
	})
	handle(s, route{"GET", "/api/v1/operations/{id}/events", "operation-events", "watch an operation", access.Viewer}, s.operationEvents)
	handle(s, route{"POST", "/api/v1/operations/{id}/cancel", "cancel-operation", "cancel an operation", access.Operator}, s.cancelOperation)
}

type operationFilter struct {
	Open  bool   `query:"open"`
	Kind  string `query:"kind"`
	Limit int64  `query:"limit" default:"50" minimum:"1" maximum:"1000"`
}

func (s *Server) listOperations(ctx context.Context, in *operationFilter) ([]op.Operation, error) {
	return list(op.List(ctx, s.DB, in.Open, in.Kind, in.Limit))
}

type eventsAfter struct {
	ID    string `path:"id"`
	After int64  `query:"after"`
	Wait  string `query:"wait" default:"0s"`
}

const (
	mostEvents = 1000
	longestAsk = 30 * time.Second
	eventsRest = 50 * time.Millisecond // what happens within it comes in one answer
)

// operationEvents answers at once when there is something to tell or nothing to come, and else waits for the doorbell.
func (s *Server) operationEvents(ctx context.Context, in *eventsAfter) ([]op.Event, error) {
	wait, err := time.ParseDuration(in.Wait)
	if err != nil {
		return nil, problem.New(problem.Usage, "say it like 10s", "%q is not a length of time", in.Wait)
	}
	ctx, cancel := context.WithTimeout(ctx, min(wait, longestAsk))
	defer cancel()
	for {
		ring := s.DB.Doorbell.Wait()
		o, err := op.Get(context.WithoutCancel(ctx), s.DB, in.ID)
		if err != nil {
			return nil, err
		}
		if o.Seq > in.After || o.State.Ended() || ctx.Err() != nil {
			return list(op.EventsOf(context.WithoutCancel(ctx), s.DB, in.ID, in.After, mostEvents))
		}
		await(ctx, ring)
	}
}

// await waits for the ring, and then for what comes with it, but not longer than ctx.
func await(ctx context.Context, ring <-chan struct{}) {
	select {
	case <-ctx.Done():
		return
	case <-ring:
	case <-time.After(time.Second): // a missed ring costs this much
	}
	select {
	case <-ctx.Done():
	case <-time.After(eventsRest):
	}
}

func (s *Server) cancelOperation(ctx context.Context, in *byID) (o op.Operation, err error) {
	err = s.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		if err := s.Audit.Append(ctx, tx, audit.Entry{Verb: "cancel operation", Object: "operation/" + in.ID}); err != nil {
			return err
		}
		o, err = op.Cancel(ctx, tx, in.ID, access.From(ctx).Name)
		return err
	})
	return o, err
}
