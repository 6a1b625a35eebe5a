package backup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
	"holdfast/internal/problem"
)

type snapshotRow struct {
	bun.BaseModel `bun:"table:snapshots,alias:sn"`
	Instance      string `bun:",pk"`
	ID            string `bun:",pk"`
	Node          string
	Vault         string
	Release       string
	Spec          string
	Operation     string
	TakenAt       db.Time
	EndedAt       db.Time
	Bytes         int64
	Added         int64
	Files         int64
	CanaryFrom    int64
	CanaryTo      int64
	Epochs        db.JSON[[]string]
	Notes         db.JSON[[]string]
	ProofLevel    string
	ProofAt       db.Time
	PrunedAt      db.Time
}

func (r snapshotRow) snapshot(held map[epochKey]envelopeRow) Snapshot {
	s := Snapshot{
		ID: r.ID, Instance: r.Instance, Node: r.Node, Vault: r.Vault, Release: r.Release, Spec: r.Spec, Operation: r.Operation, TakenAt: r.TakenAt.Time,
		EndedAt: r.EndedAt.Time, Bytes: r.Bytes, AddedBytes: r.Added, Files: r.Files, CanaryFrom: r.CanaryFrom, CanaryTo: r.CanaryTo, Epochs: r.Epochs.V,
		Notes: r.Notes.V, Proof: Proof{ProofLevel(r.ProofLevel), r.ProofAt.Time}, PrunedAt: r.PrunedAt.Time,
		Custodian: len(r.Epochs.V) > 0, People: len(r.Epochs.V) > 0,
	}
	for _, epoch := range r.Epochs.V {
		e := held[epochKey{r.Instance, r.Vault, epoch}]
		s.Custodian = s.Custodian && len(e.Custodian) > 0
		s.People = s.People && len(e.People) > 0
	}
	return s
}

type epochKey struct{ instance, vault, epoch string }

type envelopeRow struct {
	bun.BaseModel `bun:"table:envelopes,alias:en"`
	Instance      string `bun:",pk"`
	Vault         string `bun:",pk"`
	Epoch         string `bun:",pk"`
	Custodian     db.Bytes
	People        db.Bytes
}

func (r envelopeRow) key() epochKey { return epochKey{r.Instance, r.Vault, r.Epoch} }

// putSnapshot adds a snapshot to the catalogue; one that is there already is let be.
func putSnapshot(ctx context.Context, tx db.Tx, row snapshotRow) error {
	if _, err := tx.NewInsert().Model(&row).On("CONFLICT (instance, id) DO NOTHING").Exec(ctx); err != nil {
		return fmt.Errorf("add snapshot %s of %s to the catalogue: %w", row.ID, row.Instance, err)
	}
	return nil
}

// putEnvelope keeps the newest envelopes of an epoch; an empty one does not replace one that is held.
func putEnvelope(ctx context.Context, tx db.Tx, row envelopeRow) error {
	_, err := tx.NewInsert().Model(&row).On("CONFLICT (instance, vault, epoch) DO UPDATE").
		Set("custodian = CASE WHEN excluded.custodian = '' THEN en.custodian ELSE excluded.custodian END").
		Set("people = CASE WHEN excluded.people = '' THEN en.people ELSE excluded.people END").Exec(ctx)
	if err != nil {
		return fmt.Errorf("keep envelope of epoch %s of %s: %w", row.Epoch, row.Instance, err)
	}
	return nil
}

func putWriterKey(ctx context.Context, tx db.Tx, instance, vault string, sealed []byte) error {
	_, err := tx.NewRaw(`INSERT INTO writer_keys (instance, vault, sealed, since) VALUES (?, ?, ?, ?)
		ON CONFLICT (instance, vault) DO UPDATE SET sealed = excluded.sealed, since = excluded.since`, instance, vault, db.Bytes(sealed), db.At(tx.Now)).Exec(ctx)
	if err != nil {
		return fmt.Errorf("keep writer key of %s: %w", instance, err)
	}
	return nil
}

// writerKey reads what a node needs to add to a repository, sealed to the server, and since when it is in use; nil when
// no backup was made yet.
func writerKey(ctx context.Context, in bun.IDB, instance, vault string) ([]byte, time.Time, error) {
	var sealed db.Bytes
	var since db.Time
	err := in.NewRaw("SELECT sealed, since FROM writer_keys WHERE instance = ? AND vault = ?", instance, vault).Scan(ctx, &sealed, &since)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, time.Time{}, fmt.Errorf("read writer key of %s: %w", instance, err)
	}
	return sealed, since.Time, nil
}

// envelopesOf reads the envelopes of instances; of all when none is named.
func envelopesOf(ctx context.Context, in bun.IDB, instances ...string) (map[epochKey]envelopeRow, error) {
	var rows []envelopeRow
	q := in.NewSelect().Model(&rows)
	if len(instances) > 0 {
		q = q.Where("instance IN (?)", bun.List(instances))
	}
	if err := q.Scan(ctx); err != nil {
		return nil, fmt.Errorf("read envelopes: %w", err)
	}
	held := make(map[epochKey]envelopeRow, len(rows))
	for _, r := range rows {
		held[r.key()] = r
	}
	return held, nil
}

// List reads the snapshots of an instance that its vault holds, newest first; those of all instances with "".
func List(ctx context.Context, in bun.IDB, instance string) ([]Snapshot, error) {
	if instance == "" {
		return list(ctx, in, in.NewSelect().Where("pruned_at = 0"))
	}
	return list(ctx, in, in.NewSelect().Where("instance = ? AND pruned_at = 0", instance), instance)
}

// Newest reads the newest snapshot of every instance.
func Newest(ctx context.Context, in bun.IDB) (map[string]Snapshot, error) {
	newest := in.NewSelect().Where(`pruned_at = 0 AND NOT EXISTS (SELECT 1 FROM snapshots later WHERE later.instance = sn.instance
		AND later.pruned_at = 0 AND (later.taken_at > sn.taken_at OR later.taken_at = sn.taken_at AND later.id > sn.id))`)
	all, err := list(ctx, in, newest)
	byInstance := make(map[string]Snapshot, len(all))
	for _, s := range all {
		byInstance[s.Instance] = s
	}
	return byInstance, err
}

func list(ctx context.Context, in bun.IDB, q *bun.SelectQuery, instances ...string) ([]Snapshot, error) {
	var rows []snapshotRow
	if err := q.Model(&rows).OrderBy("taken_at", bun.OrderDesc).OrderBy("id", bun.OrderAsc).Scan(ctx); err != nil {
		return nil, fmt.Errorf("read catalogue: %w", err)
	}
	held, err := envelopesOf(ctx, in, instances...)
	if err != nil {
		return nil, err
	}
	all := make([]Snapshot, len(rows))
	for i, r := range rows {
		all[i] = r.snapshot(held)
	}
	return all, nil
}

// Find reads one snapshot of an instance by its id or the beginning of it; "" is the newest.
func Find(ctx context.Context, in bun.IDB, instance, id string) (Snapshot, error) {
	all, err := List(ctx, in, instance)
	if err != nil {
		return Snapshot{}, err
	}
	if len(all) == 0 {
		return Snapshot{}, problem.New(problem.NotFound, "holdfast backup run instance/"+instance, "instance %s has no snapshot", instance)
	}
	if id == "" {
		return all[0], nil
	}
	var found []Snapshot
	for _, s := range all {
		if len(id) <= len(s.ID) && s.ID[:len(id)] == id {
			found = append(found, s)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	if len(found) > 1 {
		return Snapshot{}, problem.New(problem.Usage, "holdfast backup list instance/"+instance, "%d snapshots of instance %s begin with %s", len(found), instance, id)
	}
	return Snapshot{}, problem.New(problem.NotFound, "holdfast backup list instance/"+instance, "instance %s has no snapshot %s", instance, id)
}

// Pruned records that a vault let snapshots go.
func Pruned(ctx context.Context, tx db.Tx, instance string, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := tx.NewRaw("UPDATE snapshots SET pruned_at = ? WHERE instance = ? AND pruned_at = 0 AND id IN (?)", db.At(tx.Now), instance, bun.List(ids)).Exec(ctx)
	if err != nil {
		return fmt.Errorf("record pruned snapshots of %s: %w", instance, err)
	}
	return nil
}

// prove records that a snapshot was restored and checked.
func prove(ctx context.Context, tx db.Tx, instance, id string, level ProofLevel) error {
	_, err := tx.NewRaw("UPDATE snapshots SET proof_level = ?, proof_at = ? WHERE instance = ? AND id = ?", string(level), db.At(tx.Now), instance, id).Exec(ctx)
	if err != nil {
		return fmt.Errorf("record the proof of snapshot %s of %s: %w", id, instance, err)
	}
	return nil
}

// tried records that a backup of an instance was begun.
func tried(ctx context.Context, tx db.Tx, instance, operation string) error {
	return triedIn(ctx, tx, backupRuns, instance, operation)
}

// The tables of runs, which have the same columns.
const (
	backupRuns = "backup_runs"
	pruneRuns  = "prune_runs"
)

func triedIn(ctx context.Context, tx db.Tx, table, instance, operation string) error {
	_, err := tx.NewRaw(`INSERT INTO ? (instance, tried_at, done_at, operation) VALUES (?, ?, 0, ?)
		ON CONFLICT (instance) DO UPDATE SET tried_at = excluded.tried_at, operation = excluded.operation`, bun.Ident(table), instance, db.At(tx.Now), operation).Exec(ctx)
	if err != nil {
		return fmt.Errorf("record in %s that %s was tried: %w", table, instance, err)
	}
	return nil
}

// finished records that the backup of an instance that was begun last has worked.
func finished(ctx context.Context, tx db.Tx, instance, operation string) error {
	return finishedIn(ctx, tx, backupRuns, instance, operation)
}

func finishedIn(ctx context.Context, tx db.Tx, table, instance, operation string) error {
	_, err := tx.NewRaw("UPDATE ? SET done_at = tried_at WHERE instance = ? AND operation = ?", bun.Ident(table), instance, operation).Exec(ctx)
	if err != nil {
		return fmt.Errorf("record in %s that %s is done: %w", table, instance, err)
	}
	return nil
}

// ran records when the newest backup was begun of which only its vault knows.
func ran(ctx context.Context, tx db.Tx, instance string, at time.Time) error {
	if at.IsZero() {
		return nil
	}
	_, err := tx.NewRaw(`INSERT INTO backup_runs (instance, tried_at, done_at, operation) VALUES (?, ?, ?, '')
		ON CONFLICT (instance) DO NOTHING`, instance, db.At(at), db.At(at)).Exec(ctx)
	if err != nil {
		return fmt.Errorf("record the backup of %s: %w", instance, err)
	}
	return nil
}

type run struct{ TriedAt, DoneAt time.Time }

func runs(ctx context.Context, in bun.IDB, table string) (map[string]run, error) {
	var rows []struct {
		Instance        string
		TriedAt, DoneAt db.Time
	}
	if err := in.NewRaw("SELECT instance, tried_at, done_at FROM ?", bun.Ident(table)).Scan(ctx, &rows); err != nil {
		return nil, fmt.Errorf("read %s: %w", table, err)
	}
	all := make(map[string]run, len(rows))
	for _, r := range rows {
		all[r.Instance] = run{r.TriedAt.Time, r.DoneAt.Time}
	}
	return all, nil
}

type releaseRow struct {
	bun.BaseModel `bun:"table:releases,alias:re"`
	Operation     string `bun:",pk"`
	Step          string `bun:",pk"` // that may use it
	Instance      string
	Snapshot      string
	Node          string
	OrderID       string // the newest order it was used for
	At            db.Time
}

func putRelease(ctx context.Context, tx db.Tx, row releaseRow) error {
	if _, err := tx.NewInsert().Model(&row).Exec(ctx); err != nil {
		return fmt.Errorf("record a release for %s: %w", row.Instance, err)
	}
	return nil
}

// useRelease finds the release for a step and binds it to the order; first tells that this order uses it for the first
// time. Without one for exactly this step, snapshot and node there is nothing to open.
func useRelease(ctx context.Context, tx db.Tx, operation, step, order, snapshot, node string) (first bool, err error) {
	var row releaseRow
	err = tx.NewSelect().Model(&row).Where("operation = ? AND step = ?", operation, step).Scan(ctx)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return false, fmt.Errorf("read release for step %s: %w", step, err)
	}
	if err != nil || row.Snapshot != snapshot || row.Node != node {
		return false, problem.New(problem.Denied, "holdfast op show "+operation, "no identities were opened for step %s on node %s: nothing was released to it", step, node)
	}
	if row.OrderID == order {
		return false, nil
	}
	if _, err := tx.NewRaw("UPDATE releases SET order_id = ? WHERE operation = ? AND step = ?", order, operation, step).Exec(ctx); err != nil {
		return false, fmt.Errorf("bind release to order %s: %w", order, err)
	}
	return true, nil
}
