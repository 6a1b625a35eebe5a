package vault

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/vault/internal/index"
	"holdfast/internal/vault/internal/pack"
	"holdfast/internal/vault/internal/seal"
	"holdfast/internal/vault/internal/tree"
)

// CheckOptions say how deep to look.
type CheckOptions struct {
	// PresenceOnly does not read packs: it compares names and sizes.
	PresenceOnly bool
	// Identities let the check open manifests, and with ReadData decrypt packs.
	Identities []EpochIdentity
	// ReadData decrypts, decompresses and verifies the chunks of packs; Sample is the share of packs
	// taken at random, 0 means all.
	ReadData bool
	Sample   float64
	Progress func(Progress)
}

// Finding is one thing that is wrong.
type Finding struct {
	Object    string   `json:"object"`
	Problem   string   `json:"problem"`
	Snapshots []string `json:"snapshots,omitempty"` // that lose something by it
}

// CheckReport is what a check looked at and found.
type CheckReport struct {
	Findings  []Finding `json:"findings"`
	Snapshots int       `json:"snapshots"`
	Packs     int       `json:"packs"`
	Bytes     int64     `json:"bytes"`  // read
	Unused    int       `json:"unused"` // packs that no snapshot needs: left by an interruption or waiting for prune
	Read      int       `json:"read"`   // packs whose chunks were verified with a key
	Seconds   float64   `json:"seconds"`
}

// checker gathers findings while it looks.
type checker struct {
	r   *Repository
	o   CheckOptions
	now time.Time

	objects map[string]map[string]Object // by folder and name in it
	infos   []SnapshotInfo
	needs   map[string][]string // short IDs of the snapshots that need a pack

	bytes, packs, total atomic.Int64

	mu     sync.Mutex // guards report
	report CheckReport
}

// Check holds a repository against itself. Without identities it verifies that every object has the bytes
// it is named by, and that all is there that snapshots need; with them, that manifests and chunks are
// what the writer stored. The error is ErrDamaged when there are findings; the report is whole then too.
func (r *Repository) Check(ctx context.Context, o CheckOptions) (CheckReport, error) {
	c := &checker{r: r, o: o, now: time.Now(), objects: map[string]map[string]Object{}, needs: map[string][]string{}}
	c.report.Findings = []Finding{}
	defer tick(o.Progress, func() Progress {
		return Progress{Files: c.packs.Load(), Bytes: c.bytes.Load(), TotalFiles: int64(len(c.objects[packFolder])), TotalBytes: c.total.Load(), Elapsed: time.Since(c.now), Done: true}
	})()
	for _, step := range []func(context.Context) error{c.list, c.fixed, c.snapshots, c.epochs, c.small, c.manifests, c.indexes, c.needed, c.packData, c.withKey} {
		if err := step(ctx); err != nil {
			return c.report, fmt.Errorf("check: %w", err)
		}
	}
	return c.finish()
}

func (c *checker) finish() (CheckReport, error) {
	rep := &c.report
	slices.SortFunc(rep.Findings, func(a, b Finding) int { return strings.Compare(a.Object, b.Object) })
	rep.Bytes, rep.Seconds = c.bytes.Load(), time.Since(c.now).Seconds()
	if n := len(rep.Findings); n > 0 {
		return *rep, fmt.Errorf("check: %w: %d findings, first: %s: %s", ErrDamaged, n, rep.Findings[0].Object, rep.Findings[0].Problem)
	}
	return *rep, nil
}

func (c *checker) find(object, problem string, snapshots ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Findings = append(c.report.Findings, Finding{object, problem, snapshots})
}

func (c *checker) list(ctx context.Context) error {
	for _, folder := range []string{"", epochFolder, packFolder, indexFolder, manifestFolder, snapshotFolder, proofFolder, pruneFolder} {
		all, err := c.r.store.List(ctx, folder)
		if err != nil {
			return err
		}
		c.objects[folder] = map[string]Object{}
		for _, o := range all {
			c.objects[folder][path.Base(o.Name)] = o
		}
	}
	for _, o := range c.objects[packFolder] {
		c.total.Add(o.Size)
	}
	c.report.Packs = len(c.objects[packFolder])
	return nil
}

// fixed holds the fixed files against sums. sums itself has no sum: it must have exactly the lines of the others.
func (c *checker) fixed(ctx context.Context) error {
	sums, err := read(ctx, c.r.store, sumsName)
	if err != nil {
		c.find(sumsName, "cannot be read: "+err.Error())
		return ctx.Err()
	}
	want := ""
	for _, name := range []string{readmeName, scriptName, configName} {
		body, err := read(ctx, c.r.store, name)
		if err != nil {
			c.find(name, "cannot be read: "+err.Error())
			continue
		}
		line := fmt.Sprintf("%s  %s\n", seal.Name(body), name)
		want += line
		if !strings.Contains(string(sums), line) {
			c.find(name, "its bytes differ from its line in sums, or that line was changed")
		}
	}
	if string(sums) != want && len(c.report.Findings) == 0 {
		c.find(sumsName, "it has other lines than those of the fixed files")
	}
	return ctx.Err()
}

// snapshots reads the readable part of all snapshots and what they need.
func (c *checker) snapshots(ctx context.Context) error {
	for _, o := range c.objects[snapshotFolder] {
		info, err := c.r.readSnapshot(ctx, o.Name)
		if err != nil {
			if err := c.mustBeDamage(err); err != nil {
				return err
			}
			c.find(o.Name, cutName(err, o.Name))
			continue
		}
		c.infos = append(c.infos, info)
		for _, p := range info.Packs {
			c.needs[p] = append(c.needs[p], info.Short())
		}
	}
	slices.SortFunc(c.infos, func(a, b SnapshotInfo) int { return a.Time.Compare(b.Time) })
	if err := c.r.Fresh(c.infos); err != nil {
		c.find(snapshotFolder+"/"+c.r.known.Newest+".json", err.Error())
	}
	c.report.Snapshots = len(c.infos)
	return ctx.Err()
}

// mustBeDamage lets a check go on over damage, and end on a store that does not answer.
func (c *checker) mustBeDamage(err error) error {
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrNewerFormat) {
		return nil
	}
	return err
}

func cutName(err error, name string) string { return strings.TrimPrefix(err.Error(), name+": ") }

// epochs finds epochs that snapshots need and nobody could open.
func (c *checker) epochs(context.Context) error {
	sealed := map[string]bool{}
	for name := range c.objects[epochFolder] {
		if stem, _, ext := cutNamed(name); ext != ".json" {
			sealed[stem] = true
		}
	}
	for _, info := range c.infos {
		for _, e := range info.Epochs {
			if !sealed[e] {
				c.find(epochFolder+"/"+e, "no envelope of this epoch is there", info.Short())
			}
		}
	}
	return nil
}

// small holds objects that carry a hash in their name against it.
func (c *checker) small(ctx context.Context) error {
	for _, folder := range []string{epochFolder, proofFolder, pruneFolder} {
		for _, o := range c.objects[folder] {
			_, err := c.r.readNamed(ctx, o.Name)
			if err == nil {
				continue
			}
			if err := c.mustBeDamage(err); err != nil {
				return err
			}
			c.find(o.Name, cutName(err, o.Name))
		}
	}
	return ctx.Err()
}

// whole holds an object that is named by its bytes against its name.
func (c *checker) whole(ctx context.Context, name string) (ok bool, err error) {
	r, err := c.r.store.Get(ctx, name, 0, -1)
	if err != nil {
		if err := c.mustBeDamage(err); err != nil {
			return false, err
		}
		c.find(name, "cannot be read: "+err.Error(), c.needs[path.Base(name)]...)
		return false, nil
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.CopyBuffer(h, struct{ io.Reader }{r}, make([]byte, 1<<20))
	c.bytes.Add(n)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", name, err)
	}
	if hex.EncodeToString(h.Sum(nil)) != path.Base(name) {
		c.find(name, "its bytes differ from its name", c.needs[path.Base(name)]...)
		return false, nil
	}
	return true, nil
}

func (c *checker) manifests(ctx context.Context) error {
	for _, info := range c.infos {
		name := path.Base(info.Manifest)
		o, there := c.objects[manifestFolder][name]
		if !there {
			c.find(info.Manifest, "it is missing", info.Short())
			continue
		}
		if _, err := c.whole(ctx, o.Name); err != nil {
			return err
		}
	}
	return nil
}

// indexes reads what everyone may read of the index, and finds packs that snapshots need and no index has.
func (c *checker) indexes(ctx context.Context) error {
	indexed := map[string]int64{}
	for _, o := range c.objects[indexFolder] {
		if ok, err := c.whole(ctx, o.Name); err != nil || !ok {
			if err != nil {
				return err
			}
			continue
		}
		body, err := read(ctx, c.r.store, o.Name)
		if err != nil {
			return err
		}
		head, _, err := index.ParseHead(body)
		if err != nil {
			c.find(o.Name, err.Error())
			continue
		}
		for _, p := range head.Packs {
			indexed[p.Name] = p.Size
		}
	}
	for name, snapshots := range c.needs {
		size, ok := indexed[name]
		if !ok {
			c.find(packFolder+"/"+name, "no index describes it: an index is missing or old", snapshots...)
		} else if o, there := c.objects[packFolder][name]; there && o.Size != size {
			c.find(packFolder+"/"+name, fmt.Sprintf("it is %d bytes long, the index says %d", o.Size, size), snapshots...)
		}
	}
	return nil
}

// needed finds packs that are missing, and counts those that nothing needs.
func (c *checker) needed(context.Context) error {
	for name, snapshots := range c.needs {
		if _, there := c.objects[packFolder][name]; !there {
			c.find(packFolder+"/"+name, "it is missing", snapshots...)
		}
	}
	for name := range c.objects[packFolder] {
		if c.needs[name] == nil {
			c.report.Unused++
		}
	}
	return nil
}

// packData reads every pack and compares its hash with its name; no key is needed.
func (c *checker) packData(ctx context.Context) error {
	if c.o.PresenceOnly {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for _, o := range c.objects[packFolder] {
		group.Go(func() error {
			_, err := c.whole(ctx, o.Name)
			c.packs.Add(1)
			return err
		})
	}
	return group.Wait()
}

// withKey opens what the identities open.
func (c *checker) withKey(ctx context.Context) error {
	if len(c.o.Identities) == 0 {
		return nil
	}
	lines := map[string]tree.PackLine{}
	wanted := map[string]map[uint32]bool{}
	var last *opened
	for _, info := range c.infos {
		s, err := c.r.open(ctx, info.ID, c.o.Identities)
		if errors.Is(err, ErrDamaged) {
			c.findOnce(info.Manifest, cutName(err, info.Manifest), info.Short())
			continue
		}
		if err != nil {
			return err
		}
		c.compareLists(s)
		for _, l := range s.packs {
			lines[l.Name] = l
		}
		for i := range s.entries {
			for _, ref := range s.entries[i].refs {
				name := s.packs[ref.Pack-1].Name
				if wanted[name] == nil {
					wanted[name] = map[uint32]bool{}
				}
				wanted[name][ref.Ordinal] = true
			}
		}
		last = s
	}
	if !c.o.ReadData || last == nil {
		return nil
	}
	return c.readPacks(ctx, last, lines, wanted)
}

// findOnce does not repeat what a coarser step found.
func (c *checker) findOnce(object, problem string, snapshots ...string) {
	if !slices.ContainsFunc(c.report.Findings, func(f Finding) bool { return f.Object == object }) {
		c.find(object, problem, snapshots...)
	}
}

// compareLists holds the readable list of packs against the proven one: prune believes the readable one.
func (c *checker) compareLists(s *opened) {
	var proven, epochs []string
	for _, l := range s.packs {
		proven = append(proven, l.Name)
		epochs = append(epochs, l.Epoch)
	}
	listed := slices.Clone(s.info.Packs)
	slices.Sort(proven)
	slices.Sort(listed)
	if !slices.Equal(proven, listed) {
		c.find(snapshotFolder+"/"+s.info.ID+".json", "its list of packs differs from that of its manifest", s.info.Short())
	}
	for _, e := range epochs {
		if !slices.Contains(s.info.Epochs, e) {
			c.find(snapshotFolder+"/"+s.info.ID+".json", "its list of epochs lacks "+e, s.info.Short())
			return
		}
	}
}

// readPacks verifies the chunks of all packs, or of a sample, by a few readers that keep their memory.
func (c *checker) readPacks(ctx context.Context, s *opened, lines map[string]tree.PackLine, wanted map[string]map[uint32]bool) error {
	work := make(chan tree.PackLine)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(work)
		for name, line := range lines {
			_, there := c.objects[packFolder][name]
			if !there || c.o.Sample > 0 && rand.Float64() >= c.o.Sample {
				continue
			}
			if err := sendTo(ctx, work, line); err != nil {
				return err
			}
		}
		return nil
	})
	for range checkReaders {
		group.Go(func() error {
			r := &packChecker{c: c, s: s, readers: map[string]*pack.Reader{}}
			for line := range work {
				if err := r.check(ctx, line, wanted[line.Name]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// checkReaders is how many packs are decrypted at once.
const checkReaders = 2

// packChecker verifies one pack after the other.
type packChecker struct {
	c       *checker
	s       *opened
	readers map[string]*pack.Reader // by epoch
	buffer  []byte
}

// check turns damage into a finding, unless a coarser step found it.
func (r *packChecker) check(ctx context.Context, line tree.PackLine, wanted map[uint32]bool) error {
	err := r.read(ctx, line, wanted)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return err
	}
	name := packFolder + "/" + line.Name
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	r.c.report.Read++
	known := slices.ContainsFunc(r.c.report.Findings, func(f Finding) bool { return f.Object == name })
	if err != nil && !known {
		r.c.report.Findings = append(r.c.report.Findings, Finding{name, cutName(err, name), r.c.needs[line.Name]})
	}
	return nil
}

func (r *packChecker) read(ctx context.Context, line tree.PackLine, wanted map[uint32]bool) error {
	name := packFolder + "/" + line.Name
	id, ok := r.s.ids[line.Epoch]
	if !ok {
		return fmt.Errorf("%s: %w: no identity of epoch %s was given", name, ErrWrongKey, line.Epoch)
	}
	var err error
	if r.buffer, err = wholePack(ctx, r.c.r.store, name, pack.Target+pack.Target/8, r.buffer); err != nil {
		return gone(err)
	}
	plain, size, err := openPack(memory(r.buffer), int64(len(r.buffer)), id)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	reader := r.readers[line.Epoch]
	if reader == nil {
		if reader, err = pack.NewReader(id.keys()); err != nil {
			return err
		}
		r.readers[line.Epoch] = reader
	}
	return verifyPack(reader, plain, size, line, wanted, name)
}

func verifyPack(reader *pack.Reader, plain io.ReaderAt, size int64, line tree.PackLine, wanted map[uint32]bool, name string) error {
	table, err := reader.Table(plain, size, line.MAC)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", name, ErrDamaged, err)
	}
	for o := range wanted {
		if int(o) >= len(table.Chunks) {
			return fmt.Errorf("%s: %w: it has no chunk %d", name, ErrDamaged, o)
		}
	}
	byFrame := map[uint32][]pack.Chunk{}
	for _, ch := range table.Chunks {
		byFrame[ch.Frame] = append(byFrame[ch.Frame], ch)
	}
	for n, frame := range table.Frames {
		raw, err := reader.Frame(plain, frame)
		if err != nil {
			return fmt.Errorf("%s: %w: %w", name, ErrDamaged, err)
		}
		for _, ch := range byFrame[uint32(n)] {
			if _, err := reader.Chunk(raw, ch); err != nil {
				return fmt.Errorf("%s: %w: %w", name, ErrDamaged, err)
			}
		}
	}
	return nil
}

// memory is bytes that are read at places.
type memory []byte

// ReadAt implements io.ReaderAt.
func (m memory) ReadAt(p []byte, at int64) (int, error) {
	if at >= int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(p, m[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Proof marks a snapshot as really restored and checked.
type Proof struct {
	Format   int       `json:"format"`
	Snapshot string    `json:"snapshot"`
	Time     time.Time `json:"time"`
	By       string    `json:"by"`
}

// MarkProven records that a snapshot was restored and checked: prune never deletes the last such one.
func (r *Repository) MarkProven(ctx context.Context, snapshot, by string, now time.Time) error {
	info, err := r.Snapshot(ctx, snapshot)
	if err != nil {
		return err
	}
	return r.putNamed(ctx, proofFolder, info.ID, ".json", Proof{Format, info.ID, now.UTC(), by})
}

// Proofs gives the newest proof of each proven snapshot by its ID.
func (r *Repository) Proofs(ctx context.Context) (map[string]Proof, error) {
	all, err := r.store.List(ctx, proofFolder)
	if err != nil {
		return nil, fmt.Errorf("list proofs: %w", err)
	}
	out := map[string]Proof{}
	for _, o := range all {
		body, err := r.readNamed(ctx, o.Name)
		if err != nil {
			return nil, err
		}
		var p Proof
		if err := json.Unmarshal(body, &p); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", o.Name, ErrDamaged, err)
		}
		if p.Time.After(out[p.Snapshot].Time) {
			out[p.Snapshot] = p
		}
	}
	return out, nil
}
