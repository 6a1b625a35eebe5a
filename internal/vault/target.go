package vault

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/vault/internal/pack"
	"holdfast/internal/vault/internal/tree"
)

type readerAt = io.ReaderAt

// target is a file that is being restored.
type target struct {
	entry *fileEntry
	path  string
	left  atomic.Int32 // chunks not yet there
	old   bool         // was there before: compare before writing

	made atomic.Bool // was created by us
	lost atomic.Bool // given up

	mu   sync.Mutex // guards file
	file *os.File

	used int64 // when it was last used; guarded by openFiles
	busy int   // likewise
}

// openFiles bounds how many files are open at once.
type openFiles struct {
	mu    sync.Mutex
	open  map[*target]struct{}
	clock int64
}

const maxOpen = 512

func newOpenFiles() *openFiles { return &openFiles{open: map[*target]struct{}{}} }

// get gives the open file of a target, nil when it was given up; put must follow when there is no error.
func (o *openFiles) get(t *target) (*os.File, error) {
	o.hold(t)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file != nil || t.lost.Load() {
		return t.file, nil
	}
	f, err := openTarget(t)
	if err != nil {
		o.put(t)
		return nil, fmt.Errorf("restore file: %w", err)
	}
	t.file = f
	return f, nil
}

// hold keeps a target's file open until put, and makes room for it. Opening happens outside of the lock
// of all: it is what takes time.
func (o *openFiles) hold(t *target) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clock++
	t.used = o.clock
	t.busy++
	if _, known := o.open[t]; known {
		return
	}
	if len(o.open) >= maxOpen {
		o.closeOldest()
	}
	o.open[t] = struct{}{}
}

// openTarget opens a file that was there, or makes it. Asking the system itself spares the runtime's attempts to
// poll the file: half a dozen calls for each of many small files.
func openTarget(t *target) (*os.File, error) {
	flags := unix.O_RDWR | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	if t.old || t.made.Swap(true) {
		flags &^= unix.O_CREAT | unix.O_EXCL
	}
	for {
		fd, err := unix.Open(t.path, flags, 0o600)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: t.path, Err: err}
		}
		return os.NewFile(uintptr(fd), t.path), nil
	}
}

func (o *openFiles) put(t *target) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t.busy--
}

// closeOldest closes the idle file that was used longest ago.
func (o *openFiles) closeOldest() {
	var oldest *target
	for t := range o.open {
		if t.busy == 0 && (oldest == nil || t.used < oldest.used) {
			oldest = t
		}
	}
	if oldest != nil {
		oldest.close()
		delete(o.open, oldest)
	}
}

// close closes the file of a target that is not busy.
func (t *target) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file != nil {
		t.file.Close()
		t.file = nil
	}
}

// abandon gives up a file: half of it must not be taken for whole. One that was there before keeps what it had.
func (o *openFiles) abandon(t *target) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if t.lost.Swap(true) {
		return
	}
	if t.busy == 0 {
		t.close()
		delete(o.open, t)
	}
	if !t.old {
		os.Remove(t.path)
	}
}

// take removes a finished file from the set, for its last touches.
func (o *openFiles) take(t *target) *os.File {
	o.mu.Lock()
	delete(o.open, t)
	o.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.file
	t.file = nil
	return f
}

func (o *openFiles) closeAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for t := range o.open {
		t.close()
	}
}

// prepareFiles decides for every file what is to be done, and finishes those that need no bytes.
func (w *restore) prepareFiles(ctx context.Context) error {
	for i := range w.entries {
		e := &w.entries[i]
		if e.Kind != tree.File {
			continue
		}
		if err := w.prepareFile(e); err != nil {
			return fmt.Errorf("restore %s: %w", e.Path, err)
		}
	}
	return ctx.Err()
}

func (w *restore) prepareFile(e *fileEntry) error {
	t := &target{entry: e, path: w.path(e.Path)}
	var st unix.Stat_t
	if !w.empty && lstat(t.path, &st) == nil {
		if w.isRight(e, &st) {
			w.mend(&e.Entry, t.path, &st)
			w.kept.Add(1)
			w.files.Add(1)
			w.bytes.Add(e.Size)
			return nil
		}
		t.old = w.o.Delta && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1 && !e.Sparse
		if !t.old {
			if err := os.RemoveAll(t.path); err != nil {
				return err
			}
		}
	}
	if len(e.refs) == 0 {
		return w.finish(t)
	}
	w.targets = append(w.targets, t)
	return nil
}

// isRight tells whether an existing file is taken as it is.
func (w *restore) isRight(e *fileEntry, st *unix.Stat_t) bool {
	return w.o.Delta && !w.o.Verify && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == e.Size &&
		time.Unix(st.Mtim.Unix()).Equal(e.ModTime) && st.Nlink == 1
}

// keepRight compares files that were there with what they should hold, and drops the needs that are met.
func (f *filler) keepRight(table *pack.Table, needs []need) ([]need, error) {
	var out []need
	for _, n := range needs {
		if int(n.ordinal) >= len(table.Chunks) {
			return nil, fmt.Errorf("chunk %d: %w", n.ordinal, ErrDamaged)
		}
		if !n.target.old || !f.hasChunk(n, table.Chunks[n.ordinal]) {
			out = append(out, n)
			continue
		}
		f.w.bytes.Add(int64(n.length))
		if err := f.w.arrived(n.target); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// hasChunk reads the place of a chunk in the old file.
func (f *filler) hasChunk(n need, c pack.Chunk) bool {
	file, err := f.w.open.get(n.target)
	if err != nil || file == nil {
		return false
	}
	defer f.w.open.put(n.target)
	f.local = slices.Grow(f.local[:0], int(n.length))[:n.length]
	if _, err := file.ReadAt(f.local, n.at); err != nil {
		return false
	}
	return f.reader.Is(f.local, c)
}

// writeWhole makes a file of one chunk, as most are, without the bookkeeping of those that take longer.
func (w *restore) writeWhole(t *target, data []byte) error {
	f, err := openTarget(t)
	if err != nil {
		return fmt.Errorf("restore file: %w", err)
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("restore %s: %w", t.entry.Path, err)
	}
	w.setFileMeta(&t.entry.Entry, f)
	w.written.Add(int64(len(data)))
	w.bytes.Add(int64(len(data)))
	w.files.Add(1)
	return nil
}

// write puts a chunk where it belongs, and finishes the file when it was the last.
func (w *restore) write(n need, data []byte) error {
	if t := n.target; len(t.entry.refs) == 1 && !t.old && !t.entry.Sparse {
		return w.writeWhole(t, data)
	}
	file, err := w.open.get(n.target)
	if err != nil {
		return err
	}
	if file != nil {
		err = writeStored(file, &n.target.entry.Entry, data, n.at)
	}
	w.open.put(n.target)
	if err != nil {
		return fmt.Errorf("restore %s: %w", n.target.entry.Path, err)
	}
	w.written.Add(int64(len(data)))
	w.bytes.Add(int64(len(data)))
	return w.arrived(n.target)
}

// writeStored writes at a place in the stored bytes of a file, which for a sparse one are its extents.
func writeStored(f io.WriterAt, e *tree.Entry, data []byte, at int64) error {
	if !e.Sparse {
		_, err := f.WriteAt(data, at)
		return err
	}
	for _, x := range e.Extents {
		if at >= x.Length {
			at -= x.Length
			continue
		}
		n := min(int64(len(data)), x.Length-at)
		if _, err := f.WriteAt(data[:n], x.Offset+at); err != nil {
			return err
		}
		data, at = data[n:], 0
		if len(data) == 0 {
			return nil
		}
	}
	return nil
}

func (w *restore) arrived(t *target) error {
	if t.left.Add(-1) > 0 {
		return nil
	}
	return w.finish(t)
}

// finish gives a file its length and all that is said about it.
func (w *restore) finish(t *target) error {
	f, err := w.open.get(t)
	if err != nil {
		return err
	}
	w.open.put(t)
	if f == nil {
		return nil // lost
	}
	w.open.take(t)
	defer f.Close()
	if t.old || t.entry.Sparse {
		if err := f.Truncate(t.entry.Size); err != nil {
			return fmt.Errorf("restore %s: %w", t.entry.Path, err)
		}
	}
	w.setFileMeta(&t.entry.Entry, f)
	w.files.Add(1)
	w.bytes.Add(t.entry.Size - t.entry.Stored()) // holes
	return nil
}

// setFileMeta sets owner, attributes, mode and times, in the order in which none undoes another.
func (w *restore) setFileMeta(e *tree.Entry, f *os.File) {
	fd := int(f.Fd())
	if !w.owned(e) {
		if err := unix.Fchown(fd, int(e.UID), int(e.GID)); err != nil {
			w.warn(e.Path, fmt.Errorf("owner: %w", err))
		}
	}
	for _, x := range e.Xattrs {
		if err := unix.Fsetxattr(fd, x.Name, []byte(x.Value), 0); err != nil {
			w.warn(e.Path, fmt.Errorf("attribute %s: %w", x.Name, err))
		}
	}
	if err := unix.Fchmod(fd, e.Mode); err != nil {
		w.warn(e.Path, fmt.Errorf("mode: %w", err))
	}
	ts := []unix.Timespec{timespec(e.ModTime), timespec(e.ModTime)}
	if err := unix.UtimesNanoAt(fd, "", ts, unix.AT_EMPTY_PATH); err != nil {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, f.Name(), ts, unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			w.warn(e.Path, fmt.Errorf("time: %w", err))
		}
	}
}

// owned tells whether a file that we made in an empty target has its owner already: files take the user's
// identity, unless the directory gives them its group.
func (w *restore) owned(e *tree.Entry) bool {
	if !w.empty || int(e.UID) != os.Geteuid() || int(e.GID) != os.Getegid() {
		return false
	}
	return !w.setgid
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// mend sets what is said about something that was there already, unless all of it is so: a change that changes
// nothing still gives it a new change time, and makes the next backup read it.
func (w *restore) mend(e *tree.Entry, path string, st *unix.Stat_t) {
	if same := len(e.Xattrs) == 0 && st.Uid == e.UID && st.Gid == e.GID && st.Mode&0o7777 == e.Mode; same && time.Unix(st.Mtim.Unix()).Equal(e.ModTime) {
		return
	}
	w.setMeta(e, path)
}

// finishDirectory sets what would have changed when something was made inside.
func (w *restore) finishDirectory(e *tree.Entry, path string) {
	var st unix.Stat_t
	if !w.empty && lstat(path, &st) == nil {
		w.mend(e, path, &st)
		return
	}
	w.setMeta(e, path)
}

// setMeta is setFileMeta for what has no open file; links are not followed.
func (w *restore) setMeta(e *tree.Entry, path string) {
	if err := unix.Lchown(path, int(e.UID), int(e.GID)); err != nil {
		w.warn(e.Path, fmt.Errorf("owner: %w", err))
	}
	for _, x := range e.Xattrs {
		if err := unix.Lsetxattr(path, x.Name, []byte(x.Value), 0); err != nil {
			w.warn(e.Path, fmt.Errorf("attribute %s: %w", x.Name, err))
		}
	}
	if e.Kind != tree.Symlink {
		if err := unix.Chmod(path, e.Mode); err != nil {
			w.warn(e.Path, fmt.Errorf("mode: %w", err))
		}
	}
	ts := []unix.Timespec{timespec(e.ModTime), timespec(e.ModTime)}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		w.warn(e.Path, fmt.Errorf("time: %w", err))
	}
}

// makeOther makes a link, device, pipe or socket, in place of whatever is there.
func (w *restore) makeOther(e *tree.Entry) error {
	path := w.path(e.Path)
	if e.Kind == tree.HardLink && sameFile(path, w.path(e.Link)) {
		return nil
	}
	if w.isLink(e, path) {
		return nil
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	var err error
	switch e.Kind {
	case tree.HardLink:
		return os.Link(w.path(e.Link), path)
	case tree.Symlink:
		err = os.Symlink(e.Link, path)
	case tree.Fifo:
		err = unix.Mkfifo(path, 0o600)
	case tree.Socket:
		err = unix.Mknod(path, unix.S_IFSOCK|0o600, 0)
	case tree.CharDev:
		err = unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(e.Major, e.Minor)))
	case tree.BlockDev:
		err = unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(e.Major, e.Minor)))
	}
	if err == nil {
		w.setMeta(e, path)
	}
	return err
}

// isLink tells whether a symbolic link is there as it should be, after setting what is said about it.
func (w *restore) isLink(e *tree.Entry, path string) bool {
	var st unix.Stat_t
	if e.Kind != tree.Symlink || w.empty || lstat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return false
	}
	if to, err := os.Readlink(path); err != nil || to != e.Link {
		return false
	}
	w.mend(e, path, &st)
	return true
}

func sameFile(a, b string) bool {
	x, err := os.Lstat(a)
	y, err2 := os.Lstat(b)
	return err == nil && err2 == nil && os.SameFile(x, y)
}
