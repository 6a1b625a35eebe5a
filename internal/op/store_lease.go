package op

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

// leaseFor is how long a lease of an operation or an instance lasts without being renewed.
const leaseFor = 30 * time.Second

type leaseRow struct {
	bun.BaseModel `bun:"table:instance_leases,alias:l"`
	Instance      string `bun:",pk"`
	Operation     string
	Token         int64
	Until         db.Time
}

// lease takes every instance for the operation, or none: a live lease of another one is problem.Busy, unless preempt.
func lease(ctx context.Context, tx db.Tx, operation, title string, instances []string, preempt bool) error {
	for _, instance := range instances {
		held, err := holder(ctx, tx, instance)
		if err != nil {
			return err
		}
		if held != nil && held.Until.After(tx.Now) && !preempt {
			return busy(ctx, tx, title, *held)
		}
		_, err = tx.NewRaw(`INSERT INTO instance_leases (instance, operation, token, until) VALUES (?, ?, 1, ?)
			ON CONFLICT (instance) DO UPDATE SET operation = excluded.operation, token = instance_leases.token + 1, until = excluded.until`,
			instance, operation, db.At(tx.Now.Add(leaseFor))).Exec(ctx)
		if err != nil {
			return fmt.Errorf("lease instance %s: %w", instance, err)
		}
	}
	return nil
}

// holder is the lease of an instance, or nil. The row stays when a lease ends, so that tokens keep growing.
func holder(ctx context.Context, tx bun.IDB, instance string) (*leaseRow, error) {
	var row leaseRow
	err := tx.NewSelect().Model(&row).Where("instance = ? AND operation <> ''", instance).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read lease of instance %s: %w", instance, err)
	}
	return &row, nil
}

func busy(ctx context.Context, tx db.Tx, title string, held leaseRow) error {
	doing := ""
	if o, err := Get(ctx, tx, held.Operation); err == nil {
		doing = " (" + o.Title + ")"
	}
	return problem.New(problem.Busy, "holdfast op watch "+held.Operation,
		"%s was not begun: operation %s%s holds instance %s", title, held.Operation, doing, held.Instance)
}

// free gives leases back; with no instances named, all of the operation's.
func free(ctx context.Context, tx bun.IDB, operation string, instances ...string) error {
	q := tx.NewUpdate().Table("instance_leases").Set("operation = ''").Set("until = 0").Where("operation = ?", operation)
	if len(instances) > 0 {
		q = q.Where("instance IN (?)", bun.List(instances))
	}
	if _, err := q.Exec(ctx); err != nil {
		return fmt.Errorf("free instances of operation %s: %w", operation, err)
	}
	return nil
}

// leases reads who holds each leased instance.
func leases(ctx context.Context, in bun.IDB) (map[string]string, error) {
	var rows []leaseRow
	if err := in.NewSelect().Model(&rows).Where("operation <> ''").Scan(ctx); err != nil {
		return nil, fmt.Errorf("read leases of instances: %w", err)
	}
	all := make(map[string]string, len(rows))
	for _, r := range rows {
		all[r.Instance] = r.Operation
	}
	return all, nil
}

// holds tells whether the instance is leased to the operation.
func holds(ctx context.Context, tx bun.IDB, operation, instance string) (bool, error) {
	held, err := holder(ctx, tx, instance)
	return held != nil && held.Operation == operation, err
}

// adopt takes the lease of an operation that nobody drives, with a new fencing token; false when somebody was faster.
func adopt(ctx context.Context, tx db.Tx, id, owner string, fence int64) (bool, error) {
	res, err := tx.NewRaw("UPDATE operations SET owner = ?, lease_until = ?, fence = fence + 1 WHERE id = ? AND fence = ? AND ended_at = 0",
		owner, db.At(tx.Now.Add(leaseFor)), id, fence).Exec(ctx)
	if err != nil {
		return false, fmt.Errorf("take the lease of operation %s: %w", id, err)
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// renew prolongs the leases of every operation that owner drives and of their instances.
func renew(ctx context.Context, tx db.Tx, owner string) error {
	until := db.At(tx.Now.Add(leaseFor))
	if _, err := tx.NewRaw("UPDATE operations SET lease_until = ? WHERE owner = ? AND ended_at = 0", until, owner).Exec(ctx); err != nil {
		return fmt.Errorf("renew leases of operations: %w", err)
	}
	_, err := tx.NewRaw(`UPDATE instance_leases SET until = ? WHERE operation IN
		(SELECT id FROM operations WHERE owner = ? AND ended_at = 0)`, until, owner).Exec(ctx)
	if err != nil {
		return fmt.Errorf("renew leases of instances: %w", err)
	}
	return nil
}
