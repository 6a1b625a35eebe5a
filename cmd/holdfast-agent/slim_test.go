package main

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// serverOnly is what a node has no use for. Whoever adds a file to cli or app that needs one of these begins the file
// with //go:build !slim.
var serverOnly = []string{
	"holdfast/internal/access", "holdfast/internal/api", "holdfast/internal/audit", "holdfast/internal/backup", "holdfast/internal/db",
	"holdfast/internal/observe", "holdfast/internal/op", "holdfast/internal/plan", "holdfast/internal/recovery", "holdfast/internal/server",
	"holdfast/internal/web", "github.com/jackc/pgx/v5", "github.com/uptrace/bun", "github.com/danielgtaylor/huma/v2", "charm.land/bubbletea/v2",
}

func TestTheSlimBuildHoldsOnlyWhatANodeNeeds(t *testing.T) {
	out, err := exec.Command("go", "list", "-tags", "slim", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("the slim build does not load: %s", out)
	}
	have := strings.Fields(string(out))
	for _, path := range serverOnly {
		if slices.Contains(have, path) {
			t.Errorf("holdfast-agent holds %s; the file that needs it begins with //go:build !slim", path)
		}
	}
	for _, path := range []string{"holdfast/internal/agent", "holdfast/internal/edge"} {
		if !slices.Contains(have, path) {
			t.Errorf("holdfast-agent lacks %s", path)
		}
	}
}

func TestTheSlimBuildRuns(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "holdfast-agent")
	if out, err := exec.Command("go", "build", "-tags", "slim", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("the slim build fails, perhaps for a file without //go:build !slim: %s", out)
	}
	out, err := exec.Command(binary, "agent").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "the agent did not start: --data is missing") {
		t.Fatalf("got %s, %v", out, err)
	}
}
