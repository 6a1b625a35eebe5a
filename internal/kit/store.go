package kit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
)

// Held is the newest kit as a vault holds it.
type Held struct {
	Digest string // of what it was made from; another one when anything in it changed
	Sealed []byte
	MadeAt db.Time
}

// Current reads the newest kit; its zero value when none was made yet.
func Current(ctx context.Context, in bun.IDB) (Held, error) {
	var held Held
	var sealed db.Bytes
	err := in.NewRaw("SELECT digest, sealed, made_at FROM server_kit WHERE name = 'kit'").Scan(ctx, &held.Digest, &sealed, &held.MadeAt)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return held, fmt.Errorf("read the server's kit: %w", err)
	}
	held.Sealed = sealed
	return held, nil
}

// Digest reads what tells the newest kit from the one before; "" when none was made yet.
func Digest(ctx context.Context, in bun.IDB) (digest string, err error) {
	err = in.NewRaw("SELECT digest FROM server_kit WHERE name = 'kit'").Scan(ctx, &digest)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("read the server's kit: %w", err)
	}
	return digest, nil
}

func put(ctx context.Context, tx db.Tx, digest string, sealed []byte) error {
	_, err := tx.NewRaw(`INSERT INTO server_kit (name, digest, sealed, made_at) VALUES ('kit', ?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET digest = excluded.digest, sealed = excluded.sealed, made_at = excluded.made_at`,
		digest, db.Bytes(sealed), db.At(tx.Now)).Exec(ctx)
	if err != nil {
		return fmt.Errorf("keep the server's kit: %w", err)
	}
	return nil
}
