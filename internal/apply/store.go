package apply

import (
	"context"
	"fmt"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
	"holdfast/internal/fleet"
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
