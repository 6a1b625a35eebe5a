// Package notes is the product that the Holdfast demo runs: notes in SQLite, attachments in a folder, a worker that
// counts words. It is small, and real in what matters to a recovery: writes are durable before they are
// acknowledged, documents and files refer to each other, and data read under another secret is noticed.
//
// Words: a Note is a document; a File is an attachment, named by the note that refers to it; the seal binds the data
// to the session secret.
//
// Invariant: an acknowledged note or file is on disk, and every file that a note names exists with the hash it says.
package notes

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// ErrNotFound is returned for a note or file that does not exist.
var ErrNotFound = errors.New("not found")

// ErrInvalidName is returned for a file name that is not plain.
var ErrInvalidName = errors.New("a file name is 1 to 100 letters, digits, dots, dashes or underscores")

var plainName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$`)

// Note is one document. Words is -1 until the worker has counted them.
type Note struct {
	ID      string    `json:"id"`
	Text    string    `json:"text"`
	SHA256  string    `json:"sha256"`
	Words   int       `json:"words"`
	Created time.Time `json:"created"`
}

// File is one attachment as the database knows it.
type File struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// Store is the data of one instance: a SQLite file and a folder.
type Store struct {
	db    *sql.DB
	files string
}

const schema = `
CREATE TABLE IF NOT EXISTS notes (id TEXT PRIMARY KEY, text TEXT NOT NULL, sha256 TEXT NOT NULL, words INTEGER NOT NULL DEFAULT -1, created INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS notes_uncounted ON notes (words) WHERE words < 0;
CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);`

// Open opens or makes the data and checks that it was sealed with the same secret.
func Open(ctx context.Context, database, files, secret string) (*Store, error) {
	if len(secret) < 16 {
		return nil, errors.New("NOTES_SECRET is missing or shorter than 16 characters: the notes cannot be opened")
	}
	if err := os.MkdirAll(files, 0o750); err != nil {
		return nil, fmt.Errorf("make files folder: %w", err)
	}
	query := url.Values{"_txlock": {"immediate"}, "_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)"}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: database}).EscapedPath()+"?"+query.Encode())
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", database, err)
	}
	db.SetMaxOpenConns(4)
	s := &Store{db: db, files: files}
	if err := s.prepare(ctx, secret); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

func (s *Store) prepare(ctx context.Context, secret string) error {
	if _, err := s.db.ExecContext(ctx, schema); err != nil {
		return fmt.Errorf("migrate notes: %w", err)
	}
	want := seal(secret)
	if _, err := s.db.ExecContext(ctx, `INSERT INTO facts (name, value) VALUES ('seal', ?) ON CONFLICT DO NOTHING`, want); err != nil {
		return fmt.Errorf("seal notes: %w", err)
	}
	var have string
	if err := s.db.QueryRowContext(ctx, `SELECT value FROM facts WHERE name = 'seal'`).Scan(&have); err != nil {
		return fmt.Errorf("read seal: %w", err)
	}
	if have != want {
		return errors.New("the notes were sealed with another NOTES_SECRET: this is another instance's data or another instance's secret")
	}
	return nil
}

func seal(secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("notes seal v1"))
	return hex.EncodeToString(mac.Sum(nil))
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

// Ping tells whether the database answers and the folder can be written.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.db.PingContext(ctx); err != nil {
		return fmt.Errorf("ping database: %w", err)
	}
	probe, err := os.CreateTemp(s.files, ".ready-*")
	if err != nil {
		return fmt.Errorf("write to files folder: %w", err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// Put stores a note; the same id and text again is a no-op, so that a client may repeat what was not acknowledged.
func (s *Store) Put(ctx context.Context, id, text string) (Note, error) {
	n := Note{ID: id, Text: text, SHA256: digest([]byte(text)), Words: -1, Created: time.Now().UTC()}
	_, err := s.db.ExecContext(ctx, `INSERT INTO notes (id, text, sha256, created) VALUES (?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET text = excluded.text, sha256 = excluded.sha256, words = -1 WHERE sha256 <> excluded.sha256`,
		n.ID, n.Text, n.SHA256, n.Created.UnixMicro())
	if err != nil {
		return Note{}, fmt.Errorf("store note %s: %w", id, err)
	}
	return n, nil
}

// Get reads a note.
func (s *Store) Get(ctx context.Context, id string) (Note, error) {
	n := Note{ID: id}
	var created int64
	err := s.db.QueryRowContext(ctx, `SELECT text, sha256, words, created FROM notes WHERE id = ?`, id).Scan(&n.Text, &n.SHA256, &n.Words, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return Note{}, fmt.Errorf("note %s: %w", id, ErrNotFound)
	}
	n.Created = time.UnixMicro(created).UTC()
	return n, err
}

// Notes lists all notes, by id, without their texts.
func (s *Store) Notes(ctx context.Context) ([]Note, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, sha256, words, created FROM notes ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("list notes: %w", err)
	}
	defer rows.Close()
	all := []Note{}
	for rows.Next() {
		var n Note
		var created int64
		if err := rows.Scan(&n.ID, &n.SHA256, &n.Words, &created); err != nil {
			return nil, err
		}
		n.Created = time.UnixMicro(created).UTC()
		all = append(all, n)
	}
	return all, rows.Err()
}

// PutFile stores an attachment durably: the bytes first, then the row that names them.
func (s *Store) PutFile(ctx context.Context, name string, body io.Reader) (File, error) {
	if !plainName.MatchString(name) {
		return File{}, ErrInvalidName
	}
	f, err := s.write(name, body)
	if err != nil {
		return File{}, fmt.Errorf("store file %s: %w", name, err)
	}
	_, err = s.db.ExecContext(ctx, `INSERT INTO files (name, sha256, size) VALUES (?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET sha256 = excluded.sha256, size = excluded.size`, f.Name, f.SHA256, f.Size)
	if err != nil {
		return File{}, fmt.Errorf("record file %s: %w", name, err)
	}
	return f, nil
}

// write puts body under its content's name, so that a row never names bytes that another write replaced.
func (s *Store) write(name string, body io.Reader) (File, error) {
	tmp, err := os.CreateTemp(s.files, ".put-*")
	if err != nil {
		return File{}, err
	}
	defer os.Remove(tmp.Name())
	hash := sha256.New()
	size, err := io.Copy(io.MultiWriter(tmp, hash), body)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return File{}, err
	}
	f := File{Name: name, SHA256: hex.EncodeToString(hash.Sum(nil)), Size: size}
	if err := os.Rename(tmp.Name(), s.path(f)); err != nil {
		return File{}, err
	}
	return f, syncDir(s.files)
}

func (s *Store) path(f File) string { return filepath.Join(s.files, f.Name+"."+f.SHA256[:12]) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// OpenFile opens an attachment for reading.
func (s *Store) OpenFile(ctx context.Context, name string) (*os.File, error) {
	f := File{Name: name}
	err := s.db.QueryRowContext(ctx, `SELECT sha256, size FROM files WHERE name = ?`, name).Scan(&f.SHA256, &f.Size)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("file %s: %w", name, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return os.Open(s.path(f))
}

// Files lists all attachments, by name.
func (s *Store) Files(ctx context.Context) ([]File, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT name, sha256, size FROM files ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("list files: %w", err)
	}
	defer rows.Close()
	all := []File{}
	for rows.Next() {
		var f File
		if err := rows.Scan(&f.Name, &f.SHA256, &f.Size); err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, rows.Err()
}

// Verified is the outcome of Verify.
type Verified struct {
	Notes    int      `json:"notes"`
	Files    int      `json:"files"`
	Problems []string `json:"problems"`
}

// Verify reads every note and every file and names each that is not what it was when it was acknowledged.
func (s *Store) Verify(ctx context.Context) (Verified, error) {
	v := Verified{Problems: []string{}}
	if err := s.verifyNotes(ctx, &v); err != nil {
		return v, err
	}
	files, err := s.Files(ctx)
	if err != nil {
		return v, err
	}
	v.Files = len(files)
	for _, f := range files {
		if bad := s.verifyFile(f); bad != "" {
			v.Problems = append(v.Problems, bad)
		}
	}
	return v, nil
}

func (s *Store) verifyNotes(ctx context.Context, v *Verified) error {
	rows, err := s.db.QueryContext(ctx, `SELECT id, text, sha256 FROM notes`)
	if err != nil {
		return fmt.Errorf("read notes: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, text, sum string
		if err := rows.Scan(&id, &text, &sum); err != nil {
			return err
		}
		v.Notes++
		if digest([]byte(text)) != sum {
			v.Problems = append(v.Problems, "note "+id+": its text is not what was stored")
		}
	}
	return rows.Err()
}

func (s *Store) verifyFile(f File) string {
	body, err := os.ReadFile(s.path(f))
	if err != nil {
		return "file " + f.Name + ": " + err.Error()
	}
	if digest(body) != f.SHA256 {
		return "file " + f.Name + ": its bytes are not what was stored"
	}
	return ""
}

// CountWords counts the words of up to limit notes that have none yet, and returns how many it did.
func (s *Store) CountWords(ctx context.Context, limit int) (int, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, text, sha256 FROM notes WHERE words < 0 LIMIT ?`, limit)
	if err != nil {
		return 0, fmt.Errorf("find uncounted notes: %w", err)
	}
	defer rows.Close()
	todo := []Note{}
	for rows.Next() {
		var n Note
		if err := rows.Scan(&n.ID, &n.Text, &n.SHA256); err != nil {
			return 0, err
		}
		todo = append(todo, n)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return 0, err
	}
	for i, n := range todo {
		if _, err := s.db.ExecContext(ctx, `UPDATE notes SET words = ? WHERE id = ? AND sha256 = ?`, len(strings.Fields(n.Text)), n.ID, n.SHA256); err != nil {
			return i, fmt.Errorf("count words of note %s: %w", n.ID, err)
		}
	}
	return len(todo), nil
}

// Beat records that the worker is alive.
func (s *Store) Beat(ctx context.Context) error {
	_, err := s.db.ExecContext(ctx, `INSERT INTO facts (name, value) VALUES ('worker', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, time.Now().UTC().Format(time.RFC3339Nano))
	return err
}

// LastBeat is when the worker was last alive; the zero time when it never was.
func (s *Store) LastBeat(ctx context.Context) (time.Time, error) {
	var text string
	err := s.db.QueryRowContext(ctx, `SELECT value FROM facts WHERE name = 'worker'`).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339Nano, text)
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
