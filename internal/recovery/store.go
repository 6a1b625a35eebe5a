package recovery

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
	"holdfast/internal/problem"
)

type drillRow struct {
	bun.BaseModel `bun:"table:drills,alias:d"`
	ID            string `bun:",pk"`
	Kind          string
	Plan          string
	Phase         string
	Run           db.JSON[Run]
	Scorecard     db.JSON[*Scorecard]
	Rev           int64
	StartedAt     db.Time
	EndedAt       db.Time
}

func rowOf(r Run, rev int64) drillRow {
	return drillRow{
		ID: r.ID, Kind: string(r.Kind), Plan: r.Plan.Name, Phase: string(r.Phase), Run: db.Of(r), Scorecard: db.Of[*Scorecard](nil),
		Rev: rev, StartedAt: db.At(r.StartedAt), EndedAt: db.At(r.EndedAt),
	}
}

type eventRow struct {
	bun.BaseModel `bun:"table:drill_events,alias:e"`
	Drill         string `bun:",pk"`
	Seq           int64  `bun:",pk"`
	At            db.Time
	Kind          string
	Node          string
	Note          string
	Counts        db.JSON[*Counts]
}

// errMoved says that somebody else moved the run meanwhile; the next look sees how.
var errMoved = errors.New("the run was moved by somebody else")

// newID is a name that a person can type: 8 characters, 40 random bits.
func newID() string { return strings.ToLower(rand.Text()[:8]) }

func insertRun(ctx context.Context, tx db.Tx, r Run) error {
	row := rowOf(r, 1)
	if _, err := tx.NewInsert().Model(&row).Exec(ctx); err != nil {
		return fmt.Errorf("write run %s: %w", r.ID, err)
	}
	return nil
}

// updateRun writes the run if its row is still at rev.
func updateRun(ctx context.Context, tx db.Tx, r Run, rev int64) error {
	row := rowOf(r, rev+1)
	result, err := tx.NewUpdate().Model(&row).Column("phase", "run", "rev", "ended_at").Where("id = ? AND rev = ?", r.ID, rev).Exec(ctx)
	if err != nil {
		return fmt.Errorf("write run %s: %w", r.ID, err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return errors.Join(errMoved, err)
	}
	return nil
}

// appendEvents adds events behind those that the run has. The caller has moved the run in the same transaction, so
// nobody else appends meanwhile.
func appendEvents(ctx context.Context, tx db.Tx, id string, events []Event) error {
	if len(events) == 0 {
		return nil
	}
	var last int64
	if err := tx.NewRaw("SELECT COALESCE(MAX(seq), 0) FROM drill_events WHERE drill = ?", id).Scan(ctx, &last); err != nil {
		return fmt.Errorf("read events of run %s: %w", id, err)
	}
	rows := make([]eventRow, len(events))
	for i, e := range events {
		rows[i] = eventRow{Drill: id, Seq: last + int64(i) + 1, At: db.At(e.At), Kind: string(e.Kind), Node: e.Node, Note: e.Note, Counts: db.Of(e.Counts)}
	}
	if _, err := tx.NewInsert().Model(&rows).Exec(ctx); err != nil {
		return fmt.Errorf("write events of run %s: %w", id, err)
	}
	return nil
}

// Events reads what happened to a run, oldest first.
func Events(ctx context.Context, in bun.IDB, id string) ([]Event, error) {
	var rows []eventRow
	if err := in.NewSelect().Model(&rows).Where("drill = ?", id).OrderBy("seq", bun.OrderAsc).Scan(ctx); err != nil {
		return nil, fmt.Errorf("read events of run %s: %w", id, err)
	}
	events := make([]Event, len(rows))
	for i, r := range rows {
		events[i] = Event{At: r.At.Time, Kind: EventKind(r.Kind), Node: r.Node, Note: r.Note, Counts: r.Counts.V}
	}
	return events, nil
}

// Get reads one run.
func Get(ctx context.Context, in bun.IDB, id string) (Run, error) {
	row, err := load(ctx, in, id)
	return row.Run.V, err
}

func load(ctx context.Context, in bun.IDB, id string) (drillRow, error) {
	var row drillRow
	err := in.NewSelect().Model(&row).Where("id = ?", id).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return row, problem.New(problem.NotFound, "holdfast drill list", "there is no drill or recovery %s", id)
	}
	if err != nil {
		return row, fmt.Errorf("read run %s: %w", id, err)
	}
	return row, nil
}

// List reads runs, newest first; open limits it to those that have not ended.
func List(ctx context.Context, in bun.IDB, open bool, limit int64) ([]Run, error) {
	var rows []drillRow
	q := in.NewSelect().Model(&rows).OrderBy("started_at", bun.OrderDesc).OrderBy("id", bun.OrderAsc).Limit(limit)
	if open {
		q = q.Where("ended_at = 0")
	}
	if err := q.Scan(ctx); err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	runs := make([]Run, len(rows))
	for i, r := range rows {
		runs[i] = r.Run.V
	}
	return runs, nil
}

// keepScorecard stores what the run measured when it ended, so that it outlives the events it was computed from.
func keepScorecard(ctx context.Context, tx db.Tx, id string, card Scorecard) error {
	row := drillRow{ID: id, Scorecard: db.Of(&card)}
	if _, err := tx.NewUpdate().Model(&row).Column("scorecard").WherePK().Exec(ctx); err != nil {
		return fmt.Errorf("keep scorecard of run %s: %w", id, err)
	}
	return nil
}

// past reads how long the newest measured restore of every instance took, from the kept scorecards.
func past(ctx context.Context, in bun.IDB) (map[string]time.Duration, error) {
	var rows []drillRow
	err := in.NewSelect().Model(&rows).Column("scorecard").Where("ended_at > 0").OrderBy("ended_at", bun.OrderDesc).Limit(20).Scan(ctx)
	if err != nil {
		return nil, fmt.Errorf("read past scorecards: %w", err)
	}
	took := map[string]time.Duration{}
	for _, r := range rows {
		if r.Scorecard.V == nil {
			continue
		}
		for _, i := range r.Scorecard.V.Instances {
			if _, newer := took[i.Name]; !newer && i.RestoreSeconds != nil {
				took[i.Name] = time.Duration(*i.RestoreSeconds * float64(time.Second))
			}
		}
	}
	return took, nil
}

// Kept reads the scorecard that was computed when the run ended; nil while it runs.
func Kept(ctx context.Context, in bun.IDB, id string) (*Scorecard, error) {
	row, err := load(ctx, in, id)
	return row.Scorecard.V, err
}
