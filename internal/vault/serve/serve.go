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
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

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
	dir := filepath.Join(root, filepath.FromSlash(path.Clean("/"+g.Prefix)))
	return serveShelf(conn, &folder{root: root, dir: dir, uploads: map[string]bool{}}, g)
}

// shelf is where a repository's objects lie: a folder of this machine or an object storage. Its errors go to the
// client, so they name no path of this machine. Create makes an upload, which has no name until keep gives it one.
type shelf interface {
	open(ctx context.Context, folder, name string) (io.ReaderAt, error)
	create(upload string) (io.WriterAt, error)
	keep(ctx context.Context, upload, folder, name string) error
	remove(ctx context.Context, folder, name string) error
	mkdir(folder string) error
	list(ctx context.Context, folder string) ([]fs.FileInfo, error)
	stat(ctx context.Context, folder, name string) (fs.FileInfo, error)
	// ancestor stands for any directory on the way to the repository.
	ancestor() (fs.FileInfo, error)
	// close removes what a broken session left.
	close()
}

func serveShelf(conn io.ReadWriteCloser, on shelf, g Grant) error {
	defer on.close()
	h := &handler{prefix: path.Clean("/" + g.Prefix), rights: g.Rights, on: on}
	server := sftp.NewRequestServer(conn, sftp.Handlers{FileGet: h, FilePut: h, FileCmd: h, FileList: h}, sftp.WithRSMaxTxPacket(255<<10))
	defer server.Close()
	if err := server.Serve(); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// handler answers for one session.
type handler struct {
	prefix string
	rights Rights
	on     shelf
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
	known   = []string{"packs", "index", "manifests", "snapshots", "epochs", "locks", "tmp", "proofs", "condemned"}
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
		if slices.Contains(known, folder) {
			return folder, "", nil
		}
		return "", folder, nil
	}
	if strings.Contains(name, "/") || !slices.Contains(known, folder) {
		return "", "", denied
	}
	return folder, name, nil
}

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
	return h.on.open(r.Context(), folder, name)
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
	return h.on.create(name)
}

// Filecmd implements sftp.FileCmder.
func (h *handler) Filecmd(r *sftp.Request) error {
	folder, name, err := h.split(r.Filepath)
	if err != nil {
		return err
	}
	switch r.Method {
	case "Rename":
		return h.rename(r.Context(), folder, name, r.Target)
	case "Remove":
		if name == "" || !h.mayRemove(folder) {
			return denied
		}
		return h.on.remove(r.Context(), folder, name)
	case "Mkdir":
		return h.mkdir(folder, name)
	}
	return denied
}

// rename gives an upload of this session its name, unless the name is taken.
func (h *handler) rename(ctx context.Context, folder, name, target string) error {
	toFolder, toName, err := h.split(target)
	if err != nil {
		return err
	}
	if folder != "tmp" || !upload.MatchString(name) || !h.mayCreate(toFolder, toName) {
		return denied
	}
	return h.on.keep(ctx, name, toFolder, toName)
}

// mkdir makes the repository's directory and its folders.
func (h *handler) mkdir(folder, name string) error {
	if name != "" || !(h.rights.Write || h.rights.Prune) {
		return denied
	}
	return h.on.mkdir(folder)
}

// Filelist implements sftp.FileLister.
func (h *handler) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	if r.Method != "List" && h.leadsThere(r.Filepath) {
		info, err := h.on.ancestor()
		return infos{info}, err
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
		all, err := h.on.list(r.Context(), folder)
		return infos(all), err
	case "Stat", "Lstat":
		info, err := h.on.stat(r.Context(), folder, name)
		return infos{info}, err
	}
	return nil, denied
}

// leadsThere tells whether the repository lies below p: clients look at such directories before they make one.
func (h *handler) leadsThere(p string) bool {
	p = path.Clean("/" + p)
	return p != h.prefix && strings.HasPrefix(h.prefix, strings.TrimSuffix(p, "/")+"/")
}

// Lstat implements sftp.LstatFileLister.
func (h *handler) Lstat(r *sftp.Request) (sftp.ListerAt, error) { return h.Filelist(r) }

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
