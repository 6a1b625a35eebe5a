package backup

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"holdfast/internal/db"
	"holdfast/internal/op"
	"holdfast/internal/step"
)

// Catalogue keeps what backups and restores bring. Its methods of the form op wants are given to op.Folder by app.
type Catalogue struct {
	// KeepSecrets takes the secrets that came with a snapshot, sealed to the server, so that an instance can be booted
	// by a server that never knew them.
	KeepSecrets func(ctx context.Context, tx db.Tx, instance string, sealed []byte) error
	Log         *slog.Logger // nil = slog.Default
}

// unread notes a result that makes no sense. The step stays done and the catalogue without it: an error would undo all
// that the node reports, now and whenever it tries again.
func (c Catalogue) unread(e op.Ending, err error) error {
	log := c.Log
	if log == nil {
		log = slog.Default()
	}
	log.Error("result of a step was not understood", "op", e.Operation.ID, "step", e.Step.ID, "node", e.Node, "err", err)
	return nil
}

// BackedUp adds a finished backup to the catalogue, with the envelopes and the writer key that came with it.
func (c Catalogue) BackedUp(ctx context.Context, tx db.Tx, e op.Ending) error {
	var args step.BackupArgs
	var result step.BackupResult
	if err := decode(e, &args, &result); err != nil || result.Snapshot == "" {
		return c.unread(e, err)
	}
	row, vault := rowOf(e, args, result), args.Spec.Backup.Vault
	if err := putSnapshot(ctx, tx, row); err != nil {
		return err
	}
	for _, epoch := range row.Epochs.V {
		envelope := envelopeRow{Instance: row.Instance, Vault: vault, Epoch: epoch, Custodian: result.Envelopes[epoch], People: result.Recovery[epoch]}
		if err := putEnvelope(ctx, tx, envelope); err != nil {
			return err
		}
	}
	if len(result.WriterKey) > 0 {
		if err := putWriterKey(ctx, tx, row.Instance, vault, result.WriterKey); err != nil {
			return err
		}
	}
	return finished(ctx, tx, row.Instance, e.Operation.ID)
}

func rowOf(e op.Ending, args step.BackupArgs, r step.BackupResult) snapshotRow {
	epochs := map[string]bool{}
	for epoch := range r.Envelopes {
		epochs[epoch] = true
	}
	for epoch := range r.Recovery {
		epochs[epoch] = true
	}
	return snapshotRow{
		Instance: e.Step.Instance, ID: r.Snapshot, Node: e.Node, Vault: args.Spec.Backup.Vault, Release: r.Release, Spec: args.Spec.Fingerprint,
		Operation: e.Operation.ID, TakenAt: db.At(r.TakenAt), EndedAt: db.At(r.EndedAt), Bytes: r.Bytes, Added: r.AddedBytes, Files: r.Files,
		CanaryFrom: r.CanaryFrom, CanaryTo: r.CanaryTo, Epochs: db.Of(slices.Sorted(maps.Keys(epochs))), Notes: db.Of(r.Notes),
	}
}

// Fetched keeps the secrets that a snapshot brought.
func (c Catalogue) Fetched(ctx context.Context, tx db.Tx, e op.Ending) error {
	var args step.FetchArgs
	var result step.FetchResult
	if err := decode(e, &args, &result); err != nil {
		return c.unread(e, err)
	}
	if len(result.Secrets) == 0 || c.KeepSecrets == nil {
		return nil
	}
	return c.KeepSecrets(ctx, tx, e.Step.Instance, result.Secrets)
}

// Checked records a proof when the slot that was checked holds a restored snapshot and every check held.
func (c Catalogue) Checked(ctx context.Context, tx db.Tx, e op.Ending) error {
	var args step.SlotArgs
	var result step.ChecksResult
	if err := decode(e, &args, &result); err != nil {
		return c.unread(e, err)
	}
	if result.Required == 0 || result.Passed < result.Required {
		return nil
	}
	steps, err := op.WholeOf(ctx, tx, e.Operation.ID, e.Step.Instance)
	if err != nil {
		return err
	}
	for _, s := range steps {
		var fetch step.FetchArgs
		if s.Kind != step.Fetch || s.State != step.Done || s.Instance != e.Step.Instance || json.Unmarshal(s.Args, &fetch) != nil || fetch.Slot != args.Slot {
			continue
		}
		if err := prove(ctx, tx, s.Instance, fetch.Snapshot, Restored); err != nil {
			return err
		}
	}
	return nil
}

// AdoptRepository adds to the catalogue what a vault's survey says of one repository, and gives how many snapshots are in
// it. What the server knows already is let be; release and canary of what it did not know are in the snapshot itself,
// sealed.
func AdoptRepository(ctx context.Context, tx db.Tx, vault string, found step.SurveyedRepository) (int, error) {
	newest := time.Time{}
	for _, s := range found.Snapshots {
		row := snapshotRow{
			Instance: found.Instance, ID: s.ID, Vault: vault, TakenAt: db.At(s.TakenAt), EndedAt: db.At(s.EndedAt),
			Bytes: s.Bytes, Added: s.AddedBytes, Files: s.Files, Epochs: db.Of(slices.Sorted(slices.Values(s.Epochs))), Notes: db.Of([]string(nil)),
		}
		if !s.ProvenAt.IsZero() {
			row.ProofLevel, row.ProofAt = string(Restored), db.At(s.ProvenAt)
		}
		if err := putSnapshot(ctx, tx, row); err != nil {
			return 0, err
		}
		if s.TakenAt.After(newest) {
			newest = s.TakenAt
		}
	}
	for _, e := range found.Envelopes {
		row := envelopeRow{Instance: found.Instance, Vault: vault, Epoch: e.Epoch, Custodian: e.Custodian, People: e.People}
		if err := putEnvelope(ctx, tx, row); err != nil {
			return 0, err
		}
	}
	return len(found.Snapshots), ran(ctx, tx, found.Instance, newest)
}

// Ended gives what op.Folder calls for each kind of step.
func (c Catalogue) Ended() map[step.Kind]func(context.Context, db.Tx, op.Ending) error {
	return map[step.Kind]func(context.Context, db.Tx, op.Ending) error{step.Backup: c.BackedUp, step.Fetch: c.Fetched, step.Checks: c.Checked, step.Prune: c.PrunedBack}
}

func decode(e op.Ending, args, result any) error {
	if err := json.Unmarshal(e.Step.Args, args); err != nil {
		return fmt.Errorf("read arguments of step %s: %w", e.Step.ID, err)
	}
	if err := json.Unmarshal(e.Step.Result, result); err != nil {
		return fmt.Errorf("read result of step %s from node %s: %w", e.Step.ID, e.Node, err)
	}
	return nil
}
