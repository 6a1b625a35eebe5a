// Package mount shows snapshots as a read-only file system, where the system has FUSE.
//
// The root has one folder per snapshot, named by its time, and the link "latest".
package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"holdfast/internal/vault"
)

// ErrMissing: the system has no FUSE, or this user may not use it.
var ErrMissing = errors.New("this system shows no FUSE file systems")

// available tells why a mount cannot work, before it is tried.
func available() error {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMissing, err)
	}
	return f.Close()
}

// Open opens a snapshot when someone looks into it.
type Open func(ctx context.Context, snapshot string) (*vault.View, error)

// Run shows the snapshots at dir until ctx ends or someone unmounts it. ready is called when it is there.
func Run(ctx context.Context, dir string, snapshots []vault.SnapshotInfo, open Open, ready func()) error {
	if err := available(); err != nil {
		return fmt.Errorf("mount at %s: %w", dir, err)
	}
	root := &rootNode{snapshots: snapshots, open: open}
	server, err := fs.Mount(dir, root, &fs.Options{MountOptions: fuse.MountOptions{Options: []string{"ro"}, FsName: "holdfast", Name: "holdfast"}})
	if err != nil {
		return fmt.Errorf("mount at %s: %w", dir, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Unmount() }) // busy: it goes with the process
	defer stop()
	ready()
	server.Wait()
	return nil
}

type rootNode struct {
	fs.Inode
	snapshots []vault.SnapshotInfo
	open      Open
}

// OnAdd makes the folders.
func (r *rootNode) OnAdd(ctx context.Context) {
	last := ""
	for _, s := range r.snapshots {
		last = s.Time.Local().Format("2006-01-02T150405") + "-" + s.Short()
		child := r.NewPersistentInode(ctx, &snapshotNode{id: s.ID, open: r.open, time: s}, fs.StableAttr{Mode: syscall.S_IFDIR})
		r.AddChild(last, child, true)
	}
	if last != "" {
		r.AddChild("latest", r.NewPersistentInode(ctx, &fs.MemSymlink{Data: []byte(last)}, fs.StableAttr{Mode: syscall.S_IFLNK}), true)
	}
}

// snapshotNode opens its snapshot at the first look.
type snapshotNode struct {
	fs.Inode
	id   string
	time vault.SnapshotInfo
	open Open
}

var (
	_ fs.NodeLookuper  = (*snapshotNode)(nil)
	_ fs.NodeReaddirer = (*snapshotNode)(nil)
	_ fs.NodeOpener    = (*fileNode)(nil)
	_ fs.NodeReader    = (*fileNode)(nil)
	_ fs.NodeGetattrer = (*fileNode)(nil)
)

func (n *snapshotNode) load(ctx context.Context) syscall.Errno {
	if len(n.Children()) > 0 {
		return 0
	}
	view, err := n.open(ctx, n.id)
	if err != nil {
		return syscall.EIO
	}
	byPath := map[string]*fs.Inode{".": &n.Inode}
	for i, e := range view.Entries() {
		n.add(ctx, view, byPath, i, e)
	}
	return 0
}

// add makes the node of an entry, below its folder.
func (n *snapshotNode) add(ctx context.Context, view *vault.View, byPath map[string]*fs.Inode, number int, e vault.Entry) {
	if e.Path == "." {
		return
	}
	parent := n.folder(ctx, byPath, path.Dir(e.Path))
	if e.Kind == "hardlink" {
		if target := byPath[e.Link]; target != nil {
			if file, ok := target.Operations().(*fileNode); ok {
				file.names++
			}
			parent.AddChild(path.Base(e.Path), target, true)
			byPath[e.Path] = target
		}
		return
	}
	if known := byPath[e.Path]; known != nil {
		return
	}
	node := &fileNode{view: view, number: number, entry: e}
	var child *fs.Inode
	if e.Kind == "symlink" {
		child = n.NewPersistentInode(ctx, &fs.MemSymlink{Data: []byte(e.Link), Attr: node.attr()}, fs.StableAttr{Mode: syscall.S_IFLNK})
	} else {
		child = n.NewPersistentInode(ctx, node, fs.StableAttr{Mode: typeBits(e.Kind)})
	}
	parent.AddChild(path.Base(e.Path), child, true)
	byPath[e.Path] = child
}

// folder gives the node of a folder, and makes those that no entry describes.
func (n *snapshotNode) folder(ctx context.Context, byPath map[string]*fs.Inode, name string) *fs.Inode {
	if known := byPath[name]; known != nil {
		return known
	}
	parent := n.folder(ctx, byPath, path.Dir(name))
	child := n.NewPersistentInode(ctx, &fs.Inode{}, fs.StableAttr{Mode: syscall.S_IFDIR})
	parent.AddChild(path.Base(name), child, true)
	byPath[name] = child
	return child
}

// Lookup implements fs.NodeLookuper.
func (n *snapshotNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.load(ctx); errno != 0 {
		return nil, errno
	}
	child := n.GetChild(name)
	if child == nil {
		return nil, syscall.ENOENT
	}
	if getter, ok := child.Operations().(fs.NodeGetattrer); ok {
		var attr fuse.AttrOut
		if errno := getter.Getattr(ctx, nil, &attr); errno == 0 {
			out.Attr = attr.Attr
		}
	}
	return child, 0
}

// Readdir implements fs.NodeReaddirer.
func (n *snapshotNode) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	if errno := n.load(ctx); errno != 0 {
		return nil, errno
	}
	var out []fuse.DirEntry
	for name, child := range n.Children() {
		out = append(out, fuse.DirEntry{Name: name, Mode: child.Mode()})
	}
	return fs.NewListDirStream(out), 0
}

// fileNode is any entry but a link.
type fileNode struct {
	fs.Inode
	view   *vault.View
	number int
	entry  vault.Entry
	names  uint32 // beside the first one; final before anyone sees the node
}

func typeBits(kind string) uint32 {
	switch kind {
	case "directory":
		return syscall.S_IFDIR
	case "fifo":
		return syscall.S_IFIFO
	case "socket":
		return syscall.S_IFSOCK
	case "char":
		return syscall.S_IFCHR
	case "block":
		return syscall.S_IFBLK
	}
	return syscall.S_IFREG
}

func (n *fileNode) attr() fuse.Attr {
	e := n.entry
	a := fuse.Attr{Mode: typeBits(e.Kind) | e.Mode, Size: uint64(e.Size), Blocks: uint64(e.Size+511) / 512, Owner: fuse.Owner{Uid: e.UID, Gid: e.GID}, Nlink: 1 + n.names}
	a.SetTimes(&e.ModTime, &e.ModTime, &e.ModTime)
	return a
}

// Getattr implements fs.NodeGetattrer.
func (n *fileNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Attr = n.attr()
	return 0
}

// Open implements fs.NodeOpener.
func (n *fileNode) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&(syscall.O_WRONLY|syscall.O_RDWR) != 0 {
		return nil, 0, syscall.EROFS
	}
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

// Read implements fs.NodeReader.
func (n *fileNode) Read(ctx context.Context, _ fs.FileHandle, into []byte, at int64) (fuse.ReadResult, syscall.Errno) {
	got, err := n.view.ReadAt(ctx, n.number, into, at)
	if err != nil && got == 0 && at < n.entry.Size {
		return nil, syscall.EIO
	}
	return fuse.ReadResultData(into[:got]), 0
}
