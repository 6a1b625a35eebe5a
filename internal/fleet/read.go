package fleet

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"holdfast/internal/problem"
)

// Files is a fleet directory as data: path below the directory, with slashes -> content.
type Files map[string][]byte

// maxFile is the largest file of a fleet that is read, in bytes. A larger one was put there by mistake.
const maxFile = 4 << 20

// Load reads the fleet directory dir. Its error is a problem.List of everything that is wrong, each with the file as
// the caller would open it and the line.
func Load(dir string) (*Fleet, error) {
	files, err := Collect(dir)
	if err != nil {
		return nil, err
	}
	f, err := Read(files)
	list, wrong := err.(problem.List) //nolint:errorlint // Read gives exactly this type
	if !wrong {
		return f, err
	}
	for i, p := range list {
		list[i] = p.At(filepath.Join(dir, p.File), p.Line)
	}
	return nil, list
}

// Collect reads every YAML file (.yaml, .yml) and every public key (.asc) below dir; hidden files and folders are
// left out.
func Collect(dir string) (Files, error) {
	files := Files{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name != "." && strings.HasPrefix(entry.Name(), "."):
			return skip(entry)
		case entry.IsDir() || !belongs(name):
			return nil
		}
		content, err := readSmall(dir, name)
		files[name] = content
		return err
	})
	if err != nil {
		return nil, problem.Wrap(err, problem.NotFound, "give the directory of the fleet with -f DIR", "read fleet %s", dir)
	}
	return files, nil
}

func skip(entry fs.DirEntry) error {
	if entry.IsDir() {
		return fs.SkipDir
	}
	return nil
}

func belongs(name string) bool { return isYAML(name) || path.Ext(name) == ".asc" }

func isYAML(name string) bool { return slices.Contains([]string{".yaml", ".yml"}, path.Ext(name)) }

func readSmall(dir, name string) ([]byte, error) {
	full := filepath.Join(dir, filepath.FromSlash(name))
	info, err := os.Stat(full)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", full, maxFile)
	}
	return os.ReadFile(full)
}

// Read reads a fleet from files. Its error is a problem.List of everything that is wrong, sorted by file and line.
func Read(files Files) (*Fleet, error) {
	schemas, err := compiledSchemas()
	if err != nil {
		return nil, err
	}
	r := newReader(files, schemas)
	var documents []document
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if isYAML(name) {
			documents = append(documents, r.parse(name, files[name])...)
		}
	}
	if len(documents) == 0 && len(r.found) == 0 {
		return nil, problem.List{problem.New(problem.Invalid, "begin with `kind: Site`; holdfast schema lists every kind", "the fleet is empty: no YAML document")}
	}
	for _, d := range documents {
		r.take(d)
	}
	r.check()
	r.fleet.Revision = revision(documents, r.fleet.keys)
	return r.end()
}

// reader gathers a fleet and everything that is wrong with it.
type reader struct {
	fleet   *Fleet
	files   Files
	schemas schemas
	found   problem.List
	broken  map[Kind]map[string]bool // documents that could not be read: referring to them is not a second error
}

func newReader(files Files, schemas schemas) *reader {
	return &reader{
		files:   files,
		schemas: schemas,
		broken:  map[Kind]map[string]bool{},
		fleet: &Fleet{
			Sites: map[string]Site{}, Nodes: map[string]Node{}, Products: map[string]Product{},
			Releases: map[string]Release{}, Rings: map[string]Ring{}, Instances: map[string]Instance{},
			RecoveryPlans: map[string]RecoveryPlan{}, keys: map[string]string{},
		},
	}
}

// end gives the fleet, or what is wrong with it in the order of files and lines.
func (r *reader) end() (*Fleet, error) {
	if len(r.found) == 0 {
		return r.fleet, nil
	}
	slices.SortFunc(r.found, func(a, b *problem.Error) int {
		return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line, strings.Compare(a.Message, b.Message))
	})
	return nil, slices.CompactFunc(r.found, func(a, b *problem.Error) bool { return a.Error() == b.Error() })
}

// wrong notes one thing that is wrong at path of the document at o.
func (r *reader) wrong(o Origin, path []string, hint, format string, args ...any) {
	e := problem.New(problem.Invalid, hint, "%s: "+format, append([]any{o.subject}, args...)...)
	r.found = append(r.found, e.At(o.File, o.line(path)))
}

// revision is the fingerprint of the documents' content. Where a document stands does not matter.
func revision(documents []document, keys map[string]string) string {
	parts := make([][]byte, 0, len(documents)+len(keys))
	for _, d := range documents {
		parts = append(parts, d.canonical())
	}
	for file, key := range keys {
		parts = append(parts, []byte(file+"\x00"+key))
	}
	slices.SortFunc(parts, bytes.Compare)
	sum := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(sum, "%d\n%s", len(part), part)
	}
	return hex.EncodeToString(sum.Sum(nil))
}
