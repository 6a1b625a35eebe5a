package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/vault/internal/seal"
)

// CopyOptions say what to copy.
type CopyOptions struct {
	Snapshots []string // none means all
	Progress  func(Progress)
}

// CopyInfo is what a copy did.
type CopyInfo struct {
	Snapshots int       `json:"snapshots"` // copied or there already
	Objects   int64     `json:"objects"`   // sent
	Bytes     int64     `json:"bytes"`     // sent
	Findings  []Finding `json:"findings"`  // objects that are damaged here: they, and the snapshots that need them, were not copied
	Seconds   float64   `json:"seconds"`
}

// Copy brings snapshots into a second store as they are: no key is needed, and every object is held against its
// name before it is sent. It may be cut off and run again; nothing is sent twice. The error is ErrDamaged when
// some snapshots could not be copied.
func (r *Repository) Copy(ctx context.Context, to Store, o CopyOptions) (CopyInfo, error) {
	began := time.Now()
	c := &copier{r: r, to: to, info: CopyInfo{Findings: []Finding{}}}
	defer tick(o.Progress, func() Progress {
		return Progress{Files: c.objects.Load(), Bytes: c.bytes.Load(), TotalBytes: c.total.Load(), Stored: c.bytes.Load(), Elapsed: time.Since(began), Done: true}
	})()
	err := c.run(ctx, o)
	c.info.Objects, c.info.Bytes, c.info.Seconds = c.objects.Load(), c.bytes.Load(), time.Since(began).Seconds()
	if err == nil && len(c.info.Findings) > 0 {
		err = fmt.Errorf("copy: %w: %s: %s", ErrDamaged, c.info.Findings[0].Object, c.info.Findings[0].Problem)
	}
	return c.info, err
}

type copier struct {
	r     *Repository
	to    Store
	there map[string]int64 // what the second store has, with sizes
	info  CopyInfo

	objects, bytes, total atomic.Int64
}

func (c *copier) run(ctx context.Context, o CopyOptions) error {
	chosen, err := c.choose(ctx, o.Snapshots)
	if err != nil {
		return err
	}
	if err := c.look(ctx); err != nil {
		return err
	}
	if err := c.begin(ctx); err != nil {
		return err
	}
	return c.snapshots(ctx, chosen)
}

func (c *copier) choose(ctx context.Context, names []string) ([]SnapshotInfo, error) {
	all, err := c.r.ListSnapshots(ctx)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return nil, err
	}
	if err != nil {
		c.info.Findings = append(c.info.Findings, Finding{Object: snapshotFolder, Problem: err.Error()})
	}
	if len(names) == 0 {
		return all, nil
	}
	var out []SnapshotInfo
	for _, n := range names {
		info, err := pickSnapshot(all, n)
		if err != nil {
			return nil, err
		}
		out = append(out, info)
	}
	return out, nil
}

// look learns what the second store has; another repository there is refused.
func (c *copier) look(ctx context.Context) error {
	c.there = map[string]int64{}
	for _, folder := range []string{"", epochFolder, packFolder, indexFolder, manifestFolder, snapshotFolder} {
		all, err := c.to.List(ctx, folder)
		if err != nil {
			return fmt.Errorf("copy: look into second store: %w", err)
		}
		for _, o := range all {
			c.there[o.Name] = o.Size
		}
	}
	if _, ok := c.there[configName]; !ok {
		return nil
	}
	other, err := Open(ctx, c.to)
	if err != nil {
		return fmt.Errorf("copy: second store: %w", err)
	}
	if other.config.ID != c.r.config.ID {
		return fmt.Errorf("copy: second store: %w: repository %.16s of instance %q is there", ErrForeign, other.config.ID, other.config.Instance)
	}
	return nil
}

// begin brings the fixed files, epochs and indexes.
func (c *copier) begin(ctx context.Context) error {
	for _, name := range []string{readmeName, scriptName, sumsName} {
		if err := c.orNote(name, c.object(ctx, name, nil)); err != nil {
			return err
		}
	}
	for _, folder := range []string{epochFolder, indexFolder} {
		all, err := c.r.store.List(ctx, folder)
		if err != nil {
			return fmt.Errorf("copy: %w", err)
		}
		for _, o := range all {
			if err := c.orNote(o.Name, c.object(ctx, o.Name, c.right)); err != nil {
				return err
			}
		}
	}
	return c.orNote(configName, c.object(ctx, configName, nil))
}

// orNote turns what was left out into a finding.
func (c *copier) orNote(name string, err error) error {
	if !errors.Is(err, errSkip) {
		return err
	}
	c.info.Findings = append(c.info.Findings, Finding{Object: name, Problem: "it is missing, or its bytes differ from its name"})
	return nil
}

// right holds an object against its name.
func (c *copier) right(name string, body []byte) bool {
	sum := seal.Name(body)
	base := path.Base(name)
	if path.Ext(base) == "" {
		return sum == base
	}
	if stem, hash, _ := cutNamed(name); hash != "" {
		return sum[:32] == hash
	} else {
		return sum == stem
	}
}

// errSkip means that an object was left out because it is damaged; it is in the findings.
var errSkip = errors.New("left out")

func (c *copier) object(ctx context.Context, name string, right func(string, []byte) bool) error {
	if _, ok := c.there[name]; ok {
		return nil
	}
	body, err := read(ctx, c.r.store, name)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("copy: %w", err)
	}
	if err != nil || right != nil && !right(name, body) {
		return errSkip
	}
	if err := put(ctx, c.to, name, body); err != nil {
		return fmt.Errorf("copy: second store: %w", err)
	}
	c.objects.Add(1)
	c.bytes.Add(int64(len(body)))
	return nil
}

// snapshots brings packs, then manifest and snapshot, of one snapshot after the other.
func (c *copier) snapshots(ctx context.Context, chosen []SnapshotInfo) error {
	sizes := map[string]int64{}
	all, err := c.r.store.List(ctx, packFolder)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	for _, o := range all {
		sizes[path.Base(o.Name)] = o.Size
	}
	seen := map[string]bool{}
	for _, info := range chosen {
		for _, p := range info.Packs {
			if _, there := c.there[packFolder+"/"+p]; !there && !seen[p] {
				seen[p] = true
				c.total.Add(sizes[p])
			}
		}
	}
	for _, info := range chosen {
		if err := c.snapshot(ctx, info); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) snapshot(ctx context.Context, info SnapshotInfo) error {
	bad, err := c.packs(ctx, info)
	if err != nil {
		return err
	}
	if len(bad) > 0 {
		for _, name := range bad {
			c.info.Findings = append(c.info.Findings, Finding{name, "it is missing, or its bytes differ from its name", []string{info.Short()}})
		}
		return nil
	}
	for _, name := range []string{info.Manifest, snapshotFolder + "/" + info.ID + ".json"} {
		err := c.object(ctx, name, c.right)
		if errors.Is(err, errSkip) {
			c.info.Findings = append(c.info.Findings, Finding{name, "it is missing, or its bytes differ from its name", []string{info.Short()}})
			return nil
		}
		if err != nil {
			return err
		}
	}
	c.info.Snapshots++
	return nil
}

// packs brings the packs of a snapshot, several at a time, and names those that are damaged.
func (c *copier) packs(ctx context.Context, info SnapshotInfo) ([]string, error) {
	damaged := make(chan string, len(info.Packs))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for _, p := range info.Packs {
		name := packFolder + "/" + p
		group.Go(func() error {
			err := c.object(ctx, name, c.right)
			if errors.Is(err, errSkip) {
				damaged <- name
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	close(damaged)
	var bad []string
	for name := range damaged {
		bad = append(bad, name)
	}
	slices.Sort(bad)
	for _, p := range info.Packs {
		if !slices.Contains(bad, packFolder+"/"+p) {
			c.there[packFolder+"/"+p] = 0
		}
	}
	return bad, nil
}

// Stats are sizes of a repository.
type Stats struct {
	Repository string `json:"repository"`
	Instance   string `json:"instance"`
	Snapshots  int    `json:"snapshots"`
	Packs      int    `json:"packs"`
	PackBytes  int64  `json:"pack_bytes"`
	OtherBytes int64  `json:"other_bytes"` // index, manifests, envelopes and the rest
	Unused     int    `json:"unused"`      // packs that no snapshot needs
	UnusedSize int64  `json:"unused_bytes"`
	Condemned  int    `json:"condemned"` // of them, those that wait for their end
	Logical    int64  `json:"logical"`   // bytes of all files of all snapshots
	Epochs     int    `json:"epochs"`
}

// Stats counts; no key is needed.
func (r *Repository) Stats(ctx context.Context) (Stats, error) {
	s := Stats{Repository: r.config.ID, Instance: r.config.Instance}
	infos, err := r.ListSnapshots(ctx)
	if err != nil {
		return s, err
	}
	needed, epochs := map[string]bool{}, map[string]bool{}
	for _, i := range infos {
		s.Logical += i.Bytes
		for _, p := range i.Packs {
			needed[p] = true
		}
		for _, e := range i.Epochs {
			epochs[e] = true
		}
	}
	s.Snapshots, s.Epochs = len(infos), len(epochs)
	condemned, err := r.condemned(ctx)
	if err != nil {
		return s, err
	}
	for _, folder := range []string{"", epochFolder, packFolder, indexFolder, manifestFolder, snapshotFolder, proofFolder, pruneFolder} {
		all, err := r.store.List(ctx, folder)
		if err != nil {
			return s, fmt.Errorf("count objects: %w", err)
		}
		for _, o := range all {
			s.count(folder, o, needed, condemned)
		}
	}
	return s, nil
}

func (s *Stats) count(folder string, o Object, needed map[string]bool, condemned map[string]time.Time) {
	if folder != packFolder {
		s.OtherBytes += o.Size
		return
	}
	name := path.Base(o.Name)
	s.Packs++
	s.PackBytes += o.Size
	if !needed[name] {
		s.Unused++
		s.UnusedSize += o.Size
		if !condemned[name].IsZero() {
			s.Condemned++
		}
	}
}

// EpochInfo describes an epoch without keys, for people to see who can open what.
type EpochInfo struct {
	ID         string    `json:"id"`
	Began      time.Time `json:"began"`
	Writer     string    `json:"writer"`
	Recipients []string  `json:"recipients"` // fingerprints
	Custodians []string  `json:"custodians"`
	Envelopes  int       `json:"envelopes"`
}

// Epochs lists the epochs, oldest first.
func (r *Repository) Epochs(ctx context.Context) ([]EpochInfo, error) {
	all, err := r.store.List(ctx, epochFolder)
	if err != nil {
		return nil, fmt.Errorf("list epochs: %w", err)
	}
	envelopes := map[string]int{}
	var out []EpochInfo
	for _, o := range all {
		stem, _, ext := cutNamed(o.Name)
		if ext != ".json" {
			envelopes[stem]++
			continue
		}
		body, err := r.readNamed(ctx, o.Name)
		if err != nil {
			return nil, err
		}
		var e epoch
		if err := json.Unmarshal(body, &e); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", o.Name, ErrDamaged, err)
		}
		out = append(out, EpochInfo{e.ID, e.Began, e.Writer, e.Recipients, e.Custodians, 0})
	}
	for i := range out {
		out[i].Envelopes = envelopes[out[i].ID]
	}
	slices.SortFunc(out, func(a, b EpochInfo) int { return a.Began.Compare(b.Began) })
	return out, nil
}
