package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/vault/internal/pack"
	"holdfast/internal/vault/internal/seal"
	"holdfast/internal/vault/internal/tree"
)

// opened is a snapshot whose manifest was read and proven.
type opened struct {
	repo    *Repository
	info    SnapshotInfo
	about   manifestInfo
	keys    *seal.Keys
	ids     map[string]EpochIdentity
	packs   []tree.PackLine // number n is packs[n-1]
	sizes   map[string]int64
	entries []fileEntry
}

// fileEntry is an entry and its chunks.
type fileEntry struct {
	tree.Entry
	refs []tree.Ref
}

// open reads a manifest and proves it before anything is made of it.
func (r *Repository) open(ctx context.Context, snapshot string, ids []EpochIdentity) (*opened, error) {
	info, err := r.Snapshot(ctx, snapshot)
	if err != nil {
		return nil, err
	}
	s := &opened{repo: r, info: info, ids: map[string]EpochIdentity{}}
	for _, id := range ids {
		s.ids[id.Epoch] = id
	}
	id, ok := s.ids[info.Epoch]
	if !ok || id.identity == nil || id.Repository != r.config.ID {
		return nil, fmt.Errorf("open snapshot %s: %w: no identity of epoch %s of this repository was given", info.Short(), ErrWrongKey, info.Epoch)
	}
	if err := r.believes(id); err != nil {
		return nil, fmt.Errorf("open snapshot %s: %w", info.Short(), err)
	}
	s.keys = id.keys()
	body, err := read(ctx, r.store, info.Manifest)
	if err != nil {
		return nil, gone(err)
	}
	if seal.Name(body) != path.Base(info.Manifest) {
		return nil, fmt.Errorf("%s: its bytes differ from its name: %w", info.Manifest, ErrDamaged)
	}
	if err := s.readManifest(body, id); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", info.Manifest, ErrDamaged, err)
	}
	r.prove(info, id.Fingerprint())
	return s, nil
}

// gone makes damage of what a snapshot refers to and the store lacks.
func gone(err error) error {
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: it is missing: %s", ErrDamaged, strings.TrimSuffix(err.Error(), ": "+ErrNotFound.Error()))
	}
	return err
}

func (s *opened) readManifest(body []byte, id EpochIdentity) error {
	m, err := tree.NewReader(bytes.NewReader(body), s.keys, id.identity)
	if err != nil {
		return err
	}
	defer m.Close()
	s.packs = m.Packs
	if err := json.Unmarshal(m.Info, &s.about); err != nil {
		return err
	}
	if s.about.Repository != s.repo.config.ID {
		return fmt.Errorf("it belongs to repository %.16s", s.about.Repository)
	}
	for {
		e, refs, err := m.Next()
		if errors.Is(err, io.EOF) {
			return coherent(s.entries)
		}
		if err != nil {
			return err
		}
		s.entries = append(s.entries, fileEntry{*e, append([]tree.Ref(nil), refs...)})
	}
}

// file gives a pack of the snapshot, to read ranges of it.
func (s *opened) file(ctx context.Context, number uint32) (*packFile, EpochIdentity, error) {
	line := s.packs[number-1]
	f := &packFile{ctx: ctx, store: s.repo.store, name: packFolder + "/" + line.Name, size: s.sizes[line.Name]}
	if f.size == 0 {
		return nil, EpochIdentity{}, fmt.Errorf("%s: %w: it is missing", f.name, ErrDamaged)
	}
	id, ok := s.ids[line.Epoch]
	if !ok {
		return nil, id, fmt.Errorf("%s: %w: no identity of epoch %s was given", f.name, ErrWrongKey, line.Epoch)
	}
	return f, id, nil
}

// listSizes learns the sizes of all packs.
func (s *opened) listSizes(ctx context.Context) error {
	all, err := s.repo.store.List(ctx, packFolder)
	if err != nil {
		return fmt.Errorf("list packs: %w", err)
	}
	s.sizes = make(map[string]int64, len(all))
	for _, o := range all {
		s.sizes[path.Base(o.Name)] = o.Size
	}
	return nil
}

// table reads and proves the table of a pack.
func (s *opened) table(f *packFile, id EpochIdentity, number uint32, r *pack.Reader) (*pack.Table, io.ReaderAt, int64, error) {
	if err := f.ends(); err != nil {
		return nil, nil, 0, gone(err)
	}
	plain, size, err := openPack(f, f.size, id)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("%s: %w", f.name, err)
	}
	table, err := r.Table(plain, size, s.packs[number-1].MAC)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("%s: %w: %w", f.name, ErrDamaged, err)
	}
	return table, plain, size, nil
}

// lengths gives the lengths of the chunks of the packs that are needed, by pack number; for a
// pack that cannot be read, its error.
func (s *opened) lengths(ctx context.Context, needed map[uint32]bool) (map[uint32][]uint32, map[uint32]error, error) {
	numbers := make(chan uint32, len(needed))
	for n := range needed {
		numbers <- n
	}
	close(numbers)
	type result struct {
		number  uint32
		lengths []uint32
		err     error
	}
	results := make(chan result, len(needed))
	group, ctx := errgroup.WithContext(ctx)
	for range min(4, len(needed)) {
		group.Go(func() error {
			r, err := pack.NewReader(s.keys)
			if err != nil {
				return err
			}
			for n := range numbers {
				lengths, err := s.packLengths(ctx, n, r)
				if err != nil && !errors.Is(err, ErrDamaged) {
					return err
				}
				results <- result{n, lengths, err}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	close(results)
	out, bad := map[uint32][]uint32{}, map[uint32]error{}
	for res := range results {
		out[res.number] = res.lengths
		if res.err != nil {
			bad[res.number] = res.err
		}
	}
	return out, bad, nil
}

func (s *opened) packLengths(ctx context.Context, number uint32, r *pack.Reader) ([]uint32, error) {
	f, id, err := s.file(ctx, number)
	if err != nil {
		return nil, err
	}
	table, _, _, err := s.table(f, id, number, r)
	if err != nil {
		return nil, err
	}
	lengths := make([]uint32, len(table.Chunks))
	for i, c := range table.Chunks {
		lengths[i] = c.Length
	}
	return lengths, nil
}
