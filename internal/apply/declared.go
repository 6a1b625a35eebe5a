package apply

import (
	"context"
	"database/sql"
	"errors"
	"sync"

	"github.com/uptrace/bun"

	"holdfast/internal/fleet"
)

// Declared reads the fleet as last applied. It keeps the newest one it has read, for reading a fleet takes longer than
// asking whether it is still the newest.
type Declared struct {
	mu   sync.Mutex
	last *fleet.Fleet // guarded by mu
}

// Fleet is the fleet as last applied; an empty one before the first apply.
func (d *Declared) Fleet(ctx context.Context, in bun.IDB) (*fleet.Fleet, error) {
	revision, err := selectApplied(ctx, in)
	if errors.Is(err, sql.ErrNoRows) {
		return &fleet.Fleet{}, nil
	}
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last != nil && d.last.Revision == revision {
		return d.last, nil
	}
	files, err := selectFiles(ctx, in, revision)
	if err != nil {
		return nil, err
	}
	read, err := fleet.Read(files)
	if err != nil {
		return nil, err
	}
	d.last = read
	return read, nil
}
