package internal_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	// faultCase is a row of the table of faults: its number and its last column.
	faultCase = regexp.MustCompile(`(?m)^\| (\d+) \|.*\| ([^|]+) \|$`)
	// faultTest is a test that a row names.
	faultTest = regexp.MustCompile("`([^`]+_test\\.go):((?:Test|Fuzz)\\w+)`")
)

// TestFaultsAreHeld holds docs/faults.md against the tree: sixty cases, each once and with a word about who holds it,
// and no test named that does not exist.
func TestFaultsAreHeld(t *testing.T) {
	page, err := os.ReadFile("../docs/faults.md")
	if err != nil {
		t.Fatal(err)
	}
	seen, held := map[int]bool{}, 0
	for _, row := range faultCase.FindAllStringSubmatch(string(page), -1) {
		number, _ := strconv.Atoi(row[1]) // the expression takes digits only
		if seen[number] {
			t.Errorf("case %d stands twice", number)
		}
		seen[number] = true
		tests := faultTest.FindAllStringSubmatch(row[2], -1)
		word, reason, _ := strings.Cut(row[2], ": ")
		switch {
		case (word == "held" || word == "partly") && len(tests) == 0:
			t.Errorf("case %d is %s and names no test", number, word)
		case word == "not yet" && len(reason) < 20:
			t.Errorf("case %d is not held and says no reason", number)
		case word != "held" && word != "partly" && word != "not yet":
			t.Errorf("case %d: who holds it begins with %q", number, word)
		}
		if word == "held" {
			held++
		}
		for _, test := range tests {
			exists(t, number, test[1], test[2])
		}
	}
	for number := 1; number <= 60; number++ {
		if !seen[number] {
			t.Errorf("case %d is missing", number)
		}
	}
	if len(seen) != 60 || held < 30 {
		t.Errorf("%d cases, %d of them held", len(seen), held)
	}
	t.Logf("%d of %d cases are held", held, len(seen))
}

func exists(t *testing.T, number int, file, name string) {
	t.Helper()
	source, err := os.ReadFile(filepath.Join("..", file))
	if err != nil {
		t.Errorf("case %d: %v", number, err)
		return
	}
	if !strings.Contains(string(source), "\nfunc "+name+"(") {
		t.Errorf("case %d: there is no %s in %s", number, name, file)
	}
}
