package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"filippo.io/age"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"holdfast/internal/vault/internal/chunk"
	"holdfast/internal/vault/internal/index"
	"holdfast/internal/vault/internal/pack"
	"holdfast/internal/vault/internal/seal"
	"holdfast/internal/vault/internal/tree"
)

// Source is one thing to back up: a tree or file at Path, or what Stream writes, as one file.
type Source struct {
	// Name is where it lies in the snapshot: a relative slash-separated path; "." puts what a
	// directory holds at the root of the snapshot.
	Name string
	// Path is looked at when every Stream named before it has ended, so that a folder holds what a dump refers to.
	Path string
	// Stream writes the content of the file Name. Its error ends the backup without a snapshot.
	Stream func(ctx context.Context, w io.Writer) error
	Mode   uint32 // of a Stream's file; 0 means 0600
}

// BackupOptions say what to back up and how.
type BackupOptions struct {
	Sources []Source
	// Meta is kept in the manifest, encrypted with the rest: release, rendered configuration ...
	Meta json.RawMessage
	// Skip leaves out a path of the machine, and all below it. It is asked from several goroutines.
	Skip func(path string) bool
	// Cache is a directory of this machine in which the writer remembers what it saw, to know
	// unchanged files without reading them, and what it stored, to resume. Empty: no memory.
	Cache string
	// Force reads every file, whatever its times say.
	Force bool
	// ReadLimit bounds reading in bytes per second; 0 does not.
	ReadLimit int
	// Wait is how long to wait for another backup of this repository to end.
	Wait time.Duration
	// Warn hears at once what the store lacks that this machine stored. It is noted in the snapshot too.
	Warn func(Note)
	// Progress is called about every quarter of a second, from one goroutine.
	Progress func(Progress)
	Now      time.Time
}

// Progress is how far a backup or restore is.
type Progress struct {
	Files, Bytes           int64 // done
	TotalFiles, TotalBytes int64 // known so far; 0 while unknown
	Stored                 int64 // bytes sent to, or read from, the store
	Elapsed                time.Duration
	Done                   bool // all that is to be found has been found: the totals are final
}

// Speed is in bytes per second.
func (p Progress) Speed() float64 { return float64(p.Bytes) / max(p.Elapsed.Seconds(), 0.001) }

// Left is the time left at the speed so far; 0 while unknown.
func (p Progress) Left() time.Duration {
	if p.TotalBytes <= p.Bytes || p.Bytes == 0 {
		return 0
	}
	return time.Duration(float64(p.TotalBytes-p.Bytes) / p.Speed() * float64(time.Second))
}

// manifestInfo is the readable member of a manifest, info.json.
type manifestInfo struct {
	Format     int             `json:"format"`
	Repository string          `json:"repository"`
	Instance   string          `json:"instance"`
	Time       time.Time       `json:"time"`
	Sources    []string        `json:"sources"`
	Notes      []Note          `json:"notes,omitempty"`
	Meta       json.RawMessage `json:"meta,omitempty"`
}

type stored = index.Ref

// Sizes of the pipeline. Memory is bounded by about (readers + senders + 2) packs.
const (
	senders   = 3
	readAhead = 1 << 20
)

// backup is one run.
type backup struct {
	repo  *Repository
	key   WriterKey
	keys  *seal.Keys
	to    age.Recipient
	o     BackupOptions
	index *index.Index
	cut   *chunk.Cutter
	limit *rate.Limiter

	work    chan *part
	ordered chan *item
	sealed  chan sealedPack
	buffers chan []byte
	journal *journal

	mu    sync.Mutex // guards what follows
	fresh []index.Pack

	files, bytes, total, totalFiles, added atomic.Int64
	scanned                                atomic.Bool
	began                                  time.Time
}

type sealedPack struct {
	*pack.Sealed
	number uint32
	ids    []seal.ID
}

// Backup writes one snapshot. It stores nothing twice, and what an interrupted run stored counts.
//
// When something could not be read the snapshot is written, its info says Incomplete, and the
// error is ErrIncomplete. With any other error there is no snapshot. ErrLocked means that
// another backup of this repository runs.
func (r *Repository) Backup(ctx context.Context, key WriterKey, o BackupOptions) (SnapshotInfo, error) {
	if err := r.owns(key); err != nil {
		return SnapshotInfo{}, err
	}
	if err := checkSources(o.Sources); err != nil {
		return SnapshotInfo{}, err
	}
	held, err := acquire(ctx, r.store, lockBackup, o.Wait)
	if err != nil {
		return SnapshotInfo{}, err
	}
	defer held.release(ctx)
	notes, err := r.stillThere(ctx, key, o.Cache)
	if err != nil {
		return SnapshotInfo{}, err
	}
	b, err := r.newBackup(ctx, key, o)
	if err != nil {
		return SnapshotInfo{}, err
	}
	defer b.report()()
	m := &manifest{notes: b.warn(notes)}
	defer m.drop()
	if err := b.run(ctx, m); err != nil {
		b.keepStored(ctx)
		return SnapshotInfo{}, err
	}
	return b.commit(ctx, m, held)
}

// warn passes notes on and gives them back.
func (b *backup) warn(notes []Note) []Note {
	for _, n := range notes {
		if b.o.Warn != nil {
			b.o.Warn(n)
		}
	}
	return notes
}

// checkSources finds what a person named and is not there, before anything is written.
func checkSources(all []Source) error {
	if len(all) == 0 {
		return errors.New("back up: no source given")
	}
	seen := map[string]bool{}
	for _, s := range all {
		if seen[s.Name] {
			return fmt.Errorf("back up: two sources are called %q", s.Name)
		}
		seen[s.Name] = true
		for above := filepath.Dir(s.Name); above != "."; above = filepath.Dir(above) {
			if i := slices.IndexFunc(all, func(o Source) bool { return o.Name == above }); i >= 0 {
				return fmt.Errorf("back up: %w: source %q lies in source %q", ErrExists, s.Name, above)
			}
		}
		if s.Name != "." && !filepath.IsLocal(s.Name) || s.Name != filepath.Clean(s.Name) {
			return fmt.Errorf("back up: name %q of a source: must be a relative path without ..", s.Name)
		}
		if s.Stream == nil {
			if _, err := os.Lstat(s.Path); errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("back up %s: %w", s.Path, ErrNotFound)
			}
		}
	}
	return nil
}

func (r *Repository) newBackup(ctx context.Context, key WriterKey, o BackupOptions) (*backup, error) {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	to, err := age.ParseX25519Recipient(key.Recipient)
	if err != nil {
		return nil, fmt.Errorf("use writer key: %w: %w", ErrWrongKey, err)
	}
	b := &backup{repo: r, key: key, keys: key.keys(), to: to, o: o, began: time.Now()}
	b.cut = chunk.NewCutter(b.keys.Gear)
	b.limit = limiter(o.ReadLimit)
	if b.journal, err = openJournal(o.Cache, r.config.ID); err != nil {
		return nil, err
	}
	b.index, b.fresh, err = r.loadIndex(ctx, b.keys, b.journal.packs)
	return b, err
}

// manifest is what the last stage of the pipeline has put together.
type manifest struct {
	writer *tree.Writer
	packs  []uint32 // numbers in the index, in the order of the manifest
	notes  []Note
	caches []*cacheWriter // one for each source, nil until needed
	bytes  int64          // length of all files
	refs   []tree.Ref
}

// drop throws away what was not kept.
func (m *manifest) drop() {
	for _, c := range m.caches {
		c.drop()
	}
}

// run is the pipeline: scan, read and pack, send; and in the order of the scan, assemble.
func (b *backup) run(ctx context.Context, m *manifest) error {
	readers := max(2, min(runtime.NumCPU(), 8))
	b.work = make(chan *part, 4*readers)
	b.ordered = make(chan *item, 16<<10)
	b.sealed = make(chan sealedPack, 1)
	b.buffers = make(chan []byte, readers+senders+1)
	for range cap(b.buffers) {
		b.buffers <- nil
	}
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return b.scan(ctx) })
	all.Go(func() error { return b.readAndPack(ctx, readers) })
	all.Go(func() error { return b.send(ctx) })
	all.Go(func() error { return b.assemble(ctx, m) })
	return all.Wait()
}

// readAndPack runs the readers, and ends the stage behind them when they are done.
func (b *backup) readAndPack(ctx context.Context, readers int) error {
	defer close(b.sealed)
	group, ctx := errgroup.WithContext(ctx)
	for range readers {
		group.Go(func() error { return b.reader(ctx) })
	}
	return group.Wait()
}

// scan finds what there is and hands it on: parts to the readers, items in order to the assembler.
func (b *backup) scan(ctx context.Context) error {
	defer close(b.ordered)
	defer close(b.work)
	links := map[[2]uint64]string{}
	var streams []*item
	for _, s := range b.o.Sources {
		if s.Stream != nil {
			streams = append(streams, streamItem(s, b.o.Now))
			if err := b.emit(ctx, streams[len(streams)-1], nil); err != nil {
				return err
			}
			continue
		}
		if err := ended(ctx, streams); err != nil {
			return err
		}
		seen := b.openCache(s.Name)
		sc := &scanner{ctx: ctx, links: links, skip: b.o.Skip, emit: func(it *item) error { return b.emit(ctx, it, seen) }}
		err := sc.walk(s.Name, filepath.Clean(s.Path))
		seen.close()
		if err != nil {
			return err
		}
	}
	b.scanned.Store(true)
	return nil
}

// ended waits until streams were read: what a dump names may have been written while it ran.
func ended(ctx context.Context, streams []*item) error {
	for _, it := range streams {
		select {
		case <-it.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (b *backup) emit(ctx context.Context, it *item, seen *cacheReader) error {
	if it.entry.Kind == tree.File && it.parts == nil {
		if was := seen.find(it); was != nil && !b.o.Force {
			b.reuse(it, was)
		} else {
			findExtents(it)
			cutParts(it)
		}
		b.total.Add(it.entry.Size)
	}
	if it.entry.Kind != 0 && it.entry.Kind != tree.Directory {
		b.totalFiles.Add(1)
	}
	if err := sendTo(ctx, b.ordered, it); err != nil {
		return err
	}
	for _, p := range it.parts {
		if err := sendTo(ctx, b.work, p); err != nil {
			return err
		}
	}
	return nil
}

func sendTo[T any](ctx context.Context, to chan<- T, v T) error {
	select {
	case to <- v:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// reuse takes what the last run stored for an unchanged file.
func (b *backup) reuse(it *item, was *cached) {
	it.known = was.refs
	it.entry.Extents, it.entry.Sparse = was.extents, was.sparse
}

// assemble writes the manifest in the order of the scan, each entry when its bytes were read.
func (b *backup) assemble(ctx context.Context, m *manifest) (err error) {
	if m.writer, err = tree.NewWriter(b.keys); err != nil {
		return err
	}
	numbers := map[uint32]uint32{}
	for {
		it, err := receive(ctx, b.ordered)
		if err != nil || it == nil {
			return err
		}
		if err := b.await(ctx, it); err != nil {
			return err
		}
		m.notes = append(m.notes, it.notes...)
		if it.entry.Kind != 0 {
			b.place(m, it, numbers)
		}
	}
}

// place gives an entry its line in the manifest. numbers are those of packs there, by their number in the index.
func (b *backup) place(m *manifest, it *item, numbers map[uint32]uint32) {
	m.refs = m.refs[:0]
	for _, s := range it.known {
		n, seen := numbers[s.Pack]
		if !seen {
			m.packs = append(m.packs, s.Pack)
			n = uint32(len(m.packs))
			numbers[s.Pack] = n
		}
		m.refs = append(m.refs, tree.Ref{Pack: n, Ordinal: s.Ordinal})
	}
	m.writer.Add(&it.entry, m.refs)
	m.bytes += it.entry.Size
	b.remember(m, it)
	if it.entry.Kind != tree.Directory {
		b.files.Add(1)
	}
	if it.done == nil {
		b.bytes.Add(it.entry.Size)
	}
}

// receive gives nil when the channel is closed.
func receive[T any](ctx context.Context, from <-chan *T) (*T, error) {
	select {
	case v := <-from:
		return v, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// await waits until an item is read, and takes together what its parts brought.
func (b *backup) await(ctx context.Context, it *item) error {
	if it.done == nil {
		return nil
	}
	select {
	case <-it.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	gather(it)
	return nil
}

// gather joins the parts of an item up to the first that came out short, and makes the entry say what was read.
func gather(it *item) {
	short := false
	length := int64(0)
	for _, p := range it.parts {
		if p.note.Kind != "" && (len(it.notes) == 0 || it.notes[len(it.notes)-1] != p.note) {
			it.notes = append(it.notes, p.note)
		}
		if short {
			continue
		}
		it.known = append(it.known, p.refs...)
		length += p.read
		short = p.read < p.length
	}
	for _, n := range it.notes {
		if n.Kind == NoteUnreadable && length == 0 || n.Kind == NoteVanished || n.Kind == NoteSkipped {
			it.entry.Kind = 0 // nothing of it is stored
			return
		}
	}
	if it.entry.Sparse {
		cutExtents(&it.entry, length, short)
	} else {
		it.entry.Size = length
	}
}

// cutExtents shortens a sparse file to the stored bytes that were read.
func cutExtents(e *tree.Entry, length int64, short bool) {
	if !short {
		return
	}
	var kept []tree.Extent
	end := int64(0)
	for _, x := range e.Extents {
		if length <= 0 {
			break
		}
		x.Length = min(x.Length, length)
		length -= x.Length
		end = x.Offset + x.Length
		kept = append(kept, x)
	}
	e.Extents, e.Size = append(kept, tree.Extent{Offset: end}), end
}

// send stores finished packs, several at a time.
func (b *backup) send(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for range senders {
		group.Go(func() error {
			for p := range b.sealed {
				if err := b.sendOne(ctx, p); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// indexEvery is after how many packs what was stored is made known, for a run that never ends well.
const indexEvery = 64

// sendOne notes a pack before it stores it: what a killed run stored is known to the next, which looks
// whether it is there.
func (b *backup) sendOne(ctx context.Context, p sealedPack) error {
	line := index.Pack{Name: p.Name, Size: int64(len(p.Body)), Epoch: b.key.Epoch, MAC: p.MAC, IDs: p.ids}
	if err := b.journal.add(line); err != nil {
		return err
	}
	if err := put(ctx, b.repo.store, packFolder+"/"+p.Name, p.Body); err != nil {
		return err
	}
	b.added.Add(int64(len(p.Body)))
	b.index.End(p.number, line)
	b.buffers <- p.Body
	b.mu.Lock()
	b.fresh = append(b.fresh, line)
	var now []index.Pack
	if len(b.fresh) >= indexEvery {
		now, b.fresh = b.fresh, nil
	}
	b.mu.Unlock()
	return b.storeIndex(ctx, now)
}

// keepStored makes known what an interrupted run stored; the journal does it too, on this machine.
func (b *backup) keepStored(ctx context.Context) {
	if b.index == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if b.storeIndex(ctx, b.fresh) == nil {
		b.journal.clear()
	}
}

// commit writes index, manifest and snapshot, in this order.
func (b *backup) commit(ctx context.Context, m *manifest, held *lock) (SnapshotInfo, error) {
	if err := b.storeIndex(ctx, b.fresh); err != nil {
		return SnapshotInfo{}, err
	}
	info, err := b.storeManifest(ctx, m)
	if err != nil {
		return SnapshotInfo{}, err
	}
	if err := held.held(); err != nil {
		return SnapshotInfo{}, err
	}
	body, err := json.Marshal(info)
	if err != nil {
		return SnapshotInfo{}, err
	}
	info.ID = seal.Name(body)
	if err := put(ctx, b.repo.store, snapshotFolder+"/"+info.ID+".json", body); err != nil {
		return SnapshotInfo{}, err
	}
	b.journal.clear()
	b.repo.prove(info, b.key.Fingerprint())
	_ = remember(b.o.Cache, info) // a memory that cannot be kept costs time or a warning, and nothing else
	for _, c := range m.caches {
		c.keep(b.index)
	}
	m.caches = nil
	if info.Incomplete {
		return info, fmt.Errorf("back up: snapshot %s: %w: %s", info.Short(), ErrIncomplete, firstUnreadable(m.notes))
	}
	return info, nil
}

func firstUnreadable(notes []Note) string {
	count, first := 0, ""
	for _, n := range notes {
		if n.Kind == NoteUnreadable {
			count++
			first = cmpString(first, fmt.Sprintf("%q: %s", n.Path, n.Detail))
		}
	}
	if count > 1 {
		return fmt.Sprintf("%s, and %d more", first, count-1)
	}
	return first
}

func cmpString(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (b *backup) storeManifest(ctx context.Context, m *manifest) (SnapshotInfo, error) {
	about := manifestInfo{Format: Format, Repository: b.repo.config.ID, Instance: b.repo.config.Instance, Time: b.o.Now.UTC(), Notes: m.notes, Meta: b.o.Meta}
	for _, s := range b.o.Sources {
		about.Sources = append(about.Sources, s.Name)
	}
	text, err := json.Marshal(about)
	if err != nil {
		return SnapshotInfo{}, fmt.Errorf("write manifest: %w", err)
	}
	info := SnapshotInfo{
		Format: Format, Repository: b.repo.config.ID, Instance: b.repo.config.Instance, Time: about.Time,
		Files: b.files.Load(), Bytes: m.bytes, Notes: len(m.notes), Writer: writerName(b.keys), Epoch: b.key.Epoch,
		Packs: []string{}, Incomplete: firstUnreadable(m.notes) != "",
	}
	lines := b.packLines(m, &info)
	body, err := m.writer.Seal(text, lines, b.to)
	if err != nil {
		return info, err
	}
	info.Manifest, info.ManifestSize = manifestFolder+"/"+seal.Name(body), int64(len(body))
	info.AddedBytes = b.added.Load() + info.ManifestSize
	info.Seconds = time.Since(b.began).Seconds()
	return info, put(ctx, b.repo.store, info.Manifest, body)
}

// packLines lists the packs of the manifest, in the snapshot's readable part too.
func (b *backup) packLines(m *manifest, info *SnapshotInfo) []tree.PackLine {
	info.Epochs = []string{b.key.Epoch}
	known := map[string]bool{b.key.Epoch: true}
	var lines []tree.PackLine
	for _, n := range m.packs {
		p := b.index.Pack(n)
		lines = append(lines, tree.PackLine{Name: p.Name, Epoch: p.Epoch, MAC: p.MAC})
		info.Packs = append(info.Packs, p.Name)
		if !known[p.Epoch] {
			known[p.Epoch] = true
			info.Epochs = append(info.Epochs, p.Epoch)
		}
	}
	return lines
}

// report calls Progress until the returned function is called.
func (b *backup) report() func() {
	return tick(b.o.Progress, func() Progress {
		return Progress{
			Files: b.files.Load(), Bytes: b.bytes.Load(), TotalFiles: b.totalFiles.Load(), TotalBytes: b.total.Load(),
			Stored: b.added.Load(), Elapsed: time.Since(b.began), Done: b.scanned.Load(),
		}
	})
}

// tick calls to four times a second, and once more at the end.
func tick(to func(Progress), now func() Progress) func() {
	if to == nil {
		return func() {}
	}
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		t := time.NewTicker(250 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				to(now())
			case <-stop:
				to(now())
				return
			}
		}
	})
	return func() { close(stop); done.Wait() }
}

func streamItem(s Source, now time.Time) *item {
	it := &item{}
	it.entry = tree.Entry{Path: s.Name, Kind: tree.File, Mode: s.Mode, ModTime: now, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	if s.Mode == 0 {
		it.entry.Mode = 0o600
	}
	it.parts = []*part{{item: it, stream: streamParts(s.Stream)}}
	it.left.Store(1)
	it.done = make(chan struct{})
	return it
}

// streamParts gives what a function writes in pieces.
func streamParts(run func(context.Context, io.Writer) error) func(context.Context, func([]byte) error) error {
	return func(ctx context.Context, emit func([]byte) error) error { return run(ctx, writerFunc(emit)) }
}

type writerFunc func([]byte) error

func (f writerFunc) Write(p []byte) (int, error) {
	if err := f(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// SourceOf names a path of this machine as tar does: without the leading slash, absolute when it would climb.
func SourceOf(path string) (Source, error) {
	clean := filepath.Clean(path)
	if !filepath.IsLocal(clean) && !filepath.IsAbs(clean) {
		abs, err := filepath.Abs(clean)
		if err != nil {
			return Source{}, fmt.Errorf("back up %s: %w", path, err)
		}
		clean = abs
	}
	name := strings.TrimPrefix(clean, "/")
	if name == "" {
		name = "."
	}
	return Source{Name: name, Path: clean}, nil
}
