package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/vault/internal/tree"
)

// Note is a remark about something that was not backed up as it should be.
type Note struct {
	Path   string `json:"path"`
	Kind   string `json:"kind"`
	Detail string `json:"detail,omitempty"`
}

// Kinds of notes. Unreadable makes a snapshot incomplete; the others say that what
// was stored is what was there at some moment, not at one moment.
const (
	NoteUnreadable = "unreadable"  // exists, and could not be read
	NoteVanished   = "vanished"    // was listed, and gone when it was to be read
	NoteChanged    = "changed"     // was written to while it was read
	NoteGrew       = "grew"        // became longer; stored up to the length it had at first
	NoteShrank     = "shrank"      // became shorter; stored up to its new end
	NoteRolledBack = "rolled back" // the repository lacks what this machine stored last
	NoteSkipped    = "skipped"     // of a kind that no backup can hold
)

// partLength bounds how much of a file one worker reads. Longer files are read by several
// workers, at the price of one more border for every part.
const partLength = 64 << 20

// item is one entry on its way into the manifest.
type item struct {
	entry tree.Entry
	path  string // where it is read
	stat  unix.Stat_t
	parts []*part
	left  atomic.Int32  // parts not yet read
	done  chan struct{} // closed when left is 0; nil when there is nothing to read
	notes []Note        // written by the scanner, and by whoever takes left to 0
	known []stored      // chunks of an unchanged file
}

// part is a range of the stored bytes of an item.
type part struct {
	item    *item
	extents []tree.Extent // where the range lies in the file
	length  int64
	read    int64
	refs    []stored
	note    Note
	stream  func(ctx context.Context, emit func([]byte) error) error // instead of a file
}

func lstat(path string, into *unix.Stat_t) error {
	return again(func() error { return unix.Lstat(path, into) })
}

// join appends a name to the path of an entry; "." is the root and is not written.
func join(dir, name string) string {
	if dir == "." || dir == "" {
		return name
	}
	return dir + "/" + name
}

func noteOf(name string, err error) Note {
	if errors.Is(err, fs.ErrNotExist) {
		return Note{Path: name, Kind: NoteVanished}
	}
	return Note{Path: name, Kind: NoteUnreadable, Detail: cause(err)}
}

// cause is the innermost error: paths of the machine are in the note already.
func cause(err error) string {
	var e unix.Errno
	if errors.As(err, &e) {
		return e.Error()
	}
	return err.Error()
}

// link makes an item a hard link when one of its names was emitted before.
func (s *scanner) link(it *item) {
	if it.entry.Kind == 0 || it.entry.Kind == tree.Directory || it.stat.Nlink < 2 {
		return
	}
	key := [2]uint64{it.stat.Dev, it.stat.Ino}
	first, seen := s.links[key]
	if !seen {
		s.links[key] = it.entry.Path
		return
	}
	it.entry.Kind, it.entry.Link, it.entry.Size = tree.HardLink, first, 0
	it.entry.Major, it.entry.Minor, it.entry.Xattrs = 0, 0, nil
}

// describe fills in the entry from what lstat said. Kind stays 0 for what cannot be stored.
func describe(it *item) {
	e, st := &it.entry, &it.stat
	e.Mode = st.Mode & 0o7777
	e.UID, e.GID = st.Uid, st.Gid
	e.ModTime = time.Unix(st.Mtim.Unix())
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Kind, e.Size = tree.File, st.Size
	case unix.S_IFDIR:
		e.Kind = tree.Directory
	case unix.S_IFLNK:
		e.Kind = tree.Symlink
		target, err := os.Readlink(it.path)
		if err != nil {
			e.Kind = 0
			it.notes = append(it.notes, noteOf(e.Path, err))
		}
		e.Link = target
	case unix.S_IFCHR:
		e.Kind, e.Major, e.Minor = tree.CharDev, unix.Major(st.Rdev), unix.Minor(st.Rdev)
	case unix.S_IFBLK:
		e.Kind, e.Major, e.Minor = tree.BlockDev, unix.Major(st.Rdev), unix.Minor(st.Rdev)
	case unix.S_IFIFO:
		e.Kind = tree.Fifo
	case unix.S_IFSOCK:
		e.Kind = tree.Socket
	}
	if e.Kind != 0 {
		readXattrs(it)
	}
}

// readXattrs reads extended attributes, ACLs among them, without following links.
func readXattrs(it *item) {
	size, err := unix.Llistxattr(it.path, nil)
	if err != nil || size == 0 {
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EPERM) {
			it.notes = append(it.notes, Note{it.entry.Path, NoteUnreadable, "extended attributes: " + cause(err)})
		}
		return
	}
	list := make([]byte, size+256)
	if size, err = unix.Llistxattr(it.path, list); err != nil {
		return // gone, or changed: the reader of the content notices
	}
	names := strings.Split(strings.TrimSuffix(string(list[:size]), "\x00"), "\x00")
	slices.Sort(names)
	for _, name := range names {
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(it.path, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			it.notes = append(it.notes, Note{it.entry.Path, NoteUnreadable, fmt.Sprintf("attribute %q: %s", name, cause(err))})
			continue
		}
		it.entry.Xattrs = append(it.entry.Xattrs, tree.Xattr{Name: name, Value: string(value[:n])})
	}
}

// findExtents asks the file system where the data of a file lies, when it occupies less than its length.
func findExtents(it *item) {
	e := &it.entry
	if e.Kind != tree.File || e.Size < 64<<10 || it.stat.Blocks*512 >= e.Size {
		return
	}
	f, err := os.Open(it.path)
	if err != nil {
		return // the reader of the content meets the same error and reports it
	}
	defer f.Close()
	fd := int(f.Fd())
	var all []tree.Extent
	for at := int64(0); at < e.Size; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return
		}
		hole, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if err != nil {
			return
		}
		if hole = min(hole, e.Size); data < hole {
			all = append(all, tree.Extent{Offset: data, Length: hole - data})
		}
		at = hole
	}
	if len(all) == 1 && all[0].Length == e.Size {
		return
	}
	if n := len(all); n == 0 || all[n-1].Offset+all[n-1].Length < e.Size {
		all = append(all, tree.Extent{Offset: e.Size})
	}
	e.Extents, e.Sparse = all, true
}

// cutParts divides the stored bytes of a file among workers.
func cutParts(it *item) {
	extents := it.entry.Extents
	if !it.entry.Sparse {
		extents = []tree.Extent{{Offset: 0, Length: it.entry.Size}}
	}
	now := &part{item: it}
	for _, x := range extents {
		for x.Length > 0 {
			n := min(x.Length, partLength-now.length)
			now.extents = append(now.extents, tree.Extent{Offset: x.Offset, Length: n})
			now.length += n
			x.Offset, x.Length = x.Offset+n, x.Length-n
			if now.length == partLength {
				it.parts = append(it.parts, now)
				now = &part{item: it}
			}
		}
	}
	if now.length > 0 {
		it.parts = append(it.parts, now)
	}
	if len(it.parts) > 0 {
		it.left.Store(int32(len(it.parts)))
		it.done = make(chan struct{})
	}
}
