package op

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// Get reads one operation.
func Get(ctx context.Context, in bun.IDB, id string) (Operation, error) {
	var row operationRow
	err := in.NewSelect().Model(&row).Where("id = ?", id).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return Operation{}, problem.New(problem.NotFound, "holdfast op list", "there is no operation %s", id)
	}
	if err != nil {
		return Operation{}, fmt.Errorf("read operation %s: %w", id, err)
	}
	return row.operation(), nil
}

// List reads operations, newest first; open limits it to those that have not ended, kind to one kind.
func List(ctx context.Context, in bun.IDB, open bool, kind string, limit int64) ([]Operation, error) {
	var rows []operationRow
	q := in.NewSelect().Model(&rows).OrderBy("created_at", bun.OrderDesc).OrderBy("id", bun.OrderAsc).Limit(limit)
	if open {
		q = q.Where("ended_at = 0")
	}
	if kind != "" {
		q = q.Where("kind = ?", kind)
	}
	if err := q.Scan(ctx); err != nil {
		return nil, fmt.Errorf("list operations: %w", err)
	}
	all := make([]Operation, len(rows))
	for i, r := range rows {
		all[i] = r.operation()
	}
	return all, nil
}

// ListOf reads the newest operations that have a step for the instance.
func ListOf(ctx context.Context, in bun.IDB, instance string, limit int64) ([]Operation, error) {
	var rows []operationRow
	err := in.NewSelect().Model(&rows).Where("id IN (SELECT operation FROM operation_steps WHERE instance = ?)", instance).
		OrderBy("created_at", bun.OrderDesc).OrderBy("id", bun.OrderAsc).Limit(limit).Scan(ctx)
	if err != nil {
		return nil, fmt.Errorf("list operations of %s: %w", instance, err)
	}
	all := make([]Operation, len(rows))
	for i, r := range rows {
		all[i] = r.operation()
	}
	return all, nil
}

// Shown is an operation with its steps, in graph order, as of Operation.Seq.
type Shown struct {
	Operation Operation `json:"operation"`
	Steps     []Step    `json:"steps"`
}

// Show reads an operation and all its steps at one moment.
func Show(ctx context.Context, d *db.DB, id string) (Shown, error) {
	var out Shown
	err := d.RunInTx(ctx, &sql.TxOptions{ReadOnly: true}, func(ctx context.Context, tx bun.Tx) error {
		o, err := Get(ctx, tx, id)
		if err != nil {
			return err
		}
		rows, err := loadSteps(ctx, tx, id, -1)
		if err != nil {
			return err
		}
		out = Shown{Operation: o, Steps: make([]Step, len(rows))}
		for i, r := range rows {
			out.Steps[i] = r.step()
		}
		if !o.State.Ended() {
			out.Operation.Counts = Count(out.Steps)
		}
		return nil
	})
	return out, err
}

// Whole reads the steps of an operation with their arguments and results, by id; for those who compute from them.
func Whole(ctx context.Context, in bun.IDB, id string) (map[string]Step, error) {
	return wholeWhere(ctx, in.NewSelect().Where("operation = ?", id))
}

// WholeOf reads the steps of an operation that are about one instance.
func WholeOf(ctx context.Context, in bun.IDB, id, instance string) (map[string]Step, error) {
	return wholeWhere(ctx, in.NewSelect().Where("operation = ? AND instance = ?", id, instance))
}

func wholeWhere(ctx context.Context, q *bun.SelectQuery) (map[string]Step, error) {
	var rows []stepRow
	if err := q.Model(&rows).Scan(ctx); err != nil {
		return nil, fmt.Errorf("read steps of an operation: %w", err)
	}
	all := make(map[string]Step, len(rows))
	for _, r := range rows {
		all[r.ID] = r.step()
	}
	return all, nil
}

// Events reads what happened in all operations after the event with the number after, oldest first.
func Events(ctx context.Context, in bun.IDB, after int64, limit int64) ([]Event, error) {
	return events(ctx, in.NewSelect().Where("id > ?", after).OrderBy("id", bun.OrderAsc).Limit(limit))
}

// EventsOf reads what happened in one operation after the sequence number after, oldest first.
func EventsOf(ctx context.Context, in bun.IDB, id string, after int64, limit int64) ([]Event, error) {
	return events(ctx, in.NewSelect().Where("operation = ? AND seq > ?", id, after).OrderBy("seq", bun.OrderAsc).Limit(limit))
}

func events(ctx context.Context, q *bun.SelectQuery) ([]Event, error) {
	var rows []eventRow
	if err := q.Model(&rows).Scan(ctx); err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	all := make([]Event, len(rows))
	for i, r := range rows {
		all[i] = r.event()
	}
	return all, nil
}

// Cancel asks an operation to stop: what has not begun never will, what runs is asked to stop, and then it ends as
// cancelled with every step in a named state. Asking twice, or after the end, changes nothing.
func Cancel(ctx context.Context, tx db.Tx, id, actor string) (Operation, error) {
	row, err := lock(ctx, tx, id)
	if err != nil {
		return Operation{}, err
	}
	if State(row.State) != Running {
		return row.operation(), nil
	}
	row.State, row.Why = string(Cancelling), "by "+actor
	_, err = tx.NewRaw("UPDATE operations SET state = ?, why = ? WHERE id = ?", row.State, row.Why, id).Exec(ctx)
	if err != nil {
		return Operation{}, fmt.Errorf("cancel operation %s: %w", id, err)
	}
	return row.operation(), appendEvents(ctx, tx, []Event{{Operation: id, State: row.State, Note: row.Why}})
}

// Pending is a step of an open operation that has not been settled.
type Pending struct {
	Operation string
	Step      string
	Instance  string
	Node      string // as planned: "@claim:ID" where a claim decides
}

// Unsettled lists the steps of a kind that open operations have yet to bring to an end.
func Unsettled(ctx context.Context, in bun.IDB, kind step.Kind) ([]Pending, error) {
	var rows []Pending
	err := in.NewRaw(`SELECT s.operation AS operation, s.id AS step, s.instance AS instance, s.node AS node
		FROM operation_steps s JOIN operations o ON o.id = s.operation
		WHERE o.ended_at = 0 AND s.kind = ? AND s.ended_at = 0 ORDER BY s.operation, s.pos`, string(kind)).Scan(ctx, &rows)
	if err != nil {
		return nil, fmt.Errorf("list steps of kind %s that are not through: %w", kind, err)
	}
	return rows, nil
}
