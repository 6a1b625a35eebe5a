package vault

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/vault/internal/index"
	"holdfast/internal/vault/internal/seal"
)

// mergeAt is the number of index files above which a writer writes one for all.
const mergeAt = 24

// loadIndex reads what this writer stored, as far as it is there and not about to be pruned; and
// which packs of the journal no index has yet. An index that does not read is left out: its
// chunks are stored again, and check names it.
func (r *Repository) loadIndex(ctx context.Context, keys *seal.Keys, journal []index.Pack) (*index.Index, []index.Pack, error) {
	present, err := r.livingPacks(ctx)
	if err != nil {
		return nil, nil, err
	}
	files, err := r.store.List(ctx, indexFolder)
	if err != nil {
		return nil, nil, fmt.Errorf("list index: %w", err)
	}
	heads, err := r.readIndexes(ctx, keys, files)
	if err != nil {
		return nil, nil, err
	}
	x := index.New()
	for _, head := range heads {
		for _, p := range head.Packs {
			if size, ok := present[p.Name]; ok && size == p.Size {
				x.Add(p)
			}
		}
	}
	var fresh []index.Pack
	for _, p := range journal {
		if _, known := x.Number(p.Name); !known && present[p.Name] == p.Size {
			x.Add(p)
			fresh = append(fresh, p)
		}
	}
	return x, fresh, r.mergeIndexes(ctx, keys, heads, present)
}

// readIndexes reads the index files of this writer by name, several at a time, without those that
// another one supersedes.
func (r *Repository) readIndexes(ctx context.Context, keys *seal.Keys, files []Object) (map[string]index.Head, error) {
	var mu sync.Mutex
	out := map[string]index.Head{}
	mine := writerName(keys)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for _, f := range files {
		group.Go(func() error {
			data, err := read(ctx, r.store, f.Name)
			if errors.Is(err, ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			head, err := index.Decode(keys, data)
			if err != nil || head.Writer != mine {
				return nil // another writer's, or damaged
			}
			mu.Lock()
			defer mu.Unlock()
			out[path.Base(f.Name)] = head
			return nil
		})
	}
	err := group.Wait()
	for _, head := range out {
		for _, old := range head.Supersedes {
			delete(out, old)
		}
	}
	return out, err
}

// livingPacks gives name and size of the packs a writer may refer to: present, and not condemned.
func (r *Repository) livingPacks(ctx context.Context) (map[string]int64, error) {
	all, err := r.store.List(ctx, packFolder)
	if err != nil {
		return nil, fmt.Errorf("list packs: %w", err)
	}
	condemned, err := r.condemned(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]int64, len(all))
	for _, o := range all {
		if name := path.Base(o.Name); condemned[name].IsZero() {
			out[name] = o.Size
		}
	}
	return out, nil
}

// mergeIndexes writes one index for many, so that their number stays small. The old ones go with the next prune.
func (r *Repository) mergeIndexes(ctx context.Context, keys *seal.Keys, heads map[string]index.Head, present map[string]int64) error {
	if len(heads) <= mergeAt {
		return nil
	}
	merged := index.Head{Format: Format, Writer: writerName(keys)}
	seen := map[string]bool{}
	for name, h := range heads {
		for _, p := range h.Packs {
			if _, ok := present[p.Name]; ok && !seen[p.Name] {
				seen[p.Name] = true
				merged.Packs = append(merged.Packs, p)
			}
		}
		merged.Supersedes = append(merged.Supersedes, name)
	}
	return r.putIndex(ctx, keys, merged)
}

func (r *Repository) putIndex(ctx context.Context, keys *seal.Keys, head index.Head) error {
	body, err := index.Encode(keys, head)
	if err != nil {
		return err
	}
	return put(ctx, r.store, indexFolder+"/"+seal.Name(body), body)
}

// storeIndex makes packs known; nothing to make known is fine.
func (b *backup) storeIndex(ctx context.Context, packs []index.Pack) error {
	if len(packs) == 0 {
		return nil
	}
	return b.repo.putIndex(ctx, b.keys, index.Head{Format: Format, Writer: writerName(b.keys), Packs: packs})
}
