package internal_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// flow is the order of the packages: a package imports only packages that stand before it.
// It is the list of docs/architecture.md; a new package gets its place here first.
var flow = []string{
	"problem", "db", "secret", "access", "audit", "kit", "config", "vault",
	"fleet",
	"step", "plan",
	"approval", "op",
	"metric", "logs", "link", "check", "names", "edge", "agent", "observe", "apply", "backup", "adopt",
	"alert",
	"notify", "oncall", "incident", "statuspage",
	"recovery", "evidence",
	"api", "server", "web", "app", "cli",
}

// never lists what a package must not reach, even through others, and why.
var never = []struct {
	from string
	to   []string
	why  string
}{
	{"vault", []string{"*"}, "the way back must work when the control plane is gone"},
	{"plan", []string{"db"}, "a plan is a pure function of fleet and inventory"},
	{"agent", []string{"plan", "approval", "op", "alert", "oncall", "incident", "server", "web"}, "a node obeys orders, it decides nothing"},
}

// slim lists the files of cli and app that a node needs. Every other file there begins with //go:build !slim, so that
// cmd/holdfast-agent stays small.
var slim = []string{
	"cli/agent.go", "cli/edge.go", "cli/root.go", "cli/undotimer.go", "cli/version.go", "cli/commands_slim.go",
	"app/agent.go", "app/bucket_slim.go", "app/collector.go", "app/doc.go", "app/edge.go", "app/stores.go", "app/vault.go",
}

func TestNodesGetOnlyWhatTheyNeed(t *testing.T) {
	for _, room := range []string{"cli", "app"} {
		files, err := filepath.Glob(room + "/*.go")
		if err != nil || len(files) == 0 {
			t.Fatalf("list %s: %v", room, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			left := strings.HasPrefix(string(text), "//go:build !slim\n")
			if !left && !strings.HasSuffix(file, "_test.go") && !slices.Contains(slim, filepath.ToSlash(file)) {
				t.Errorf("%s: begin it with //go:build !slim and an empty line; if a node needs it, put it into the list slim", file)
			}
		}
	}
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func TestImportsPointBack(t *testing.T) {
	packages := list(t)
	for _, p := range packages {
		for _, broken := range backward(p) {
			t.Error(broken)
		}
		for _, broken := range forbidden(p) {
			t.Error(broken)
		}
	}
}

// backward names imports that point right, packages without a place, and engines named outside app.
func backward(p goPackage) []string {
	room, engine, ok := place(p.ImportPath)
	if !ok || isTest(engine) {
		return nil
	}
	at := slices.Index(flow, room)
	if at < 0 {
		return []string{room + " has no place in flow"}
	}
	var broken []string
	for _, imported := range p.Imports {
		other, otherEngine, ok := place(imported)
		if !ok || other == room {
			continue
		}
		if slices.Index(flow, other) > at {
			broken = append(broken, room+" imports "+other+", which stands to its right")
		}
		if otherEngine != "" && room != "app" {
			broken = append(broken, room+" names the engine "+other+"/"+otherEngine+"; only app does")
		}
	}
	return broken
}

func forbidden(p goPackage) []string {
	room, engine, ok := place(p.ImportPath)
	if !ok || engine != "" {
		return nil
	}
	var broken []string
	for _, rule := range never {
		if rule.from != room {
			continue
		}
		for _, dep := range p.Deps {
			other, _, ok := place(dep)
			if ok && other != room && (slices.Contains(rule.to, "*") || slices.Contains(rule.to, other)) {
				broken = append(broken, room+" reaches "+other+": "+rule.why)
			}
		}
	}
	return broken
}

// place splits holdfast/internal/vault/sftp into vault and sftp; parts below an internal folder belong to their package.
func place(path string) (room, engine string, ok bool) {
	rest, ok := strings.CutPrefix(path, "holdfast/internal/")
	if !ok {
		return "", "", false
	}
	room, engine, _ = strings.Cut(rest, "/")
	if strings.HasPrefix(engine, "internal") {
		engine = ""
	}
	return room, engine, true
}

func isTest(engine string) bool { return strings.HasSuffix(engine, "test") }

func list(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "holdfast/internal/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("decode go list: %v", err)
		}
		all = append(all, p)
	}
}
