package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"time"
)

// condemnation lists packs that no snapshot needs. It is written before anything is deleted: no
// writer refers to them from then on, and after the holding period they go.
type condemnation struct {
	Format int       `json:"format"`
	Time   time.Time `json:"time"`
	Packs  []string  `json:"packs"`
}

// condemned gives for each condemned pack when it was.
func (r *Repository) condemned(ctx context.Context) (map[string]time.Time, error) {
	all, err := r.store.List(ctx, pruneFolder)
	if err != nil {
		return nil, fmt.Errorf("list condemned packs: %w", err)
	}
	out := map[string]time.Time{}
	for _, o := range all {
		body, err := r.readNamed(ctx, o.Name)
		if err != nil {
			return nil, err
		}
		var c condemnation
		if err := json.Unmarshal(body, &c); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", o.Name, ErrDamaged, err)
		}
		for _, p := range c.Packs {
			if was, known := out[path.Base(p)]; !known || c.Time.Before(was) {
				out[path.Base(p)] = c.Time
			}
		}
	}
	return out, nil
}
