package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"holdfast/internal/access"
	"holdfast/internal/api"
	"holdfast/internal/op"
)

// streams answers browsers and programs that follow an operation as server-sent events.
func (s *Server) streams() {
	huma.Register(s.api, huma.Operation{
		Method: http.MethodGet, Path: "/api/v1/operations/{id}/stream", OperationID: "follow-operation", Summary: "follow an operation",
		Description: "Server-sent events, one for each thing that happens, from after the sequence number given. Takes the role viewer.",
	}, s.follow)
}

type followQuery struct {
	ID    string `path:"id"`
	After int64  `query:"after" minimum:"0" doc:"sequence number of the last event that is known"`
	Last  int64  `header:"Last-Event-ID" doc:"the same, as browsers give it"`
}

// follow streams an operation's events until it has ended or the caller has gone.
func (s *Server) follow(ctx context.Context, in *followQuery) (*huma.StreamResponse, error) {
	if err := access.From(ctx).May(access.Viewer, "follow an operation"); err != nil {
		return nil, api.ToProblem(err)
	}
	if _, err := op.Get(ctx, s.DB, in.ID); err != nil {
		return nil, api.ToProblem(err)
	}
	return &huma.StreamResponse{Body: func(out huma.Context) {
		out.SetHeader("Content-Type", "text/event-stream")
		out.SetHeader("Cache-Control", "no-store")
		if err := s.stream(out.Context(), out.BodyWriter(), in.ID, max(in.After, in.Last)); err != nil {
			s.Log.Debug("event stream ended", "op", in.ID, "err", err)
		}
	}}, nil
}

const (
	eventsAtOnce = 500
	eventsPoll   = time.Second      // what a missed ring costs
	keepAlive    = 15 * time.Second // proxies cut streams on which nothing moves
)

// stream writes events after the sequence number after as they come.
func (s *Server) stream(ctx context.Context, w io.Writer, id string, after int64) error {
	quiet := time.Now()
	for {
		ring := s.DB.Doorbell.Wait()
		events, err := op.EventsOf(ctx, s.DB, id, after, eventsAtOnce)
		if err != nil {
			return err
		}
		if len(events) > 0 || time.Since(quiet) > keepAlive {
			if err := writeEvents(w, events); err != nil {
				return err
			}
			quiet = time.Now()
		}
		for _, event := range events {
			after = event.Seq
			if event.Step == "" && op.State(event.State).Ended() {
				return nil
			}
		}
		if len(events) == eventsAtOnce {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ring:
		case <-time.After(eventsPoll):
		}
	}
}

// writeEvents writes events, or a comment that keeps the stream open when there are none.
func writeEvents(w io.Writer, events []op.Event) error {
	if len(events) == 0 {
		if _, err := io.WriteString(w, ": still here\n\n"); err != nil {
			return err
		}
	}
	for _, event := range events {
		data, err := json.Marshal(event)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "id: %d\ndata: %s\n\n", event.Seq, data); err != nil {
			return err
		}
	}
	if flusher, ok := w.(http.Flusher); ok {
		flusher.Flush()
	}
	return nil
}
