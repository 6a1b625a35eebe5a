package internal_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

// reasons is where each direct dependency has its reason.
const reasons = "../docs/decisions/0002-dependencies.md"

// named finds a module in the first column of the table of reasons.
var named = regexp.MustCompile("`([^`]+)`")

func TestEveryDependencyHasItsReason(t *testing.T) {
	required, given := directModules(t), givenReasons(t)
	for _, path := range required {
		if !slices.Contains(given, path) {
			t.Errorf("%s is required by go.mod and has no reason in %s", path, reasons)
		}
	}
	for _, path := range given {
		if !slices.Contains(required, path) {
			t.Errorf("%s has a reason in %s and is not required by go.mod: take the line out", path, reasons)
		}
	}
}

// directModules lists what go.mod requires directly, without major versions.
func directModules(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	file, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, r := range file.Require {
		if path, _, ok := module.SplitPathVersion(r.Mod.Path); ok && !r.Indirect {
			paths = append(paths, path)
		}
	}
	return paths
}

// givenReasons lists the modules in the first column of the table; a row without a reason gives none.
func givenReasons(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(reasons)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for line := range strings.Lines(string(text)) {
		columns := strings.Split(line, "|")
		if len(columns) < 4 || strings.TrimSpace(columns[2]) == "" {
			continue
		}
		for _, match := range named.FindAllStringSubmatch(columns[1], -1) {
			paths = append(paths, match[1])
		}
	}
	return paths
}
