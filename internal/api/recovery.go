package api

import (
	"context"
	"net/http"
	"net/url"

	"holdfast/internal/recovery"
)

// NewDrill asks for a drill, or for a recovery: the same plan for the real thing.
type NewDrill struct {
	Kind  recovery.Kind `json:"kind" enum:"drill,recovery"`
	Plan  string        `json:"plan"`
	Fault string        `json:"fault,omitempty" doc:"drill: cut, kill or stop, instead of the plan's own"`
	For   string        `json:"for,omitempty" doc:"drill: after how long the fault ends by itself, such as 10m"`
	Force bool          `json:"force,omitempty" doc:"recovery: go on although findings say that some of it would fail"`
}

// Drill is a drill or a recovery with what happened to it.
type Drill struct {
	recovery.Run
	Events    []recovery.Event `json:"events"`
	Recovered int              `json:"recovered"` // instances whose steps are all done
}

// NewCounts adds what somebody counted in the restored data.
type NewCounts struct {
	DocumentsExpected *int64 `json:"documents_expected,omitempty"`
	DocumentsFound    *int64 `json:"documents_found,omitempty"`
	FilesExpected     *int64 `json:"files_expected,omitempty"`
	FilesFound        *int64 `json:"files_found,omitempty"`
}

// DraftDrill holds a plan against the world as it is now: who would go where, and what would fail.
func (c *Client) DraftDrill(ctx context.Context, order NewDrill) (recovery.Draft, error) {
	return post[recovery.Draft](ctx, c, "/api/v1/drills/draft", order)
}

// StartDrill begins a drill or a recovery.
func (c *Client) StartDrill(ctx context.Context, order NewDrill) (Drill, error) {
	return post[Drill](ctx, c, "/api/v1/drills", order)
}

// Drills lists drills and recoveries, newest first, without their events.
func (c *Client) Drills(ctx context.Context) ([]recovery.Run, error) {
	return get[[]recovery.Run](ctx, c, "/api/v1/drills", nil)
}

// Drill shows one drill or recovery.
func (c *Client) Drill(ctx context.Context, id string) (Drill, error) {
	return get[Drill](ctx, c, "/api/v1/drills/"+url.PathEscape(id), nil)
}

// AbortDrill ends a drill early: its fault is ended on every node.
func (c *Client) AbortDrill(ctx context.Context, id string) (Drill, error) {
	return post[Drill](ctx, c, "/api/v1/drills/"+url.PathEscape(id)+"/abort", struct{}{})
}

// CountDrill adds counts to a drill or a recovery.
func (c *Client) CountDrill(ctx context.Context, id string, counts NewCounts) (Drill, error) {
	return call[Drill](ctx, c, http.MethodPost, "/api/v1/drills/"+url.PathEscape(id)+"/counts", nil, counts)
}

// Scorecard computes the scorecard from the events that there are now.
func (c *Client) Scorecard(ctx context.Context, id string) (recovery.Scorecard, error) {
	return get[recovery.Scorecard](ctx, c, "/api/v1/drills/"+url.PathEscape(id)+"/scorecard", nil)
}
