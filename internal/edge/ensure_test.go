package edge_test

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/edge"
	"holdfast/internal/link"
)

// TestMain lets this test binary be the edge that Ensure starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "edge" {
		os.Exit(beEdge(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func beEdge(args []string) int {
	settings := edge.Defaults("")
	flags := flag.NewFlagSet("edge", flag.ContinueOnError)
	settings.Bind(flags)
	if err := flags.Parse(args); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := edge.Run(ctx, settings); err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return 0
}

func ensure(t *testing.T, settings edge.Settings) (*edge.Client, edge.Status) {
	t.Helper()
	client, err := edge.Ensure(t.Context(), edge.Start{Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	status, err := client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return client, status
}

func TestEnsureKeepsOneEdgeRunning(t *testing.T) {
	settings := edge.Settings{Dir: shortDir(t), Plain: "127.0.0.1:0"}
	client, first := ensure(t, settings)
	t.Cleanup(func() { _ = client.Stop(context.Background()) })
	if sid, err := unix.Getsid(first.PID); err != nil || sid != first.PID {
		t.Errorf("the edge is not in its own session: %d of %d (%v)", sid, first.PID, err)
	}
	if _, again := ensure(t, settings); again.PID != first.PID {
		t.Errorf("a second edge was started: %d beside %d", again.PID, first.PID)
	}
	if _, err := client.Apply(t.Context(), []link.Route{routeTo("acme", 4)}); err != nil {
		t.Fatal(err)
	}

	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "the killed edge is gone", func() bool {
		_, err := client.Status(t.Context())
		return err != nil
	})
	_, second := ensure(t, settings)
	if r, ok := second.Route("acme"); second.PID == first.PID || !ok || r.Epoch != 4 {
		t.Errorf("after the kill: %+v", second)
	}

	settings.Limits.HoldWait = -1
	_, third := ensure(t, settings)
	if _, ok := third.Route("acme"); third.PID == second.PID || !ok {
		t.Errorf("other settings did not start another edge: %+v", third)
	}
}

func TestEnsureTellsWhyAnEdgeEnded(t *testing.T) {
	settings := edge.Settings{Dir: shortDir(t), Plain: "127.0.0.1:notaport"}
	_, err := edge.Ensure(t.Context(), edge.Start{Settings: settings})
	if err == nil || !strings.Contains(err.Error(), "ended at once") {
		t.Fatalf("got %v", err)
	}
	words, err := os.ReadFile(filepath.Join(settings.Dir, "edge.log"))
	if err != nil || !strings.Contains(string(words), "does not listen on 127.0.0.1:notaport") {
		t.Errorf("edge.log says %q (%v)", words, err)
	}
}

func TestSocketPathOfADeepFolder(t *testing.T) {
	dir := filepath.Join(shortDir(t), strings.Repeat("deep/", 30))
	if path := edge.SocketPath(dir); len(path) > 107 {
		t.Fatalf("%d bytes: %s", len(path), path)
	}
	client, _ := ensure(t, edge.Settings{Dir: dir, Plain: "127.0.0.1:0"})
	if err := client.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}
