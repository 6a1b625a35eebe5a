package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"holdfast/lab"
)

// programs is the folder of the programs under test, built once by TestMain.
var programs string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "holdfast-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programs = dir
	build := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "holdfast/cmd/holdfast", "holdfast/examples/notes/cmd/...")
	build.Stderr = os.Stderr
	code := 1
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the programs under test:", err)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir) // a leftover in the temporary folder harms nobody
	os.Exit(code)
}

// world is a running lab with its customers.
type world struct {
	*testing.T
	*lab.Notes
	ctx       context.Context
	newcomers int
}

// begin starts a control plane and nodes, declares the customers, deploys them and writes real data.
func begin(t *testing.T, customers int, change ...func(*lab.Notes) error) *world {
	t.Helper()
	w := prepare(t, customers, change...)
	w.holdfast("apply", "-f", w.Fleet, "--yes")
	w.must(w.Serve(w.ctx))
	w.must(lab.Each(w.Customers, func(c *lab.Customer) error { return c.Seed(w.ctx, 20, 5, 8<<10) }))
	return w
}

// prepare is begin up to the point where nothing is deployed yet. What is to be changed of the lab is changed before
// anything of it runs.
func prepare(t *testing.T, customers int, change ...func(*lab.Notes) error) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 80*time.Minute) // go test has a deadline of its own
	n, err := lab.NewNotes(t.TempDir(), programs, customers, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, Notes: n, ctx: ctx}
	t.Cleanup(func() {
		cancel()
		end, done := context.WithTimeout(context.Background(), 30*time.Second)
		defer done()
		if err := n.Down(end); err != nil {
			t.Errorf("take the lab down: %v", err)
		}
		if t.Failed() {
			w.keepLogs()
		}
	})
	for _, alter := range change {
		w.must(alter(n))
	}
	w.must(n.StartServer(ctx))
	w.must(n.Join(ctx))
	w.must(n.Declare(ctx))
	return w
}

// keepLogs saves the processes' own words where HOLDFAST_E2E_LOGS says, since the test's folder goes away.
func (w *world) keepLogs() {
	dir := os.Getenv("HOLDFAST_E2E_LOGS")
	if dir == "" {
		return
	}
	to := filepath.Join(dir, filepath.Base(w.Name()))
	if err := os.CopyFS(to, os.DirFS(filepath.Join(w.Dir, "logs"))); err != nil {
		w.Logf("keep logs: %v", err)
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// holdfast types a command that must succeed.
func (w *world) holdfast(args ...string) string {
	w.Helper()
	out, err := w.Notes.Run(w.ctx, args...)
	if err != nil {
		w.Fatalf("%v\n%s", err, out)
	}
	return out
}

// operation is what the command line tells of one.
type operation struct {
	ID    string `json:"id"`
	State string `json:"state"`
	Why   string `json:"why"`
}

// ended waits until an operation has ended and returns how.
func (w *world) ended(id string) operation {
	w.Helper()
	var shown struct {
		Operation operation `json:"operation"`
	}
	w.must(lab.Until(w.ctx, 2*time.Minute, 100*time.Millisecond, "end operation "+id, func() (bool, string) {
		if err := w.JSON(w.ctx, &shown, "op", "show", id); err != nil {
			return false, err.Error()
		}
		return shown.Operation.State != "running" && shown.Operation.State != "cancelling", "it is " + shown.Operation.State
	}))
	return shown.Operation
}

// event is one line of `op watch -o json`.
type event struct {
	Step  string `json:"step"`
	Node  string `json:"node"`
	State string `json:"state"`
}

// atEvent watches an operation and calls act in the moment its nth event is told, n counting from 1; it returns the
// event, or false when the operation ended before.
func (w *world) atEvent(id string, n int, act func(event)) (event, bool) {
	w.Helper()
	return w.watch(id, func(e event) bool {
		if n--; n == 0 {
			act(e)
		}
		return n == 0
	})
}

// watch shows the events of an operation, from the first on, to each, until that has seen enough; it returns the last
// one, or false when the operation ended before.
func (w *world) watch(id string, each func(event) bool) (event, bool) {
	w.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	cmd := w.Command(ctx, "op", "watch", id, "-o", "json")
	out, err := cmd.StdoutPipe()
	w.must(err)
	w.must(cmd.Start())
	defer func() { cancel(); _ = cmd.Wait() }() // it is killed on purpose
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var e event
		w.must(json.Unmarshal(lines.Bytes(), &e))
		if each(e) {
			return e, true
		}
	}
	return event{}, false
}

// copies lists the nodes on which an instance is up, by the nodes' own word.
func (w *world) copies(instance string) []string {
	w.Helper()
	var nodes []struct {
		Node  string `json:"node"`
		State string `json:"state"`
		Facts struct {
			Instances map[string]struct {
				State string `json:"state"`
			} `json:"instances"`
		} `json:"facts"`
	}
	w.must(w.JSON(w.ctx, &nodes, "get", "nodes"))
	var up []string
	for _, n := range nodes {
		switch n.Facts.Instances[instance].State {
		case "running", "starting", "degraded":
			up = append(up, n.Node)
		}
	}
	return up
}
