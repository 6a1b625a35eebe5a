package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// command finds every holdfast command line in a page: a line of a block, or an inline code.
var command = regexp.MustCompile("(?m)^ *holdfast [a-z].*$|`holdfast [a-z][^`]*`")

// TestPagesNameRealCommands holds the pages against the command line: on the bad day a verb or a flag that does not
// exist costs more than no page, and on the first day it costs the reader.
func TestPagesNameRealCommands(t *testing.T) {
	toPrint, err := filepath.Glob("../../docs/recover/*.md")
	if err != nil || len(toPrint) < 7 {
		t.Fatalf("%d pages, %v", len(toPrint), err)
	}
	operate, err := filepath.Glob("../../docs/operate/*.md")
	if err != nil || len(operate) < 4 {
		t.Fatalf("%d pages, %v", len(operate), err)
	}
	for _, page := range slices.Concat(toPrint, operate, []string{"../../README.md", "../../docs/start.md"}) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range command.FindAllString(string(text), -1) {
			words := strings.Fields(strings.Trim(line, "`"))
			if why := wrong(rootCommand(), words[1:]); why != "" {
				t.Errorf("%s: %q: %s", filepath.Base(page), line, why)
			}
		}
	}
}

// wrong tells what of a command line the program does not know. Words after two spaces are the page's own remark.
func wrong(root *cobra.Command, words []string) string {
	found, rest, err := root.Find(words)
	if err != nil || found == root || found.HasSubCommands() && !found.Runnable() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return "there is no such verb"
	}
	found.InitDefaultHelpFlag() // cobra does so when a command is run
	for _, word := range rest {
		name, isFlag := strings.CutPrefix(word, "--")
		if isFlag && found.Flag(name) == nil && found.InheritedFlags().Lookup(name) == nil {
			return "it has no flag --" + name
		}
	}
	return ""
}
