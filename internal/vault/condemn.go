package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	out := map[string]time.Time{}
	err := r.eachCondemnation(ctx, func(_ Object, c condemnation) {
		for _, p := range c.Packs {
			if was, known := out[p]; !known || c.Time.Before(was) {
				out[p] = c.Time
			}
		}
	})
	return out, err
}

// condemnedLists notes the lists themselves, which go when their packs are gone.
func (r *Repository) condemnedLists(ctx context.Context, s *pruneState) error {
	return r.eachCondemnation(ctx, func(o Object, c condemnation) {
		s.lists = append(s.lists, condemnedList{o, c.Packs})
	})
}

func (r *Repository) eachCondemnation(ctx context.Context, see func(Object, condemnation)) error {
	all, err := r.store.List(ctx, pruneFolder)
	if err != nil {
		return fmt.Errorf("list condemned packs: %w", err)
	}
	for _, o := range all {
		body, err := r.readNamed(ctx, o.Name)
		if errors.Is(err, ErrNotFound) {
			continue // its packs are gone, and it went with them
		}
		if err != nil {
			return err
		}
		var c condemnation
		if err := json.Unmarshal(body, &c); err != nil {
			return fmt.Errorf("%s: %w: %w", o.Name, ErrDamaged, err)
		}
		see(o, c)
	}
	return nil
}
