package vault

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"holdfast/internal/vault/internal/seal"
)

// Format is the newest format this version reads and the one it writes.
const Format = 1

// Config is the readable description of a repository.
type Config struct {
	Format   int       `json:"format"`
	ID       string    `json:"id"`
	Instance string    `json:"instance"`
	Created  time.Time `json:"created"`
	// Recipients and Custodians are those of the first writer, for people to look at. Writers trust
	// only those in their own key.
	Recipients []string `json:"recipients"`
	Custodians []string `json:"custodians,omitempty"`
}

// Repository is an open repository. It holds no key, and is safe for concurrent use.
type Repository struct {
	store  Store
	config Config
	known  Known // set by Expect, before anything else

	learned learned
}

// Config returns the description.
func (r *Repository) Config() Config { return r.config }

// Store returns where the repository lies.
func (r *Repository) Store() Store { return r.store }

// InitOptions describe a new repository.
type InitOptions struct {
	Instance   string
	Recipients []string // armored OpenPGP public keys, for people
	Custodians []string // age1... recipients, for the service that proves and restores
	Now        time.Time
}

//go:embed RESTORE.md
var readme []byte

//go:embed restore.sh
var script []byte

// Init makes a repository in an empty store and returns it with the key of its first writer,
// which is kept nowhere else. The errors are ErrExists when there is a repository already,
// ErrForeign when there is something else, ErrWrongKey for a recipient that cannot be used.
func Init(ctx context.Context, s Store, o InitOptions) (*Repository, WriterKey, error) {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	for _, key := range o.Recipients {
		if err := CheckRecipient(key, o.Now); err != nil {
			return nil, WriterKey{}, err
		}
	}
	if err := expectEmpty(ctx, s); err != nil {
		return nil, WriterKey{}, err
	}
	var id [16]byte
	rand.Read(id[:])
	r := &Repository{store: s, config: Config{
		Format: Format, ID: hex.EncodeToString(id[:]), Instance: o.Instance,
		Created: o.Now.UTC(), Recipients: o.Recipients, Custodians: o.Custodians,
	}}
	key, err := r.beginEpoch(ctx, seal.NewHashKey(), o.Recipients, o.Custodians, o.Now)
	if err != nil {
		return nil, WriterKey{}, err
	}
	return r, key, r.storeConfig(ctx)
}

func expectEmpty(ctx context.Context, s Store) error {
	all, err := s.List(ctx, "")
	if err != nil {
		return fmt.Errorf("look into store: %w", err)
	}
	for _, o := range all {
		if o.Name == configName {
			return fmt.Errorf("init repository: %w: there is one already", ErrExists)
		}
	}
	if len(all) > 0 {
		return fmt.Errorf("init repository: %w: it is not empty, it holds %q", ErrForeign, all[0].Name)
	}
	return nil
}

// storeConfig writes the fixed files; the configuration is last, and makes it a repository.
func (r *Repository) storeConfig(ctx context.Context) error {
	config, err := json.MarshalIndent(r.config, "", "  ")
	if err != nil {
		return err
	}
	config = append(config, '\n')
	var sums []byte
	for _, f := range []struct {
		name string
		body []byte
	}{{readmeName, readme}, {scriptName, script}, {configName, config}} {
		sums = fmt.Appendf(sums, "%s  %s\n", seal.Name(f.body), f.name)
		if f.name == configName {
			break
		}
		if err := put(ctx, r.store, f.name, f.body); err != nil {
			return err
		}
	}
	if err := put(ctx, r.store, sumsName, sums); err != nil {
		return err
	}
	return put(ctx, r.store, configName, config)
}

// Open finds the repository of a store. The errors are ErrNotFound when nothing is there,
// ErrForeign when something else is, ErrNewerFormat, ErrDamaged.
func Open(ctx context.Context, s Store) (*Repository, error) {
	body, err := read(ctx, s, configName)
	if errors.Is(err, ErrNotFound) {
		return nil, notRepository(ctx, s)
	}
	if err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	r := &Repository{store: s}
	if err := json.Unmarshal(body, &r.config); err != nil {
		return nil, fmt.Errorf("open repository: %s: %w: %w", configName, ErrDamaged, err)
	}
	if r.config.Format > Format {
		return nil, fmt.Errorf("open repository: format %d, this version reads up to %d: %w", r.config.Format, Format, ErrNewerFormat)
	}
	if len(r.config.ID) != 32 || r.config.Format < 1 {
		return nil, fmt.Errorf("open repository: %s: %w", configName, ErrForeign)
	}
	return r, nil
}

func notRepository(ctx context.Context, s Store) error {
	all, err := s.List(ctx, "")
	if err != nil {
		return fmt.Errorf("open repository: %w", err)
	}
	if len(all) > 0 {
		return fmt.Errorf("open repository: %w: it holds %q and no %s", ErrForeign, all[0].Name, configName)
	}
	return fmt.Errorf("open repository: %w: nothing is there (is the disk mounted?)", ErrNotFound)
}

// SnapshotInfo is the readable account of a snapshot, stored beside its manifest.
type SnapshotInfo struct {
	ID           string    `json:"id,omitempty"` // the hash of the stored form; a prefix of it is enough to name it
	Format       int       `json:"format"`
	Repository   string    `json:"repository"`
	Instance     string    `json:"instance"`
	Time         time.Time `json:"time"`       // when the backup began
	Seconds      float64   `json:"seconds"`    // how long it took
	Files        int64     `json:"files"`      // entries that are not directories
	Bytes        int64     `json:"bytes"`      // length of all files
	AddedBytes   int64     `json:"added"`      // bytes it added to the store
	Incomplete   bool      `json:"incomplete"` // something could not be read; the manifest says what
	Notes        int       `json:"notes"`      // how many remarks the manifest holds
	Writer       string    `json:"writer"`
	Manifest     string    `json:"manifest"` // object and hash
	ManifestSize int64     `json:"manifest_size"`
	Epoch        string    `json:"epoch"`  // of the manifest
	Epochs       []string  `json:"epochs"` // that are needed to restore all
	Packs        []string  `json:"packs"`  // that are needed
}

// Short is the part of the ID that people read and type.
func (s SnapshotInfo) Short() string { return s.ID[:min(12, len(s.ID))] }

// ListSnapshots gives all snapshots, oldest first. No key is needed. Snapshots that cannot be read
// are left out, and named in the error, which is then ErrDamaged.
func (r *Repository) ListSnapshots(ctx context.Context) ([]SnapshotInfo, error) {
	all, err := r.store.List(ctx, snapshotFolder)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var out []SnapshotInfo
	var bad []error
	for _, o := range all {
		info, err := r.readSnapshot(ctx, o.Name)
		if errors.Is(err, ErrNotFound) {
			continue // forgotten since it was listed
		}
		if err != nil {
			bad = append(bad, err)
			continue
		}
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b SnapshotInfo) int {
		return cmpOr(a.Time.Compare(b.Time), strings.Compare(a.ID, b.ID))
	})
	return out, errors.Join(bad...)
}

func cmpOr(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}

func (r *Repository) readSnapshot(ctx context.Context, name string) (SnapshotInfo, error) {
	var info SnapshotInfo
	body, err := read(ctx, r.store, name)
	if err != nil {
		return info, err
	}
	id := strings.TrimSuffix(path.Base(name), ".json")
	if seal.Name(body) != id {
		return info, fmt.Errorf("%s: its bytes differ from its name: %w", name, ErrDamaged)
	}
	if err := json.Unmarshal(body, &info); err != nil {
		return info, fmt.Errorf("%s: %w: %w", name, ErrDamaged, err)
	}
	if info.Format > Format {
		return info, fmt.Errorf("%s: format %d: %w", name, info.Format, ErrNewerFormat)
	}
	if info.Repository != r.config.ID {
		return info, fmt.Errorf("%s: %w: it belongs to repository %.16s", name, ErrDamaged, info.Repository)
	}
	info.ID = id
	return info, nil
}

// Snapshot finds a snapshot by its ID, by the beginning of it, or by the word "latest".
func (r *Repository) Snapshot(ctx context.Context, name string) (SnapshotInfo, error) {
	if seal.IsName(name) {
		info, err := r.readSnapshot(ctx, snapshotFolder+"/"+name+".json")
		if err != nil {
			return info, fmt.Errorf("snapshot %.12s: %w", name, err)
		}
		return info, nil
	}
	all, err := r.ListSnapshots(ctx)
	if err != nil && !(errors.Is(err, ErrDamaged) && len(all) > 0) {
		return SnapshotInfo{}, err
	}
	if name == "latest" {
		if err := r.Fresh(all); err != nil {
			return SnapshotInfo{}, err
		}
	}
	return pickSnapshot(all, name)
}

// pickSnapshot decides which of the snapshots, oldest first, a name means.
func pickSnapshot(all []SnapshotInfo, name string) (SnapshotInfo, error) {
	if len(all) == 0 {
		return SnapshotInfo{}, fmt.Errorf("snapshot %q: %w: the repository has none", name, ErrNotFound)
	}
	if name == "latest" {
		return all[len(all)-1], nil
	}
	var found []SnapshotInfo
	for _, s := range all {
		if name != "" && strings.HasPrefix(s.ID, name) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return SnapshotInfo{}, fmt.Errorf("snapshot %q: %w", name, ErrNotFound)
	case 1:
		return found[0], nil
	}
	return SnapshotInfo{}, fmt.Errorf("snapshot %q: %w: %d snapshots begin so, give more of the ID", name, ErrNotFound, len(found))
}
