package secret

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
	"holdfast/internal/problem"
)

// Ref names one version of a secret of an instance. Its fields are those of fleet.SecretRef, so that one converts.
type Ref struct {
	Name    string
	Version int
	Length  int // characters to generate; 0 = 32
}

// Store holds the secrets of instances, sealed. A version is written once and never changed.
type Store struct{ box *Box }

// NewStore keeps secrets in the database under box.
func NewStore(box *Box) *Store { return &Store{box} }

// Ensure generates every secret of refs that the instance lacks and returns the names of those it made.
func (s *Store) Ensure(ctx context.Context, tx db.Tx, instance string, refs []Ref) ([]string, error) {
	var made []string
	for _, ref := range refs {
		exists, err := s.has(ctx, tx, instance, ref)
		if err != nil {
			return nil, err
		}
		if exists {
			continue
		}
		value, err := Generate(ref.Length)
		if err != nil {
			return nil, fmt.Errorf("generate secret %s of instance %s: %w", ref.Name, instance, err)
		}
		if err := s.Put(ctx, tx, instance, ref, value); err != nil {
			return nil, err
		}
		made = append(made, ref.Name)
	}
	return made, nil
}

// ForInstance opens exactly the secrets of refs, by name. A missing one gives kind NotFound.
func (s *Store) ForInstance(ctx context.Context, conn bun.IDB, instance string, refs []Ref) (map[string]Value, error) {
	values := make(map[string]Value, len(refs))
	for _, ref := range refs {
		sealed, err := s.sealed(ctx, conn, instance, ref)
		if errors.Is(err, sql.ErrNoRows) {
			return nil, problem.New(problem.NotFound, "holdfast apply -f DIR -l instance/"+instance, "secret %s of instance %s has no version %d", ref.Name, instance, ref.Version)
		}
		if err != nil {
			return nil, fmt.Errorf("read secret %s of instance %s: %w", ref.Name, instance, err)
		}
		text, err := s.box.Open(label(instance, ref), sealed)
		if err != nil {
			return nil, err
		}
		values[ref.Name] = Of(string(text))
	}
	return values, nil
}

// Put keeps a value that came from elsewhere, such as a snapshot. The same version with the same value is let be;
// with another value it gives kind Conflict.
func (s *Store) Put(ctx context.Context, tx db.Tx, instance string, ref Ref, value Value) error {
	have, err := s.ForInstance(ctx, tx, instance, []Ref{ref})
	switch problem.KindOf(err) {
	case "":
		if have[ref.Name] == value {
			return nil
		}
		return problem.New(problem.Conflict, "raise the version of the secret in the product", "secret %s of instance %s has another value at version %d", ref.Name, instance, ref.Version)
	case problem.NotFound:
		return s.insert(ctx, tx, instance, ref, s.box.Seal(label(instance, ref), []byte(value.Reveal())))
	default:
		return err
	}
}

// label binds a sealed row to its place.
func label(instance string, ref Ref) string {
	return fmt.Sprintf("instance/%s/%s/%d", instance, ref.Name, ref.Version)
}

func (s *Store) has(ctx context.Context, conn bun.IDB, instance string, ref Ref) (bool, error) {
	_, err := s.sealed(ctx, conn, instance, ref)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

func (s *Store) sealed(ctx context.Context, conn bun.IDB, instance string, ref Ref) ([]byte, error) {
	var sealed db.Bytes
	err := conn.NewRaw("SELECT sealed FROM instance_secrets WHERE instance = ? AND name = ? AND version = ?",
		instance, ref.Name, ref.Version).Scan(ctx, &sealed)
	return sealed, err
}

func (s *Store) insert(ctx context.Context, tx db.Tx, instance string, ref Ref, sealed []byte) error {
	_, err := tx.NewRaw("INSERT INTO instance_secrets (instance, name, version, sealed, created_at) VALUES (?, ?, ?, ?, ?)",
		instance, ref.Name, ref.Version, db.Bytes(sealed), db.At(tx.Now)).Exec(ctx)
	if err != nil {
		return fmt.Errorf("keep secret %s of instance %s: %w", ref.Name, instance, err)
	}
	return nil
}

func loadDataKey(ctx context.Context, tx db.Tx) ([]byte, error) {
	var sealed db.Bytes
	err := tx.NewRaw("SELECT sealed FROM secret_keys WHERE name = 'data'").Scan(ctx, &sealed)
	return sealed, err
}

func insertDataKey(ctx context.Context, tx db.Tx, sealed []byte) error {
	_, err := tx.NewRaw("INSERT INTO secret_keys (name, sealed, created_at) VALUES ('data', ?, ?)", db.Bytes(sealed), db.At(tx.Now)).Exec(ctx)
	if err != nil {
		return fmt.Errorf("keep the data key: %w", err)
	}
	return nil
}
