package vault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/vault/internal/pack"
	"holdfast/internal/vault/internal/tree"
)

// RestoreOptions say what to restore where.
type RestoreOptions struct {
	Snapshot   string // ID, beginning of an ID, or "latest"
	Identities []EpochIdentity
	To         string   // a directory; made when it is not there
	Paths      []string // of the snapshot; each with all below it; none means all
	// Delta keeps what is there already and right: a file of the same size and time is not
	// looked at, of another one only the chunks that differ are fetched and written.
	Delta bool
	// Verify makes Delta read also files of the same size and time.
	Verify bool
	// Delete removes what is in To below the restored paths, and not in the snapshot.
	Delete   bool
	Progress func(Progress)
}

// RestoreInfo is what a restore did.
type RestoreInfo struct {
	Snapshot SnapshotInfo `json:"snapshot"`
	Files    int64        `json:"files"`   // entries that are not directories
	Bytes    int64        `json:"bytes"`   // of all files
	Written  int64        `json:"written"` // bytes written
	Kept     int64        `json:"kept"`    // files left as they were
	Fetched  int64        `json:"fetched"` // bytes read from the store
	Damaged  []string     `json:"damaged,omitempty"`
	Warnings []string     `json:"warnings,omitempty"` // owners, attributes, devices this user may not set
	Seconds  float64      `json:"seconds"`
}

// unfinished stands in a target while a restore works there, and stays when it did not end well.
const unfinished = ".holdfast-restore-unfinished"

// Restore writes a snapshot, or some paths of it, below a directory. Every byte is held against its
// keyed hash before it is written. Files whose bytes are lost are left out and named in Damaged; the
// error is then ErrDamaged, and all else is restored. The file .holdfast-restore-unfinished
// stands in the directory until all is whole.
func (r *Repository) Restore(ctx context.Context, o RestoreOptions) (RestoreInfo, error) {
	began := time.Now()
	s, err := r.open(ctx, o.Snapshot, o.Identities)
	if err != nil {
		return RestoreInfo{}, err
	}
	if err := s.listSizes(ctx); err != nil {
		return RestoreInfo{}, err
	}
	if s.entries, err = selectPaths(s.entries, o.Paths); err != nil {
		return RestoreInfo{}, err
	}
	w := &restore{opened: s, o: o, began: began}
	defer tick(o.Progress, w.progress)()
	if err := w.run(ctx); err != nil {
		return w.result(), err
	}
	return w.result(), w.verdict()
}

// selectPaths keeps the entries that are asked for. A hard link whose first name is not among them becomes a file.
func selectPaths(all []fileEntry, paths []string) ([]fileEntry, error) {
	if len(paths) == 0 {
		return all, nil
	}
	var out []fileEntry
	found := make([]bool, len(paths))
	kept, first := map[string]string{}, map[string]*fileEntry{}
	for i := range all {
		e := all[i]
		if e.Kind == tree.File {
			first[e.Path] = &all[i]
		}
		if !selected(e.Path, paths, found) {
			continue
		}
		if e.Kind == tree.HardLink {
			e = promote(e, kept, first)
		}
		if e.Kind == tree.File {
			kept[e.Path] = e.Path
		}
		out = append(out, e)
	}
	for i, ok := range found {
		if !ok {
			return nil, fmt.Errorf("path %q: %w: the snapshot does not hold it", paths[i], ErrNotFound)
		}
	}
	return out, nil
}

// promote makes the first kept name of a file the file itself.
func promote(e fileEntry, kept map[string]string, first map[string]*fileEntry) fileEntry {
	if name, ok := kept[e.Link]; ok {
		e.Link = name
		return e
	}
	original := first[e.Link]
	if original == nil {
		return e // a link to something that is no file
	}
	kept[e.Link] = e.Path
	path := e.Path
	e = *original
	e.Path = path
	return e
}

func selected(path string, paths []string, found []bool) bool {
	for i, p := range paths {
		p = strings.Trim(filepath.Clean("/"+p), "/")
		if p == "" || path == p || strings.HasPrefix(path, p+"/") {
			found[i] = true
			return true
		}
	}
	return false
}

// restore is one run.
type restore struct {
	*opened
	o       RestoreOptions
	began   time.Time
	targets []*target
	open    *openFiles
	empty   bool // the target was: nothing can be in the way
	setgid  bool // some directory hands its group on

	files, bytes, totalFiles, totalBytes, written, kept, fetched atomic.Int64

	mu       sync.Mutex // guards what follows
	damaged  map[string]string
	warnings []string
}

func (w *restore) progress() Progress {
	return Progress{Files: w.files.Load(), Bytes: w.bytes.Load(), TotalFiles: w.totalFiles.Load(), TotalBytes: w.totalBytes.Load(),
		Stored: w.fetched.Load(), Elapsed: time.Since(w.began), Done: true}
}

func (w *restore) result() RestoreInfo {
	info := RestoreInfo{Snapshot: w.info, Files: w.files.Load(), Bytes: w.bytes.Load(), Written: w.written.Load(),
		Kept: w.kept.Load(), Fetched: w.fetched.Load(), Warnings: w.warnings, Seconds: time.Since(w.began).Seconds()}
	for path := range w.damaged {
		info.Damaged = append(info.Damaged, path)
	}
	slices.Sort(info.Damaged)
	return info
}

func (w *restore) verdict() error {
	info := w.result()
	if len(info.Damaged) == 0 {
		return nil
	}
	first := info.Damaged[0]
	return fmt.Errorf("restore snapshot %s: %w: %d files are lost, first %q: %s", w.info.Short(), ErrDamaged, len(info.Damaged), first, w.damaged[first])
}

// lose notes that a file cannot be restored.
func (w *restore) lose(path, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.damaged[path] == "" {
		w.damaged[path] = why
	}
}

// warn notes something that this user may not do; at most a few are kept.
func (w *restore) warn(path string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.warnings) < 20 {
		w.warnings = append(w.warnings, fmt.Sprintf("%s: %v", path, err))
	}
}

func (w *restore) run(ctx context.Context) error {
	w.damaged = map[string]string{}
	for i := range w.entries {
		if e := &w.entries[i]; e.Kind != tree.Directory {
			w.totalFiles.Add(1)
			w.totalBytes.Add(e.Size)
		}
	}
	if err := os.MkdirAll(w.o.To, 0o755); err != nil {
		return fmt.Errorf("restore to %s: %w", w.o.To, err)
	}
	if err := w.look(); err != nil {
		return fmt.Errorf("restore to %s: %w", w.o.To, err)
	}
	mark := filepath.Join(w.o.To, unfinished)
	if err := os.WriteFile(mark, []byte("A restore of snapshot "+w.info.ID+" works here, or did not end well.\n"), 0o600); err != nil {
		return fmt.Errorf("restore to %s: %w", w.o.To, err)
	}
	w.open = newOpenFiles()
	defer w.open.closeAll()
	for _, stage := range []func(context.Context) error{w.clear, w.makeDirectories, w.prepareFiles, w.fill, w.makeOthers, w.finishDirectories} {
		if err := stage(ctx); err != nil {
			return err
		}
	}
	if len(w.damaged) > 0 {
		return nil
	}
	if err := os.Remove(mark); err != nil {
		return fmt.Errorf("restore to %s: %w", w.o.To, err)
	}
	return nil
}

// look learns what can be spared: in an empty target nothing is in the way.
func (w *restore) look() error {
	all, err := os.ReadDir(w.o.To)
	if err != nil {
		return err
	}
	info, err := os.Stat(w.o.To)
	if err != nil {
		return err
	}
	w.empty, w.setgid = len(all) == 0, info.Mode()&os.ModeSetgid != 0
	return nil
}

// clear removes what the snapshot does not hold, when asked to.
func (w *restore) clear(ctx context.Context) error {
	if !w.o.Delete {
		return nil
	}
	wanted := map[string]bool{".": true, unfinished: true}
	for i := range w.entries {
		for p := w.entries[i].Path; !wanted[p]; p = filepath.Dir(p) {
			wanted[p] = true
		}
	}
	return filepath.WalkDir(w.o.To, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(w.o.To, path)
		if err != nil || wanted[name] || !w.below(name) {
			return errors.Join(err, ctx.Err())
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if d.IsDir() {
			return filepath.SkipDir
		}
		return nil
	})
}

// below tells whether a name lies in what is restored.
func (w *restore) below(name string) bool {
	return len(w.o.Paths) == 0 || selected(name, w.o.Paths, make([]bool, len(w.o.Paths)))
}

func (w *restore) path(name string) string { return filepath.Join(w.o.To, name) }

// makeDirectories makes every directory and those that lead there. A link in their place goes: what is
// restored must not leave the target through it.
func (w *restore) makeDirectories(ctx context.Context) error {
	made := map[string]bool{".": true}
	for i := range w.entries {
		e := &w.entries[i]
		dir := e.Path
		if e.Kind != tree.Directory {
			dir = filepath.Dir(e.Path)
		}
		if err := w.makeDirectory(dir, made); err != nil {
			return fmt.Errorf("restore directory %s: %w", dir, err)
		}
	}
	return ctx.Err()
}

func (w *restore) makeDirectory(name string, made map[string]bool) error {
	if made[name] {
		return nil
	}
	if err := w.makeDirectory(filepath.Dir(name), made); err != nil {
		return err
	}
	made[name] = true
	path := w.path(name)
	err := os.Mkdir(path, 0o700)
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil || info.IsDir() {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.Mkdir(path, 0o700)
}

// finishDirectories sets what would change when something is made inside, deepest first.
func (w *restore) finishDirectories(context.Context) error {
	for i := len(w.entries) - 1; i >= 0; i-- {
		if e := &w.entries[i]; e.Kind == tree.Directory {
			w.finishDirectory(&e.Entry, w.path(e.Path))
		}
	}
	return nil
}

// makeOthers makes what has no content of its own; hard links are last.
func (w *restore) makeOthers(ctx context.Context) error {
	for _, links := range []bool{false, true} {
		for i := range w.entries {
			e := &w.entries[i]
			if e.Kind == tree.File || e.Kind == tree.Directory || (e.Kind == tree.HardLink) != links {
				continue
			}
			if err := w.makeOther(&e.Entry); err != nil {
				w.warn(e.Path, err)
			}
			w.files.Add(1)
		}
	}
	return ctx.Err()
}

// fetchers is how many packs are fetched at a time, ahead of those that are being written.
const fetchers = 2

// fill brings the bytes, pack by pack: some packs are fetched while others are written, so that neither
// the store nor the disk waits for the other.
func (w *restore) fill(ctx context.Context) error {
	needs, err := w.needs(ctx)
	if err != nil {
		return err
	}
	all, ctx := errgroup.WithContext(ctx)
	writers := max(2, min(runtime.NumCPU(), 4))
	numbers, fetched := make(chan uint32), make(chan *fetchedPack)
	free := make(chan []byte, fetchers+writers) // what bounds the memory of packs on their way
	for range cap(free) {
		free <- nil
	}
	all.Go(func() error {
		defer close(numbers)
		for _, n := range packOrder(needs) {
			if err := sendTo(ctx, numbers, n); err != nil {
				return err
			}
		}
		return nil
	})
	var fetching sync.WaitGroup
	fetching.Add(fetchers)
	for range fetchers {
		all.Go(func() error {
			defer fetching.Done()
			return w.fetchAll(ctx, numbers, needs, free, fetched)
		})
	}
	all.Go(func() error { fetching.Wait(); close(fetched); return nil })
	for range writers {
		all.Go(func() error { return w.writeAll(fetched, free) })
	}
	return all.Wait()
}

func packOrder(needs map[uint32][]need) []uint32 {
	var out []uint32
	for n := range needs {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// need is a chunk that a target waits for.
type need struct {
	ordinal uint32
	length  uint32
	target  *target
	at      int64 // in the stored bytes of the file
}

// needs sorts the chunks of all targets by pack and ordinal.
func (w *restore) needs(ctx context.Context) (map[uint32][]need, error) {
	packs := map[uint32]bool{}
	for _, t := range w.targets {
		for _, r := range t.entry.refs {
			packs[r.Pack] = true
		}
	}
	lengths, bad, err := w.lengths(ctx, packs)
	if err != nil {
		return nil, err
	}
	needs := map[uint32][]need{}
	for _, t := range w.targets {
		if why := w.addNeeds(needs, t, lengths, bad); why != "" {
			w.lose(t.entry.Path, why)
			w.open.abandon(t)
		}
	}
	for _, n := range needs {
		slices.SortFunc(n, func(a, b need) int { return int(a.ordinal) - int(b.ordinal) })
	}
	return needs, nil
}

// addNeeds tells why a file cannot be restored, or nothing.
func (w *restore) addNeeds(needs map[uint32][]need, t *target, lengths map[uint32][]uint32, bad map[uint32]error) string {
	at := int64(0)
	mine := make([]need, 0, len(t.entry.refs))
	for _, r := range t.entry.refs {
		if err := bad[r.Pack]; err != nil {
			return err.Error()
		}
		all := lengths[r.Pack]
		if int(r.Ordinal) >= len(all) {
			return fmt.Sprintf("pack %s has no chunk %d", w.packs[r.Pack-1].Name, r.Ordinal)
		}
		mine = append(mine, need{r.Ordinal, all[r.Ordinal], t, at})
		at += int64(all[r.Ordinal])
	}
	if at != t.entry.Stored() {
		return fmt.Sprintf("its chunks are %d bytes long, want %d", at, t.entry.Stored())
	}
	t.left.Store(int32(len(mine)))
	for i, r := range t.entry.refs {
		needs[r.Pack] = append(needs[r.Pack], mine[i])
	}
	return ""
}

// filler fetches packs, or brings the chunks of fetched ones to their files.
type filler struct {
	w      *restore
	reader *pack.Reader
	local  []byte
}

// fetchedPack holds what the needs lie in.
type fetchedPack struct {
	file   *packFile
	table  *pack.Table
	plain  readerAt
	needs  []need
	buffer []byte // to be given back
}

func newFiller(w *restore) (*filler, error) {
	r, err := pack.NewReader(w.keys)
	if err != nil {
		return nil, err
	}
	return &filler{w: w, reader: r}, nil
}

// wholeAbove is the share of a pack above which it is read in one piece.
const wholeAbove = 0.6

// fetchAll fetches packs as long as there are numbers, each into a free buffer.
func (w *restore) fetchAll(ctx context.Context, numbers <-chan uint32, needs map[uint32][]need, free chan []byte, to chan<- *fetchedPack) error {
	f, err := newFiller(w)
	if err != nil {
		return err
	}
	for n := range numbers {
		var buffer []byte
		select {
		case buffer = <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		p, err := f.fetch(ctx, n, needs[n], buffer)
		if err != nil {
			return err
		}
		if p == nil {
			free <- buffer
			continue
		}
		if err := sendTo(ctx, to, p); err != nil {
			return err
		}
	}
	return nil
}

// writeAll writes what was fetched.
func (w *restore) writeAll(from <-chan *fetchedPack, free chan<- []byte) error {
	f, err := newFiller(w)
	if err != nil {
		return err
	}
	for p := range from {
		if err := f.frames(p.file, p.table, p.plain, p.needs); err != nil {
			return err
		}
		free <- p.buffer
	}
	return nil
}

// fetch gives nil for a pack of which nothing is needed, or that is damaged: that is noted, and ends nothing.
func (f *filler) fetch(ctx context.Context, number uint32, needs []need, buffer []byte) (*fetchedPack, error) {
	file, id, err := f.w.file(ctx, number)
	if err != nil {
		return nil, f.damage(needs, err)
	}
	defer func() { f.w.fetched.Add(file.read) }()
	table, plain, size, err := f.w.table(file, id, number, f.reader)
	if err != nil {
		return nil, f.damage(needs, err)
	}
	if needs, err = f.keepRight(table, needs); err != nil || len(needs) == 0 {
		return nil, err
	}
	p := &fetchedPack{file: file, table: table, plain: plain, needs: needs, buffer: buffer}
	if err := p.load(size); err != nil {
		return nil, f.damage(needs, gone(err))
	}
	return p, nil
}

// load fetches what the needs lie in.
func (p *fetchedPack) load(size int64) error {
	var spans []span
	sum, last := int64(0), uint32(1<<32-1)
	for _, n := range p.needs {
		if frame := p.table.Chunks[n.ordinal].Frame; frame != last {
			x := p.table.Frames[frame]
			spans = append(spans, span{x.Offset, int64(x.Length)})
			sum, last = sum+int64(x.Length), frame
		}
	}
	file := p.file
	if float64(sum) < wholeAbove*float64(size) {
		return file.ahead(spans, size)
	}
	data, err := wholePack(file.ctx, file.store, file.name, file.size, p.buffer)
	p.buffer = data
	file.read += int64(len(data))
	if err != nil {
		return err
	}
	if int64(len(data)) != file.size {
		return fmt.Errorf("read %s: %w: %d bytes, want %d", file.name, ErrDamaged, len(data), file.size)
	}
	file.held = []heldRange{{0, data}}
	return nil
}

// frames decompresses each frame once and writes the chunks in it.
func (f *filler) frames(file *packFile, table *pack.Table, plain readerAt, needs []need) error {
	slices.SortStableFunc(needs, func(a, b need) int {
		return int(table.Chunks[a.ordinal].Frame) - int(table.Chunks[b.ordinal].Frame)
	})
	for len(needs) > 0 {
		frame := table.Chunks[needs[0].ordinal].Frame
		end := slices.IndexFunc(needs, func(n need) bool { return table.Chunks[n.ordinal].Frame != frame })
		if end < 0 {
			end = len(needs)
		}
		if err := f.frame(file, table, plain, frame, needs[:end]); err != nil {
			return err
		}
		needs = needs[end:]
		if err := file.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (f *filler) frame(file *packFile, table *pack.Table, plain readerAt, frame uint32, needs []need) error {
	raw, err := f.reader.Frame(plain, table.Frames[frame])
	if err != nil {
		return f.damage(needs, fmt.Errorf("%s: %w: %w", file.name, ErrDamaged, err))
	}
	for len(needs) > 0 {
		ordinal := needs[0].ordinal
		data, err := f.reader.Chunk(raw, table.Chunks[ordinal])
		for len(needs) > 0 && needs[0].ordinal == ordinal {
			if err != nil {
				err = f.damage(needs[:1], fmt.Errorf("%s: %w: %w", file.name, ErrDamaged, err))
			} else {
				err = f.w.write(needs[0], data)
			}
			if err != nil && !errors.Is(err, ErrDamaged) {
				return err
			}
			needs = needs[1:]
		}
	}
	return nil
}

// damage notes the loss of all files that wait for needs. An error that is no damage is returned.
func (f *filler) damage(needs []need, err error) error {
	if !errors.Is(err, ErrDamaged) {
		return err
	}
	for _, n := range needs {
		f.w.lose(n.target.entry.Path, err.Error())
		f.w.open.abandon(n.target)
	}
	return nil
}
