package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/vault/internal/seal"
)

// Known is what someone knows of a repository from elsewhere than the vault: from an earlier look, from the recovery
// card, or from the machine that writes it. A vault has the public keys, so it can make a repository that opens with
// the right secret key and holds what it likes; it cannot make one under a hash key that it does not have.
type Known struct {
	// Repository is its ID; empty means any.
	Repository string `json:"repository"`
	// Writers are fingerprints of the hash keys whose snapshots are believed, or beginnings of them of at least 16 digits;
	// none means any.
	Writers []string `json:"writers"`
	// Newest is the newest snapshot that was seen and proven, and Time when it was made; empty means that none was.
	Newest string    `json:"newest,omitempty"`
	Time   time.Time `json:"time,omitzero"`
}

// Fingerprint tells one hash key from all others, for people to compare and for Known: 32 hex digits, of which the
// first 16 stand in snapshots and index files as the writer.
func (k WriterKey) Fingerprint() string {
	if len(k.HashKey) != 32 {
		return ""
	}
	return fingerprint(k.keys())
}

// Fingerprint is that of the hash key in the envelope.
func (e EpochIdentity) Fingerprint() string { return fingerprint(e.keys()) }

func fingerprint(keys *seal.Keys) string { return keys.MAC("writer", nil).String()[:32] }

// Expect makes every later look at the repository compare it with what is known. The error is ErrImpostor when the ID
// is another one already.
func (r *Repository) Expect(k Known) error {
	if k.Repository != "" && k.Repository != r.config.ID {
		return fmt.Errorf("compare repository: %w: its ID is %.16s, known is %.16s", ErrImpostor, r.config.ID, k.Repository)
	}
	r.known = k
	return nil
}

// believes holds the hash key that an envelope gave against the known ones.
func (r *Repository) believes(id EpochIdentity) error {
	got := id.Fingerprint()
	trusted := func(w string) bool { return len(w) >= 16 && strings.HasPrefix(got, w) }
	if len(r.known.Writers) == 0 || slices.ContainsFunc(r.known.Writers, trusted) {
		return nil
	}
	return fmt.Errorf("epoch %s: %w: it was written under the hash key %s, known is %s",
		id.Epoch, ErrImpostor, got, strings.Join(r.known.Writers, ", "))
}

// Fresh holds a listing against the newest snapshot that is known. The error is ErrRolledBack when that one and all
// newer ones are missing: the vault serves an old listing, or someone forgot them.
func (r *Repository) Fresh(all []SnapshotInfo) error { return r.known.fresh(all) }

func (k Known) fresh(all []SnapshotInfo) error {
	if k.Newest == "" {
		return nil
	}
	for _, s := range all {
		if s.ID == k.Newest || s.Time.After(k.Time) {
			return nil
		}
	}
	return fmt.Errorf("compare repository: %w: snapshot %.12s of %s is not listed, and none newer",
		ErrRolledBack, k.Newest, k.Time.Local().Format(time.DateTime))
}

// learned is what became known since the repository was opened.
type learned struct {
	mu      sync.Mutex // guards what follows
	writers []string
	newest  SnapshotInfo
	gone    []string // snapshots that were forgotten through this Repository
}

// prove notes a snapshot that was opened or written, under the hash key of that fingerprint.
func (r *Repository) prove(info SnapshotInfo, fingerprint string) {
	r.learned.mu.Lock()
	defer r.learned.mu.Unlock()
	if !slices.Contains(r.learned.writers, fingerprint) {
		r.learned.writers = append(r.learned.writers, fingerprint)
	}
	if info.Time.After(r.learned.newest.Time) {
		r.learned.newest = info
	}
}

func (r *Repository) forgot(id string) {
	r.learned.mu.Lock()
	defer r.learned.mu.Unlock()
	r.learned.gone = append(r.learned.gone, id)
}

// Learned gives what Expect was told, and what opening and writing snapshots has proven since: what is worth keeping
// for the next look.
func (r *Repository) Learned() Known {
	r.learned.mu.Lock()
	defer r.learned.mu.Unlock()
	k := r.known
	k.Repository, k.Writers = r.config.ID, slices.Clone(r.known.Writers)
	for _, f := range r.learned.writers {
		if !slices.ContainsFunc(k.Writers, func(w string) bool { return strings.HasPrefix(f, w) }) {
			k.Writers = append(k.Writers, f)
		}
	}
	if n := r.learned.newest; n.Time.After(k.Time) {
		k.Newest, k.Time = n.ID, n.Time
	}
	if slices.Contains(r.learned.gone, k.Newest) {
		k.Newest, k.Time = "", time.Time{}
	}
	return k
}

// memoryName is where a writer keeps what it stored last.
func memoryName(dir, repository string) string { return filepath.Join(dir, repository, "last.json") }

// remembered reads what this machine stored last in a repository; nothing when it has no memory of it.
func remembered(dir, repository string) Known {
	var k Known
	body, err := os.ReadFile(memoryName(dir, repository))
	if dir == "" || err != nil || json.Unmarshal(body, &k) != nil {
		return Known{}
	}
	return k
}

// remember notes the snapshot that was just stored. Without the note the next run compares less.
func remember(dir string, info SnapshotInfo) error {
	if dir == "" {
		return nil
	}
	body, err := json.Marshal(Known{Repository: info.Repository, Newest: info.ID, Time: info.Time})
	if err != nil {
		return err
	}
	name := memoryName(dir, info.Repository)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(name+".new", body, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// stillThere finds, before a backup, that the repository is not the one this machine wrote to: without an envelope of
// the writer's epoch nobody could ever open what is about to be written. A listing older than what was written last is
// a note in the snapshot, for a backup now is worth more than none.
func (r *Repository) stillThere(ctx context.Context, key WriterKey, dir string) ([]Note, error) {
	sealed, err := r.store.List(ctx, epochFolder)
	if err != nil {
		return nil, fmt.Errorf("list epochs: %w", err)
	}
	open := func(o Object) bool {
		stem, _, ext := cutNamed(o.Name)
		return stem == key.Epoch && ext != ".json"
	}
	if !slices.ContainsFunc(sealed, open) {
		return nil, fmt.Errorf("back up: %w: no envelope of this writer's epoch %s is there, nobody could open the snapshot", ErrImpostor, key.Epoch)
	}
	last := remembered(dir, r.config.ID)
	if last.Newest == "" {
		return nil, nil
	}
	names, err := r.store.List(ctx, snapshotFolder)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	if slices.ContainsFunc(names, func(o Object) bool { return path.Base(o.Name) == last.Newest+".json" }) {
		return nil, nil
	}
	all, err := r.ListSnapshots(ctx)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return nil, err
	}
	if err := last.fresh(all); err != nil {
		return []Note{{Kind: NoteRolledBack, Path: snapshotFolder + "/" + last.Newest + ".json", Detail: err.Error()}}, nil
	}
	return nil, nil
}
