// Package serverstest gives tests a lab of full servers.
//
// Words: those of package servers.
//
// Invariant: what a test brought up is gone when the test ends, whatever its end; where a lab cannot run, the test is
// left out with a line that says why, and never counted as passed.
package serverstest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/lab/servers"
)

// Up brings a lab of that shape up for the test and takes it down after it. A lab of that name that is there already,
// left by a test that was killed, is taken down first.
func Up(t testing.TB, shape servers.Shape) *servers.Lab {
	t.Helper()
	Needed(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := servers.Down(ctx, shape.Name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { down(t, shape.Name) })
	l, err := servers.Up(ctx, shape, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Needed leaves the test out, in words, where a lab cannot run, and where nobody asked for one: the first of a machine
// takes minutes to make what all others share.
func Needed(t testing.TB) {
	t.Helper()
	if os.Getenv("HOLDFAST_E2E") == "" {
		t.Skipf("left out: a lab of full servers takes minutes: make e2e STORY=%s", t.Name())
	}
	if missing := servers.Missing(); len(missing) > 0 {
		t.Skipf("left out: a lab of full servers cannot run here, it lacks %s", strings.Join(missing, ", "))
	}
}

func down(t testing.TB, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := servers.Down(ctx, name); err != nil {
		t.Errorf("take the lab down: %v", err)
	}
}

// Server finds a server that the test cannot do without.
func Server(t testing.TB, l *servers.Lab, name string) *servers.Server {
	t.Helper()
	s, err := l.Server(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Programs builds holdfast and holdfast-agent and returns their folder, for Shape.Bin. HOLDFAST_LAB_BIN names a folder
// where they are already.
func Programs(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("HOLDFAST_LAB_BIN"); dir != "" {
		return dir
	}
	dir := t.TempDir() + string(filepath.Separator)
	for _, args := range [][]string{{"holdfast/cmd/holdfast"}, {"-tags", "slim", "holdfast/cmd/holdfast-agent"}} {
		if said, err := exec.Command("go", append([]string{"build", "-o", dir}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("build the programs: %v: %s", err, said)
		}
	}
	return dir
}
