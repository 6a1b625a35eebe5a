package vault

import (
	"context"
	"errors"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"holdfast/internal/vault/internal/tree"
)

// scanner walks sources in a fixed order: by the bytes of the names, a directory before what it holds. While it
// visits one directory the next ones beside it are looked at already; what comes of it does not depend on that.
type scanner struct {
	ctx     context.Context
	emit    func(*item) error
	links   map[[2]uint64]string   // first path of a file with several names
	skip    func(path string) bool // asked before a name is looked at: it may lead to a server that is away
	ahead   sync.WaitGroup         // folders in the making
	buffers sync.Pool              // of *[]byte, for names of a directory as the system gives them
}

// Bounds of what is looked at before its turn, in every directory that leads to the one being visited. They keep memory
// below a few MB at any depth and length.
const (
	foldersAhead = 4
	itemsAhead   = 256
)

// folder is what a directory holds.
type folder struct {
	done  chan struct{} // closed when what follows is there
	items []*item       // of the first names
	rest  []string      // names that are looked at in their turn
	err   error
}

// walk emits a source and all below it.
func (s *scanner) walk(name, path string) error {
	defer s.ahead.Wait()
	return s.visit(look(unix.AT_FDCWD, path, name, path), nil)
}

// visit emits an item, and what it holds when it is a directory; f is that, when it was looked at already.
func (s *scanner) visit(it *item, f *folder) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	s.link(it)
	if it.entry.Kind != tree.Directory {
		return s.emit(it)
	}
	if f == nil {
		f = s.open(it)
	}
	<-f.done
	if f.err != nil {
		it.notes = append(it.notes, noteOf(it.entry.Path, f.err))
	}
	name, path := it.entry.Path, it.path // the entry is another's when it is emitted
	if err := s.emit(it); err != nil {
		return err
	}
	if err := s.visitItems(f.items); err != nil {
		return err
	}
	for _, n := range f.rest {
		below := path + "/" + n
		if s.skip != nil && s.skip(below) {
			continue
		}
		if err := s.visit(look(unix.AT_FDCWD, below, join(name, n), below), nil); err != nil {
			return err
		}
	}
	return nil
}

// visitItems visits what was looked at, and opens the next directories among it before their turn.
func (s *scanner) visitItems(items []*item) error {
	var opened []*folder // of directories not yet visited, in order
	next := 0            // the first item that was not tried for opening
	for i, it := range items {
		var own *folder
		if it.entry.Kind == tree.Directory {
			for next = max(next, i); next < len(items) && len(opened) <= foldersAhead; next++ {
				if items[next].entry.Kind == tree.Directory {
					opened = append(opened, s.open(items[next]))
				}
			}
			own, opened = opened[0], opened[1:]
		}
		items[i] = nil // the manifest may be done with it long before its folder is
		if err := s.visit(it, own); err != nil {
			return err
		}
	}
	return nil
}

// open begins to look at what a directory holds.
func (s *scanner) open(it *item) *folder {
	f := &folder{done: make(chan struct{})}
	name, path := it.entry.Path, it.path
	s.ahead.Go(func() {
		defer close(f.done)
		if f.err = s.ctx.Err(); f.err == nil {
			s.read(f, name, path)
		}
	})
	return f
}

// read fills a folder. Names are looked at from the open directory, which spares the system the way to it.
func (s *scanner) read(f *folder, name, path string) {
	fd, err := openFolder(path)
	if err != nil {
		f.err = err
		return
	}
	defer unix.Close(fd)
	names, err := s.names(fd)
	f.err = err
	now := min(len(names), itemsAhead)
	f.rest = names[now:]
	f.items = make([]*item, 0, now)
	for _, n := range names[:now] {
		below := path + "/" + n
		if s.skip == nil || !s.skip(below) {
			f.items = append(f.items, look(fd, n, join(name, n), below))
		}
	}
}

// openFolder asks the system itself: the runtime would try to poll the directory, with half a dozen calls.
func openFolder(path string) (fd int, err error) {
	err = again(func() error {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}

// names gives the names in an open directory in order, as many as could be read.
func (s *scanner) names(fd int) (names []string, err error) {
	b, ok := s.buffers.Get().(*[]byte)
	if !ok {
		b = new(make([]byte, 32<<10))
	}
	defer s.buffers.Put(b)
	for n := 1; n > 0 && err == nil; {
		err = again(func() error { n, err = unix.ReadDirent(fd, *b); return err })
		if err == nil {
			_, _, names = unix.ParseDirent((*b)[:n], -1, names)
		}
	}
	slices.Sort(names)
	return names, err
}

// look learns about one name: at, seen from an open directory. An item of no kind says in its notes why.
func look(dir int, at, name, path string) *item {
	it := &item{path: path}
	it.entry.Path = name
	err := again(func() error { return unix.Fstatat(dir, at, &it.stat, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		it.notes = []Note{noteOf(name, err)}
		return it
	}
	describe(it)
	if it.entry.Kind == 0 && len(it.notes) == 0 {
		it.notes = []Note{{Path: name, Kind: NoteSkipped}}
	}
	return it
}

// again repeats a call to the system that a signal interrupted.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
