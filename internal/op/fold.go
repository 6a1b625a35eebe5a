package op

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"

	"holdfast/internal/db"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// Ending is a step that has just ended done, for those who keep what it brought: the catalogue of snapshots, the
// secrets of a restored instance, the record of a proof. Step has its arguments and its result.
type Ending struct {
	Operation Operation
	Step      Step
	Node      string // who did it; "" for the server
}

// Folder applies what nodes tell about steps. Ended is called in the same transaction for each step of its kind that
// ended done, once; an error undoes the whole intake, so it must not be returned for what a node merely said wrong.
type Folder struct {
	Ended map[step.Kind]func(ctx context.Context, tx db.Tx, e Ending) error
	Log   *slog.Logger
}

// Fold applies updates of one node, in order. What says nothing new, or is about a step that is not the node's, changes
// nothing. It must be the last thing in its transaction that touches operations.
func (f Folder) Fold(ctx context.Context, tx db.Tx, node string, updates []step.Update) error {
	byOperation := map[string][]step.Update{}
	for _, u := range updates {
		byOperation[u.Operation] = append(byOperation[u.Operation], u)
	}
	var happened []Event
	for _, id := range slices.Sorted(maps.Keys(byOperation)) {
		events, err := f.foldOne(ctx, tx, node, id, byOperation[id])
		if err != nil {
			return err
		}
		happened = append(happened, events...)
	}
	return appendEvents(ctx, tx, happened)
}

func (f Folder) foldOne(ctx context.Context, tx db.Tx, node, id string, updates []step.Update) ([]Event, error) {
	row, err := lock(ctx, tx, id)
	if problem.KindOf(err) == problem.NotFound {
		f.Log.Warn("update for an operation that this server does not know", "node", node, "op", id)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	before, err := loadSome(ctx, tx, id, stepIDs(updates))
	if err != nil {
		return nil, err
	}
	after, happened := f.tell(row.operation(), node, before, updates, tx)
	for _, s := range after {
		if err := f.keep(ctx, tx, row, before[s.ID], s, node); err != nil {
			return nil, err
		}
	}
	return happened, nil
}

// tell applies updates to steps in memory: those that changed, in the order of their first change, and the events.
func (f Folder) tell(o Operation, node string, before map[string]Step, updates []step.Update, tx db.Tx) (changed []Step, happened []Event) {
	now := map[string]Step{}
	maps.Copy(now, before)
	var order []string
	for _, u := range updates {
		s, known := now[u.StepID]
		if !known || s.doer() != node {
			f.Log.Warn("update for a step that is not this node's", "node", node, "op", o.ID, "step", u.StepID)
			continue
		}
		next, news := told(o, s, u, tx.Now)
		if !news {
			continue
		}
		if !slices.Contains(order, s.ID) {
			order = append(order, s.ID)
		}
		now[s.ID] = next
		happened = append(happened, eventOf(o.ID, next))
	}
	for _, id := range order {
		changed = append(changed, now[id])
	}
	return changed, happened
}

// keep writes a changed step and, when it ended done, what follows from that.
func (f Folder) keep(ctx context.Context, tx db.Tx, row operationRow, before, s Step, node string) error {
	if _, err := writeStep(ctx, tx, row.ID, s, before.State, before.Attempt, row.Rev); err != nil {
		return err
	}
	ended := f.Ended[s.Kind]
	if s.State != step.Done || ended == nil && !slices.Contains([]step.Kind{step.Boot, step.Backup, step.Stop}, s.Kind) {
		return nil
	}
	whole, err := loadWhole(ctx, tx, row.ID, []string{s.ID})
	if err != nil {
		return err
	}
	s.Args = whole[s.ID].Args
	if err := record(ctx, tx, row.ID, s); err != nil || ended == nil {
		return err
	}
	if err := ended(ctx, tx, Ending{Operation: row.operation(), Step: s, Node: node}); err != nil {
		return fmt.Errorf("keep what step %s of operation %s brought: %w", s.ID, row.ID, err)
	}
	return nil
}

// record keeps what a done step says about where and what an instance is.
func record(ctx context.Context, tx db.Tx, operation string, s Step) error {
	switch s.Kind {
	case step.Boot:
		var args step.BootArgs
		if err := json.Unmarshal(s.Args, &args); err != nil {
			return fmt.Errorf("read arguments of step %s: %w", s.ID, err)
		}
		return applied(ctx, tx, s.Instance, s.Placed, args.Slot, args.Spec.Fingerprint, args.Spec.Release)
	case step.Backup:
		return named(ctx, tx, operation, s)
	case step.Stop:
		var args step.StopArgs
		if err := json.Unmarshal(s.Args, &args); err != nil {
			return fmt.Errorf("read arguments of step %s: %w", s.ID, err)
		}
		if args.Retire {
			return retired(ctx, tx, s.Instance, s.Placed)
		}
	default: // says nothing of the kind
	}
	return nil
}

// named writes the snapshot that a backup made into the steps of its operation that wait for it.
func named(ctx context.Context, tx db.Tx, operation string, s Step) error {
	var result step.BackupResult
	if json.Unmarshal(s.Result, &result) != nil || result.Snapshot == "" {
		return nil // what waits for it then finds no such snapshot; a word that cannot be read must not stop the others
	}
	_, err := tx.NewRaw("UPDATE operation_steps SET args = REPLACE(args, ?, ?) WHERE operation = ? AND instance = ? AND kind IN (?, ?)",
		strconv.Quote(step.SnapshotOf(s.ID)), strconv.Quote(result.Snapshot), operation, s.Instance, step.Release, step.Fetch).Exec(ctx)
	if err != nil {
		return fmt.Errorf("name the snapshot of step %s: %w", s.ID, err)
	}
	return nil
}

func stepIDs(updates []step.Update) []string {
	var ids []string
	for _, u := range updates {
		if !slices.Contains(ids, u.StepID) {
			ids = append(ids, u.StepID)
		}
	}
	return ids
}
