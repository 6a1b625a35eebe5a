package apply

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// keepFiles keeps a fleet directory under its revision; one that is kept already is let be.
func keepFiles(ctx context.Context, tx db.Tx, revision string, files fleet.Files) error {
	_, err := tx.NewRaw(`INSERT INTO fleet_revisions (revision, files, created_at, applied_at, applied_by) VALUES (?, ?, ?, 0, '')
		ON CONFLICT (revision) DO NOTHING`, revision, db.Of(files), db.At(tx.Now)).Exec(ctx)
	if err != nil {
		return fmt.Errorf("keep fleet %.12s: %w", revision, err)
	}
	return nil
}

// markApplied makes a revision the one that is declared.
func markApplied(ctx context.Context, tx db.Tx, revision, actor string) error {
	_, err := tx.NewRaw("UPDATE fleet_revisions SET applied_at = ?, applied_by = ? WHERE revision = ?", db.At(tx.Now), actor, revision).Exec(ctx)
	if err != nil {
		return fmt.Errorf("mark fleet %.12s as applied: %w", revision, err)
	}
	return nil
}

func selectApplied(ctx context.Context, in bun.IDB) (revision string, err error) {
	err = in.NewRaw("SELECT revision FROM fleet_revisions WHERE applied_at > 0 ORDER BY applied_at DESC, revision LIMIT 1").Scan(ctx, &revision)
	return revision, err
}

func selectFiles(ctx context.Context, in bun.IDB, revision string) (fleet.Files, error) {
	var files db.JSON[fleet.Files]
	if err := in.NewRaw("SELECT files FROM fleet_revisions WHERE revision = ?", revision).Scan(ctx, &files); err != nil {
		return nil, fmt.Errorf("read fleet %.12s: %w", revision, err)
	}
	return files.V, nil
}

// appliedOrNone is the declared revision; "" before the first apply.
func appliedOrNone(ctx context.Context, in bun.IDB) (string, error) {
	revision, err := selectApplied(ctx, in)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read which fleet is declared: %w", err)
	}
	return revision, nil
}

// keptPlan is a plan as it was kept. base is the revision that was declared then.
type keptPlan struct {
	plan plan.Plan
	base string
}

// keepPlan keeps a plan. One that was made before is kept anew, for its base may have moved on.
func keepPlan(ctx context.Context, tx db.Tx, made plan.Plan, base, actor string) error {
	_, err := tx.NewRaw(`INSERT INTO plans (id, base, plan, created_at, created_by, operation) VALUES (?, ?, ?, ?, ?, '')
		ON CONFLICT (id) DO UPDATE SET base = excluded.base, created_at = excluded.created_at, created_by = excluded.created_by`,
		made.ID, base, db.Of(made), db.At(tx.Now), actor).Exec(ctx)
	if err != nil {
		return fmt.Errorf("keep plan %s: %w", made.ID, err)
	}
	return nil
}

func selectPlan(ctx context.Context, in bun.IDB, id string) (keptPlan, error) {
	var row struct {
		Base string
		Plan db.JSON[plan.Plan]
	}
	err := in.NewRaw("SELECT base, plan FROM plans WHERE id = ?", id).Scan(ctx, &row)
	if errors.Is(err, sql.ErrNoRows) {
		return keptPlan{}, problem.New(problem.NotFound, "holdfast plan -f DIR", "there is no plan %s", id)
	}
	if err != nil {
		return keptPlan{}, fmt.Errorf("read plan %s: %w", id, err)
	}
	return keptPlan{row.Plan.V, row.Base}, nil
}

func markOperation(ctx context.Context, tx db.Tx, id, operation string) error {
	if _, err := tx.NewRaw("UPDATE plans SET operation = ? WHERE id = ?", operation, id).Exec(ctx); err != nil {
		return fmt.Errorf("note the operation of plan %s: %w", id, err)
	}
	return nil
}
