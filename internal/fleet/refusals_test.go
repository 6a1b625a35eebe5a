package fleet_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"holdfast/internal/fleet"
	"holdfast/internal/problem"
)

var update = flag.Bool("update", false, "write what is said now into the archives")

// Each archive lays files over the example fleet and holds the exact words of every refusal in `want`.
func TestRefusals(t *testing.T) {
	archives, err := filepath.Glob("testdata/refusals/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("find archives: %d, %v", len(archives), err)
	}
	for _, file := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { refuse(t, file) })
	}
}

func refuse(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	files, want := example(t), ""
	for _, f := range archive.Files {
		if f.Name == "want" {
			want = string(f.Data)
			continue
		}
		files[f.Name] = f.Data
	}
	_, err = fleet.Read(files)
	got := words(t, err)
	if *update {
		rewrite(t, file, archive, got)
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("refused with other words (-want +got):\n%s", diff)
	}
}

// example is the fleet of examples/notes, as files.
func example(t testing.TB) fleet.Files {
	t.Helper()
	files, err := fleet.Collect("../../examples/notes/fleet")
	if err != nil {
		t.Fatal(err)
	}
	return maps.Clone(files)
}

// words renders refusals as the command line does: the place, what is wrong, and what would be right.
func words(t *testing.T, err error) string {
	t.Helper()
	list, ok := errors.AsType[problem.List](err)
	if err != nil && !ok {
		t.Fatalf("refused with %T, not a problem.List: %v", err, err)
	}
	var out strings.Builder
	for _, p := range list {
		fmt.Fprintf(&out, "%s\n  next: %s\n", p.Error(), p.Hint)
		if p.Kind != problem.Invalid {
			t.Errorf("%s has kind %s, want invalid", p, p.Kind)
		}
	}
	return out.String()
}

func rewrite(t *testing.T, file string, archive *txtar.Archive, want string) {
	t.Helper()
	kept := archive.Files[:0]
	for _, f := range archive.Files {
		if f.Name != "want" {
			kept = append(kept, f)
		}
	}
	archive.Files = append(kept, txtar.File{Name: "want", Data: []byte(want)})
	if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTheExampleIsAccepted(t *testing.T) {
	if _, err := fleet.Read(example(t)); err != nil {
		t.Fatalf("the example fleet was refused:\n%v", words(t, err))
	}
}
