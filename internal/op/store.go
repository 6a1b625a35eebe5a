package op

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

type operationRow struct {
	bun.BaseModel `bun:"table:operations,alias:o"`
	ID            string `bun:",pk"`
	Kind          string
	Title         string
	Actor         string
	Plan          string
	Params        string
	Resume        string
	State         string
	Why           string
	Counts        db.JSON[Counts]
	Patience      int64
	CreatedAt     db.Time
	EndedAt       db.Time
	Rev           int64
	Seq           int64
	Owner         string
	LeaseUntil    db.Time
	Fence         int64
}

func (r operationRow) operation() Operation {
	return Operation{
		ID: r.ID, Kind: r.Kind, Title: r.Title, Actor: r.Actor, Plan: r.Plan, Params: json.RawMessage(r.Params), Resume: r.Resume,
		State: State(r.State), Why: r.Why, Counts: r.Counts.V, Patience: time.Duration(r.Patience),
		CreatedAt: r.CreatedAt.Time, EndedAt: r.EndedAt.Time, Seq: r.Seq,
	}
}

type stepRow struct {
	bun.BaseModel `bun:"table:operation_steps,alias:s"`
	Operation     string `bun:",pk"`
	ID            string `bun:",pk"`
	Pos           int64
	Node          string
	Placed        string
	Needs         db.JSON[[]string]
	OnFailure     bool
	Kind          string
	Instance      string
	Title         string
	Args          string
	State         string
	Attempt       int64
	Note          string
	DoneBytes     int64
	TotalBytes    int64
	Result        string
	Error         string
	ErrorKind     string
	Hint          string
	NotBefore     db.Time
	SentAt        db.Time
	StartedAt     db.Time
	EndedAt       db.Time
	UnknownAt     db.Time
	CancelAt      db.Time
	CancelWhy     string
	Rev           int64
}

func (r stepRow) step() Step {
	s := Step{
		ID: r.ID, Node: r.Node, Placed: r.Placed, Needs: r.Needs.V, OnFailure: r.OnFailure, Kind: step.Kind(r.Kind), Instance: r.Instance,
		Title: r.Title, State: step.State(r.State), Attempt: int(r.Attempt), Note: r.Note, DoneBytes: r.DoneBytes, TotalBytes: r.TotalBytes,
		Error: r.Error, ErrorKind: problem.Kind(r.ErrorKind), Hint: r.Hint, NotBefore: r.NotBefore.Time, SentAt: r.SentAt.Time,
		StartedAt: r.StartedAt.Time, EndedAt: r.EndedAt.Time, UnknownAt: r.UnknownAt.Time, CancelAt: r.CancelAt.Time, CancelWhy: r.CancelWhy,
	}
	if r.Args != "" {
		s.Args = json.RawMessage(r.Args)
	}
	if r.Result != "" {
		s.Result = json.RawMessage(r.Result)
	}
	return s
}

func rowOf(operation string, pos int, p step.Planned) stepRow {
	return stepRow{
		Operation: operation, ID: p.ID, Pos: int64(pos), Node: p.Node, Needs: db.Of(p.Needs), OnFailure: p.OnFailure, Kind: string(p.Step.Kind),
		Instance: p.Step.Instance, Title: p.Step.Note, Args: string(p.Step.Args), State: string(step.Waiting),
	}
}

type eventRow struct {
	bun.BaseModel `bun:"table:operation_events,alias:e"`
	ID            int64 `bun:",pk"`
	Operation     string
	Seq           int64
	At            db.Time
	Step          string
	Instance      string
	Kind          string
	Node          string
	Attempt       int64
	State         string
	Note          string
	DoneBytes     int64
	TotalBytes    int64
	Error         string
	Hint          string
}

func (r eventRow) event() Event {
	return Event{
		ID: r.ID, Operation: r.Operation, Seq: r.Seq, At: r.At.Time, Step: r.Step, Instance: r.Instance, Kind: step.Kind(r.Kind), Node: r.Node,
		Attempt: int(r.Attempt), State: r.State, Note: r.Note, DoneBytes: r.DoneBytes, TotalBytes: r.TotalBytes, Error: r.Error, Hint: r.Hint,
	}
}

// light are the columns of a step that deciding needs: not the arguments and results, which may be large.
var light = []string{ //nolint:gochecknoglobals // a table, never written
	"id", "pos", "node", "placed", "needs", "on_failure", "kind", "instance", "title", "state", "attempt", "note", "done_bytes", "total_bytes",
	"error", "error_kind", "hint", "not_before", "sent_at", "started_at", "ended_at", "unknown_at", "cancel_at", "cancel_why", "rev",
}

// lock takes the operation's row for this transaction and counts its revision up.
func lock(ctx context.Context, tx bun.IDB, id string) (operationRow, error) {
	var row operationRow
	err := tx.NewRaw("UPDATE operations SET rev = rev + 1 WHERE id = ? RETURNING *", id).Scan(ctx, &row)
	if errors.Is(err, sql.ErrNoRows) {
		return row, problem.New(problem.NotFound, "holdfast op list", "there is no operation %s", id)
	}
	if err != nil {
		return row, fmt.Errorf("lock operation %s: %w", id, err)
	}
	return row, nil
}

// writeStep stores the new form of a step, if it still stands at was and attempt.
func writeStep(ctx context.Context, tx bun.IDB, operation string, s Step, was step.State, attempt int, rev int64) (bool, error) {
	q := tx.NewUpdate().Table("operation_steps").
		Set("placed = ?", s.Placed).Set("state = ?", string(s.State)).Set("attempt = ?", s.Attempt).Set("note = ?", s.Note).
		Set("done_bytes = ?", s.DoneBytes).Set("total_bytes = ?", s.TotalBytes).
		Set("error = ?", s.Error).Set("error_kind = ?", string(s.ErrorKind)).Set("hint = ?", s.Hint).
		Set("not_before = ?", db.At(s.NotBefore)).Set("sent_at = ?", db.At(s.SentAt)).Set("started_at = ?", db.At(s.StartedAt)).
		Set("ended_at = ?", db.At(s.EndedAt)).Set("unknown_at = ?", db.At(s.UnknownAt)).
		Set("cancel_at = ?", db.At(s.CancelAt)).Set("cancel_why = ?", s.CancelWhy).Set("rev = ?", rev)
	if s.Result != nil {
		q = q.Set("result = ?", string(s.Result))
	}
	res, err := q.Where("operation = ? AND id = ? AND state = ? AND attempt = ?", operation, s.ID, string(was), attempt).Exec(ctx)
	if err != nil {
		return false, fmt.Errorf("write step %s of operation %s: %w", s.ID, operation, err)
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// appendEvents numbers events and stores them. It comes last in a transaction, with the operations' rows already
// locked: all writers then take the rows in one order.
func appendEvents(ctx context.Context, tx db.Tx, events []Event) error {
	if len(events) == 0 {
		return nil
	}
	n := int64(len(events))
	var id int64
	if err := tx.NewRaw("UPDATE operation_counter SET value = value + ? WHERE name = 'events' RETURNING value", n).Scan(ctx, &id); err != nil {
		return fmt.Errorf("number events: %w", err)
	}
	seqs, err := numbers(ctx, tx, events)
	if err != nil {
		return err
	}
	rows := make([]eventRow, n)
	for i, e := range events {
		seqs[e.Operation]++
		rows[i] = eventRow{
			ID: id - n + int64(i) + 1, Operation: e.Operation, Seq: seqs[e.Operation], At: db.At(tx.Now), Step: e.Step, Instance: e.Instance, Kind: string(e.Kind),
			Node: e.Node, Attempt: int64(e.Attempt), State: e.State, Note: e.Note, DoneBytes: e.DoneBytes, TotalBytes: e.TotalBytes, Error: e.Error, Hint: e.Hint,
		}
	}
	if _, err := tx.NewInsert().Model(&rows).Exec(ctx); err != nil {
		return fmt.Errorf("append events: %w", err)
	}
	return nil
}

// numbers makes room for the events in the sequence of each operation and returns the last number before them.
func numbers(ctx context.Context, tx db.Tx, events []Event) (map[string]int64, error) {
	count, before := map[string]int64{}, map[string]int64{}
	for _, e := range events {
		count[e.Operation]++
	}
	for _, id := range slices.Sorted(maps.Keys(count)) {
		var seq int64
		if err := tx.NewRaw("UPDATE operations SET seq = seq + ? WHERE id = ? RETURNING seq", count[id], id).Scan(ctx, &seq); err != nil {
			return nil, fmt.Errorf("number events of operation %s: %w", id, err)
		}
		before[id] = seq - count[id]
	}
	return before, nil
}

func eventOf(operation string, s Step) Event {
	return Event{
		Operation: operation, Step: s.ID, Instance: s.Instance, Kind: s.Kind, Node: s.Placed, Attempt: s.Attempt, State: string(s.State),
		Note: s.Note, DoneBytes: s.DoneBytes, TotalBytes: s.TotalBytes, Error: s.Error, Hint: s.Hint,
	}
}

// loadSteps reads the steps of an operation that changed after rev, without arguments and results.
func loadSteps(ctx context.Context, in bun.IDB, operation string, rev int64) ([]stepRow, error) {
	var rows []stepRow
	err := in.NewSelect().Model(&rows).Column(light...).Where("operation = ? AND rev > ?", operation, rev).OrderBy("pos", bun.OrderAsc).Scan(ctx)
	if err != nil {
		return nil, fmt.Errorf("load steps of operation %s: %w", operation, err)
	}
	return rows, nil
}

// loadSome reads some steps of an operation without arguments and results.
func loadSome(ctx context.Context, in bun.IDB, operation string, ids []string) (map[string]Step, error) {
	return byID(ctx, in.NewSelect().Column(light...), operation, ids)
}

// loadWhole reads some steps of an operation with arguments and results.
func loadWhole(ctx context.Context, in bun.IDB, operation string, ids []string) (map[string]Step, error) {
	return byID(ctx, in.NewSelect(), operation, ids)
}

func byID(ctx context.Context, q *bun.SelectQuery, operation string, ids []string) (map[string]Step, error) {
	var rows []stepRow
	if err := q.Model(&rows).Where("operation = ? AND id IN (?)", operation, bun.List(ids)).Scan(ctx); err != nil {
		return nil, fmt.Errorf("load steps of operation %s: %w", operation, err)
	}
	all := make(map[string]Step, len(rows))
	for _, r := range rows {
		all[r.ID] = r.step()
	}
	return all, nil
}
