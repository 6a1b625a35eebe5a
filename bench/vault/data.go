package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	_ "modernc.org/sqlite"
)

// dataSet is a tree that goes back and forth between its first and its second day, in place: peers know unchanged files
// by their inode.
type dataSet struct {
	tree  string // what is backed up
	side  string // both versions of what changes
	small string // a small file in it
	day   int
	names []string // changed files, relative
	added []string
	gone  []string
}

// source is a folder of this machine that the tree takes up to a number of files from.
type source struct {
	path  string
	files int
}

// sources is whatever of this is on the machine: Go's own tree, the modules it has fetched, and the system's files.
func sources(ctx context.Context) ([]source, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOMODCACHE").Output()
	if err != nil {
		return nil, fmt.Errorf("ask go for its folders: %w", err)
	}
	folders := strings.Fields(string(out))
	if len(folders) != 2 {
		return nil, fmt.Errorf("ask go for its folders: it names %q", folders)
	}
	return []source{{folders[0], 15000}, {"/usr/share", 16000}, {folders[1], 13000}, {"/usr/bin", 1500}}, nil
}

const (
	databaseRows = 1_400_000
	mediaFiles   = 90
	mediaSize    = 8 << 20
)

// makeData makes the tree once; later runs find it and bring it back to its first day.
func makeData(ctx context.Context, dir string) (*dataSet, error) {
	d := &dataSet{tree: filepath.Join(dir, "data"), side: filepath.Join(dir, "side")}
	made := filepath.Join(dir, "made")
	if _, err := os.Stat(made); err != nil {
		if err := d.make(ctx); err != nil {
			return nil, err
		}
		if err := os.WriteFile(made, nil, 0o600); err != nil {
			return nil, err
		}
	}
	return d, d.choose()
}

func (d *dataSet) make(ctx context.Context) error {
	if err := os.MkdirAll(d.side, 0o700); err != nil {
		return err
	}
	all, err := sources(ctx)
	if err != nil {
		return err
	}
	for i, s := range all {
		if err := copyTree(ctx, s.path, filepath.Join(d.tree, fmt.Sprintf("source%d", i)), s.files); err != nil {
			return err
		}
	}
	if err := d.media(); err != nil {
		return err
	}
	return d.database(ctx)
}

// copyTree copies regular files and links, up to a number.
func copyTree(ctx context.Context, from, to string, files int) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return ctx.Err() // what cannot be read is not part of the data
		}
		rel, _ := filepath.Rel(from, path) // path is below from
		target := filepath.Join(to, rel)
		switch {
		case e.IsDir():
			return os.MkdirAll(target, 0o755)
		case files == 0:
			return filepath.SkipAll
		case e.Type().IsRegular():
			files--
			return copyFile(path, target)
		case e.Type() == fs.ModeSymlink:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		}
		return nil
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, info.Mode().Perm()|0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Chtimes(to, info.ModTime(), info.ModTime())
}

// media is what no compressor shortens.
func (d *dataSet) media() error {
	noise := rand.NewChaCha8([32]byte{1})
	if err := os.MkdirAll(filepath.Join(d.tree, "media"), 0o755); err != nil {
		return err
	}
	body := make([]byte, mediaSize)
	for i := range mediaFiles {
		noise.Read(body)
		if err := os.WriteFile(filepath.Join(d.tree, "media", fmt.Sprintf("%d.bin", i)), body, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// database makes an SQLite file, and its second day beside the tree.
func (d *dataSet) database(ctx context.Context) error {
	path := filepath.Join(d.tree, "app.db")
	if err := fill(ctx, path); err != nil {
		return err
	}
	second := filepath.Join(d.side, "app.db.2")
	if err := copyFile(path, filepath.Join(d.side, "app.db.1")); err != nil {
		return err
	}
	if err := copyFile(path, second); err != nil {
		return err
	}
	return age(ctx, second)
}

func fill(ctx context.Context, path string) error {
	db, err := sql.Open("sqlite", path+"?_pragma=synchronous(off)&_pragma=journal_mode(off)&_pragma=cache_size(-200000)")
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "create table doc (id integer primary key, at text, body text)"); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	insert, err := tx.PrepareContext(ctx, "insert into doc values (?, ?, ?)")
	if err != nil {
		return err
	}
	defer insert.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range databaseRows {
		if _, err := insert.ExecContext(ctx, i, time.Unix(int64(1.6e9)+int64(i), 0).UTC().Format(time.RFC3339), document(rng)); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func document(rng *rand.Rand) string {
	words := []string{"customer", "invoice", "signature", "folder", "approved", "pending", "archive", "contract", "owner", "reader"}
	var b strings.Builder
	for range 18 + rng.IntN(12) {
		fmt.Fprintf(&b, `"%s":"%x",`, words[rng.IntN(len(words))], rng.Uint32())
	}
	return b.String()
}

// age is a day of work: some regions busy, single rows here and there, new rows at the end.
func age(ctx context.Context, path string) error {
	db, err := sql.Open("sqlite", path+"?_pragma=synchronous(off)&_pragma=journal_mode(off)&_pragma=cache_size(-200000)")
	if err != nil {
		return err
	}
	defer db.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	rng := rand.New(rand.NewPCG(3, 4))
	change := func(id int) error {
		_, err := tx.ExecContext(ctx, "update doc set body = ? where id = ?", document(rng), id)
		return err
	}
	for range 30 {
		from := rng.IntN(databaseRows - 600)
		for i := range 500 {
			if err := change(from + i); err != nil {
				return err
			}
		}
	}
	for range 900 {
		if err := change(rng.IntN(databaseRows)); err != nil {
			return err
		}
	}
	for i := range 12000 {
		if _, err := tx.ExecContext(ctx, "insert into doc values (?, ?, ?)", databaseRows+i, "2026-01-01T00:00:00Z", document(rng)); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// choose decides which files change, come and go: one in fifty, one in two hundred, one in two hundred.
func (d *dataSet) choose() error {
	rng := rand.New(rand.NewPCG(5, 6))
	err := filepath.WalkDir(d.tree, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || strings.HasPrefix(e.Name(), "added-") {
			return err
		}
		rel, _ := filepath.Rel(d.tree, path) // path is below the tree
		info, err := e.Info()
		if err != nil || rel == "app.db" || info.Size() > 4<<20 {
			return err
		}
		if info.Size() > 1000 && info.Size() < 20000 && d.small == "" && strings.HasPrefix(rel, "source1") {
			d.small = rel
		}
		switch n := rng.IntN(400); {
		case n < 8 && rel != d.small:
			d.names = append(d.names, rel)
		case n < 10 && rel != d.small:
			d.gone = append(d.gone, rel)
		case n < 12:
			d.added = append(d.added, rel)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, rel := range append(append([]string(nil), d.names...), d.gone...) {
		kept := filepath.Join(d.side, "files", rel)
		if _, err := os.Stat(kept); err == nil {
			continue
		}
		if err := copyFile(filepath.Join(d.tree, rel), kept); err != nil {
			return err
		}
	}
	d.day = 2
	return d.first()
}

// first brings the tree to its first day.
func (d *dataSet) first() error {
	if d.day == 1 {
		return nil
	}
	for _, rel := range append(append([]string(nil), d.names...), d.gone...) {
		if err := copyFile(filepath.Join(d.side, "files", rel), filepath.Join(d.tree, rel)); err != nil {
			return err
		}
	}
	for _, rel := range d.added {
		_ = os.Remove(addedName(d.tree, rel)) // not there on the first run
	}
	d.day = 1
	return copyFile(filepath.Join(d.side, "app.db.1"), filepath.Join(d.tree, "app.db"))
}

func addedName(tree, rel string) string {
	return filepath.Join(tree, filepath.Dir(rel), "added-"+filepath.Base(rel))
}

// second brings it to its second day.
func (d *dataSet) second() error {
	rng := rand.New(rand.NewPCG(7, 8))
	for _, rel := range d.names {
		path := filepath.Join(d.tree, rel)
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := rng.IntN(len(body) + 1)
		body = append(body[:at:at], append(fmt.Appendf(nil, "changed %x", rng.Uint64()), body[at:]...)...)
		if err := os.WriteFile(path, body, 0o644); err != nil {
			return err
		}
	}
	for _, rel := range d.gone {
		if err := os.Remove(filepath.Join(d.tree, rel)); err != nil {
			return err
		}
	}
	for _, rel := range d.added {
		body, err := os.ReadFile(filepath.Join(d.tree, rel))
		if err != nil {
			return err
		}
		if err := os.WriteFile(addedName(d.tree, rel), fmt.Appendf(body, "a new file %x", rng.Uint64()), 0o644); err != nil {
			return err
		}
	}
	d.day = 2
	return inPlace(filepath.Join(d.side, "app.db.2"), filepath.Join(d.tree, "app.db"))
}

// inPlace makes a file like another without giving it a new inode.
func inPlace(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}
