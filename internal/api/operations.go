package api

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/op"
)

// NewBackup asks for backups now.
type NewBackup struct {
	Instances []string `json:"instances" doc:"names; empty: every instance that runs and names a vault"`
}

// NewRestore asks for a restore of one instance.
type NewRestore struct {
	Instance   string `json:"instance"`
	Snapshot   string `json:"snapshot,omitempty" doc:"id or the beginning of it; empty: the newest"`
	Node       string `json:"node,omitempty" doc:"empty: where the instance is placed"`
	Beside     bool   `json:"beside,omitempty" doc:"leave it beside what serves, and do not switch"`
	Release    string `json:"release,omitempty" enum:"snapshot,current" doc:"what to start on the data; empty: the snapshot's own release where it differs from the current one"`
	Identities []byte `json:"identities,omitempty" doc:"from a recovery key, sealed to the node; empty: the custodian opens the snapshot"`
}

// Operations lists operations, newest first; open: only those that have not ended; kind "" = all kinds.
func (c *Client) Operations(ctx context.Context, open bool, kind string, limit int) ([]op.Operation, error) {
	query := url.Values{"open": {strconv.FormatBool(open)}, "kind": {kind}, "limit": {strconv.Itoa(limit)}}
	return get[[]op.Operation](ctx, c, "/api/v1/operations", query)
}

// Operation reads an operation and its steps.
func (c *Client) Operation(ctx context.Context, id string) (op.Shown, error) {
	return get[op.Shown](ctx, c, "/api/v1/operations/"+url.PathEscape(id), nil)
}

// OperationEvents reads what happened in an operation after the sequence number after, oldest first. While there is
// nothing and the operation goes on, the server waits up to wait (at most 30 s) before it answers with nothing.
func (c *Client) OperationEvents(ctx context.Context, id string, after int64, wait time.Duration) ([]op.Event, error) {
	query := url.Values{"after": {strconv.FormatInt(after, 10)}, "wait": {wait.String()}}
	return get[[]op.Event](ctx, c, "/api/v1/operations/"+url.PathEscape(id)+"/events", query)
}

// CancelOperation asks an operation to stop.
func (c *Client) CancelOperation(ctx context.Context, id string) (op.Operation, error) {
	return post[op.Operation](ctx, c, "/api/v1/operations/"+url.PathEscape(id)+"/cancel", nil)
}

// RunBackup begins backups.
func (c *Client) RunBackup(ctx context.Context, b NewBackup) (op.Operation, error) {
	return post[op.Operation](ctx, c, "/api/v1/backups", b)
}

// PruneBackups begins to let old snapshots of one instance go.
func (c *Client) PruneBackups(ctx context.Context, instance string) (op.Operation, error) {
	return post[op.Operation](ctx, c, "/api/v1/prunes", NewPrune{instance})
}

// NewPrune asks that old snapshots of one instance are let go.
type NewPrune struct {
	Instance string `json:"instance"`
}

// NewDiscard asks that a restored copy beside what serves is removed.
type NewDiscard struct {
	Instance string `json:"instance"`
	Slot     string `json:"slot"`
	Node     string `json:"node,omitempty" doc:"empty: the one that holds it"`
}

// DiscardBeside begins to remove a restored copy that does not serve.
func (c *Client) DiscardBeside(ctx context.Context, d NewDiscard) (op.Operation, error) {
	return post[op.Operation](ctx, c, "/api/v1/discards", d)
}

// Snapshots lists what there is to return to, newest first; of one instance, or of all with "".
func (c *Client) Snapshots(ctx context.Context, instance string) ([]backup.Snapshot, error) {
	return get[[]backup.Snapshot](ctx, c, "/api/v1/snapshots", url.Values{"instance": {instance}})
}

// SealedSnapshot reads the envelopes that a recovery key opens, and for which node what they hold is to be sealed.
func (c *Client) SealedSnapshot(ctx context.Context, r NewRestore) (backup.Sealed, error) {
	query := url.Values{"instance": {r.Instance}, "snapshot": {r.Snapshot}, "node": {r.Node}}
	return get[backup.Sealed](ctx, c, "/api/v1/sealed-snapshot", query)
}

// Restore begins a restore.
func (c *Client) Restore(ctx context.Context, r NewRestore) (op.Operation, error) {
	return post[op.Operation](ctx, c, "/api/v1/restores", r)
}
