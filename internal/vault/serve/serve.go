// Package serve gives one repository to an SSH client, and nothing else: the other end of
// sftp:// for nodes that must be able to add to a repository and never to read old backups,
// change or delete them.
//
// Words: a grant is what one key may do: with Write a node adds snapshots, with Read a restore
// reads all of one repository, with Prune the vault itself may delete.
//
// Invariant: whatever a client sends, only regular files of one level below the repository's
// directory are touched, no file of the repository is ever opened for writing once it has its name,
// and without Prune nothing but locks and unfinished uploads is removed.
package serve

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/pkg/sftp"
)

// Rights are what a grant allows; they add up.
type Rights struct {
	Write bool // create objects; list; read configuration, index, snapshot lists and sealed envelopes; hold locks
	Read  bool // read and list everything
	Prune bool // delete
}

// Grant is what one key may do, and with which repository.
type Grant struct {
	// Prefix is the directory of the repository below the root, as clients name it: with "acme" the client's
	// path is /acme. Empty means that the root is the repository.
	Prefix string
	Rights Rights
}

// Serve speaks SFTP on conn until the client hangs up. root is a directory of this machine.
func Serve(conn io.ReadWriteCloser, root string, g Grant) error {
	h := &handler{root: root, dir: filepath.Join(root, filepath.FromSlash(path.Clean("/"+g.Prefix))), prefix: path.Clean("/" + g.Prefix), rights: g.Rights, uploads: map[string]bool{}}
	defer h.cleanUp()
	server := sftp.NewRequestServer(conn, sftp.Handlers{FileGet: h, FilePut: h, FileCmd: h, FileList: h}, sftp.WithRSMaxTxPacket(255<<10))
	defer server.Close()
	if err := server.Serve(); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// handler answers for one session.
type handler struct {
	root, dir, prefix string
	rights            Rights

	mu      sync.Mutex
	uploads map[string]bool // unfinished, of this session
}

// denied is the answer to all that the grant does not hold.
var denied error = sftp.ErrSSHFxPermissionDenied //nolint:gochecknoglobals // a constant in all but type

// Folders by what a writer may do in them. Names in them are strict, so that nothing else can be put there.
//
//nolint:gochecknoglobals // tables, never written
var (
	hashed  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	listed  = regexp.MustCompile(`^[0-9a-f]{64}\.json$`)
	epoch   = regexp.MustCompile(`^[0-9a-f]{16}\.[0-9a-f]{32}\.(json|asc|age)$`)
	lock    = regexp.MustCompile(`^[A-Z2-7]{26}\.json$`)
	upload  = regexp.MustCompile(`^[A-Z2-7]{26}$`)
	created = map[string]*regexp.Regexp{"packs": hashed, "index": hashed, "manifests": hashed, "snapshots": listed, "epochs": epoch, "locks": lock}
	fixed   = []string{"config.json", "sums", "RESTORE.md", "restore.sh"}
	folders = []string{"packs", "index", "manifests", "snapshots", "epochs", "locks", "tmp", "proofs", "condemned"}
)

// split turns a client's path into folder and name: "" and "" for the repository, "packs" and "" for a folder.
func (h *handler) split(p string) (folder, name string, err error) {
	p = path.Clean("/" + p)
	if p == h.prefix {
		return "", "", nil
	}
	rest, ok := strings.CutPrefix(p, strings.TrimSuffix(h.prefix, "/")+"/")
	if !ok {
		return "", "", denied
	}
	folder, name, deep := strings.Cut(rest, "/")
	if !deep {
		if slices.Contains(folders, folder) {
			return folder, "", nil
		}
		return "", folder, nil
	}
	if strings.Contains(name, "/") || !slices.Contains(folders, folder) {
		return "", "", denied
	}
	return folder, name, nil
}

func (h *handler) local(folder, name string) string { return filepath.Join(h.dir, folder, name) }

// mayRead tells what Write alone may read: what it needs to know what is stored, and nothing that is in a backup.
func (h *handler) mayRead(folder, name string) bool {
	if h.rights.Read || h.rights.Prune {
		return true
	}
	if !h.rights.Write {
		return false
	}
	switch folder {
	case "":
		return slices.Contains(fixed, name)
	case "index", "snapshots", "locks", "condemned", "epochs": // an epoch's envelopes open nothing without a person's or the custodian's key
		return true
	}
	return false
}

// mayCreate tells whether a name may be given, once, to an upload.
func (h *handler) mayCreate(folder, name string) bool {
	if h.rights.Prune && slices.Contains([]string{"proofs", "condemned"}, folder) {
		return true
	}
	if !h.rights.Write && !h.rights.Prune {
		return false
	}
	if folder == "" {
		return slices.Contains(fixed, name)
	}
	form := created[folder]
	return form != nil && form.MatchString(name)
}

func (h *handler) mayRemove(folder string) bool {
	if h.rights.Prune {
		return folder != ""
	}
	return h.rights.Write && (folder == "locks" || folder == "tmp")
}

// Fileread implements sftp.FileReader.
func (h *handler) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	folder, name, err := h.split(r.Filepath)
	if err != nil {
		return nil, err
	}
	if !h.mayRead(folder, name) {
		return nil, denied
	}
	f, err := openRegular(h.local(folder, name), os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// openRegular opens no links and no devices.
func openRegular(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|noFollow, 0o600)
	if err != nil {
		return nil, plain(err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, denied
	}
	return f, nil
}

// plain takes the paths of this machine off an error.
func plain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return sftp.ErrSSHFxNoSuchFile
	case errors.Is(err, fs.ErrPermission):
		return denied
	case errors.Is(err, fs.ErrExist):
		return fs.ErrExist
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	var l *os.LinkError
	if errors.As(err, &l) {
		return l.Err
	}
	return err
}

// Filewrite implements sftp.FileWriter: only new uploads.
func (h *handler) Filewrite(r *sftp.Request) (io.WriterAt, error) {
	folder, name, err := h.split(r.Filepath)
	if err != nil {
		return nil, err
	}
	if folder != "tmp" || !upload.MatchString(name) || !(h.rights.Write || h.rights.Prune) {
		return nil, denied
	}
	if err := os.MkdirAll(h.local("tmp", ""), 0o700); err != nil {
		return nil, plain(err)
	}
	f, err := openRegular(h.local(folder, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	h.note(name, true)
	return durable{f}, nil
}

// durable syncs before it closes: the client's success means that the bytes are on the disk.
type durable struct{ *os.File }

func (d durable) Close() error { return plain(errors.Join(d.Sync(), d.File.Close())) }

func (h *handler) note(name string, open bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if open {
		h.uploads[name] = true
	} else {
		delete(h.uploads, name)
	}
}

// cleanUp removes what a broken session left.
func (h *handler) cleanUp() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range h.uploads {
		_ = os.Remove(h.local("tmp", name))
	}
}

// Filecmd implements sftp.FileCmder.
func (h *handler) Filecmd(r *sftp.Request) error {
	folder, name, err := h.split(r.Filepath)
	if err != nil {
		return err
	}
	switch r.Method {
	case "Rename":
		return h.rename(folder, name, r.Target)
	case "Remove":
		if name == "" || !h.mayRemove(folder) {
			return denied
		}
		return plain(os.Remove(h.local(folder, name)))
	case "Mkdir":
		return h.mkdir(folder, name)
	}
	return denied
}

// rename gives an upload of this session its name, unless the name is taken.
func (h *handler) rename(folder, name, target string) error {
	toFolder, toName, err := h.split(target)
	if err != nil {
		return err
	}
	if folder != "tmp" || !upload.MatchString(name) || !h.mayCreate(toFolder, toName) {
		return denied
	}
	from, to := h.local(folder, name), h.local(toFolder, toName)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return plain(err)
	}
	if err := os.Link(from, to); err != nil {
		return plain(err)
	}
	h.note(name, false)
	return plain(errors.Join(os.Remove(from), syncDir(filepath.Dir(to))))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// mkdir makes the repository's directory and its folders.
func (h *handler) mkdir(folder, name string) error {
	if name != "" || !(h.rights.Write || h.rights.Prune) {
		return denied
	}
	return plain(os.MkdirAll(h.local(folder, ""), 0o700))
}

// Filelist implements sftp.FileLister.
func (h *handler) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	if r.Method != "List" && h.leadsThere(r.Filepath) {
		return h.ancestor()
	}
	folder, name, err := h.split(r.Filepath)
	if err != nil {
		return nil, err
	}
	if h.rights == (Rights{}) {
		return nil, denied
	}
	switch r.Method {
	case "List":
		if name != "" {
			return nil, sftp.ErrSSHFxNoSuchFile
		}
		return list(h.local(folder, ""))
	case "Stat", "Lstat":
		info, err := os.Lstat(h.local(folder, name))
		if err != nil {
			return nil, plain(err)
		}
		return infos{info}, nil
	}
	return nil, denied
}

// leadsThere tells whether the repository lies below p: clients look at such directories before they make one.
func (h *handler) leadsThere(p string) bool {
	p = path.Clean("/" + p)
	return p != h.prefix && strings.HasPrefix(h.prefix, strings.TrimSuffix(p, "/")+"/")
}

// ancestor shows the root in place of any directory on the way to the repository.
func (h *handler) ancestor() (sftp.ListerAt, error) {
	info, err := os.Lstat(h.root)
	if err != nil {
		return nil, plain(err)
	}
	return infos{info}, nil
}

// Lstat implements sftp.LstatFileLister.
func (h *handler) Lstat(r *sftp.Request) (sftp.ListerAt, error) { return h.Filelist(r) }

func list(dir string) (sftp.ListerAt, error) {
	all, err := os.ReadDir(dir)
	if err != nil {
		return nil, plain(err)
	}
	var out infos
	for _, d := range all {
		if info, err := d.Info(); err == nil {
			out = append(out, info)
		}
	}
	return out, nil
}

// infos implements sftp.ListerAt.
type infos []fs.FileInfo

func (l infos) ListAt(into []fs.FileInfo, at int64) (int, error) {
	if at >= int64(len(l)) {
		return 0, io.EOF
	}
	n := copy(into, l[at:])
	if n < len(into) {
		return n, io.EOF
	}
	return n, nil
}
