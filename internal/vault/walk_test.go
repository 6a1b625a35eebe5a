package vault

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestWalkIsInOrder has more names than are looked at ahead, folders among them and several levels of folders: all comes
// in the order of the names, each directory before what it holds, and what is left out does not come at all.
func TestWalkIsInOrder(t *testing.T) {
	root := t.TempDir()
	for i := range 2*itemsAhead + 7 {
		name := filepath.Join(root, "long", fmt.Sprintf("f%05d", i))
		if i%9 == 0 {
			name = filepath.Join(name, "deep", "deeper", "file")
		}
		writeFile(t, name)
	}
	for i := range 3 * foldersAhead {
		for j := range 2 * foldersAhead {
			writeFile(t, filepath.Join(root, fmt.Sprint("d", i), fmt.Sprint("e", j), "x", "y"))
			writeFile(t, filepath.Join(root, fmt.Sprint("d", i), fmt.Sprint("e", j, "-left out"), "z"))
		}
	}
	var want []string
	out := func(path string) bool { return strings.HasSuffix(path, "-left out") || strings.HasSuffix(path, "5") }
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if path != root && out(path) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		want = append(want, filepath.Join("s", strings.TrimPrefix(path, root)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	s := &scanner{ctx: t.Context(), links: map[[2]uint64]string{}, skip: out, emit: func(it *item) error {
		got = append(got, it.entry.Path)
		return nil
	}}
	if err := s.walk("s", root); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %d entries, want %d in the order of filepath.WalkDir", err, len(got), len(want))
	}
}

// TestWalkEndsWithItsReader wants no folder being read any more when the reader of the walk gave up.
func TestWalkEndsWithItsReader(t *testing.T) {
	root := t.TempDir()
	for i := range 20 {
		writeFile(t, filepath.Join(root, fmt.Sprint(i), "x"))
	}
	count := 0
	s := &scanner{ctx: t.Context(), links: map[[2]uint64]string{}, emit: func(*item) error {
		if count++; count == 5 {
			return fs.ErrClosed
		}
		return nil
	}}
	if err := s.walk("s", root); !errors.Is(err, fs.ErrClosed) || count != 5 {
		t.Errorf("%v after %d entries", err, count)
	}
}

func writeFile(t *testing.T, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(name), 0o600); err != nil {
		t.Fatal(err)
	}
}
