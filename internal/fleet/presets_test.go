package fleet_test

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/db/dbtest"
	"holdfast/internal/fleet"
)

// keeper is a product around one database.
const keeper = `
kind: Product
name: keeper
services:
  db: {image: "registry.example/db:v1.0.0", ports: [1000], volumes: ["data:/data"]}
x-holdfast:
  secrets: {pass: {}}
  state:
    data: {service: db, %s}
---
kind: Release
name: keeper/v1.0.0
---
kind: Instance
name: kept
product: keeper
release: keeper/v1.0.0
placement: {site: par1}
backup: {custodian: true}
`

// preset renders the commands of a state and resolves them as a node does.
func preset(t *testing.T, state string, known map[string]string) (dump, load []string) {
	t.Helper()
	files := example(t)
	files["keeper.yaml"] = fmt.Appendf(nil, keeper, state)
	spec, err := fleet.Render(read(t, files), "kept")
	if err != nil {
		t.Fatal(err)
	}
	resolve := func(args []string) []string {
		out := make([]string, len(args))
		for i, text := range args {
			out[i], err = fleet.Resolve(text, func(r fleet.Reference) (string, error) { return known[r.Kind], nil })
			if err != nil {
				t.Fatal(err)
			}
		}
		return out
	}
	return resolve(spec.State[0].Dump.Args), resolve(spec.State[0].Load.Args)
}

// run runs a command with input and gives its output.
func run(t *testing.T, input []byte, args ...string) []byte {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.Bytes()
}

// What redis-server wrote is there again in another server, after that has stopped and started, with and without an
// append-only file.
func TestRedisPresetAgainstTheRealThing(t *testing.T) {
	for _, appendOnly := range []string{"no", "yes"} {
		t.Run("appendonly "+appendOnly, func(t *testing.T) {
			from := startRedis(t, t.TempDir(), appendOnly)
			dump, _ := preset(t, `kind: redis, password: "${secret:pass}"`, from.known())
			from.cli(t, "SET", "note", "kept")
			snapshot := run(t, nil, dump...)
			from.stop(t)

			dir := t.TempDir()
			to := startRedis(t, dir, appendOnly)
			to.cli(t, "SET", "old", "gone")
			_, load := preset(t, `kind: redis, password: "${secret:pass}"`, to.known())
			run(t, snapshot, load...)
			to.stop(t)
			again := startRedis(t, dir, appendOnly)
			if got := again.cli(t, "GET", "note"); got != "kept" {
				t.Errorf("after the load note is %q, want kept", got)
			}
			if got := again.cli(t, "EXISTS", "old"); got != "0" {
				t.Errorf("what was there before the load is still there")
			}
			again.stop(t)
		})
	}
}

type redis struct {
	port string
	cmd  *exec.Cmd
}

func (r redis) known() map[string]string {
	return map[string]string{"host": "127.0.0.1", "port": r.port, "secret": "sesame"}
}

func (r redis) cli(t *testing.T, args ...string) string {
	t.Helper()
	return strings.TrimSpace(string(run(t, nil, append([]string{"env", "REDISCLI_AUTH=sesame", "redis-cli", "-p", r.port}, args...)...)))
}

func (r redis) stop(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Wait(); err != nil {
		t.Fatalf("redis-server ended with %v", err)
	}
}

// startRedis starts a server and waits until it answers.
func startRedis(t *testing.T, dir, appendOnly string) redis {
	t.Helper()
	r := redis{port: freePort(t)}
	r.cmd = exec.Command("redis-server", "--port", r.port, "--bind", "127.0.0.1", "--dir", dir, "--requirepass", "sesame", "--appendonly", appendOnly)
	var log bytes.Buffer
	r.cmd.Stdout, r.cmd.Stderr = &log, &log
	if err := r.cmd.Start(); err != nil {
		t.Fatalf("start redis-server (make setup installs it): %v", err)
	}
	t.Cleanup(func() { _ = r.cmd.Process.Kill() }) // it has ended already unless the test failed
	deadline := time.Now().Add(20 * time.Second)
	for {
		out, err := exec.Command("env", "REDISCLI_AUTH=sesame", "redis-cli", "-p", r.port, "PING").Output()
		if err == nil && strings.TrimSpace(string(out)) == "PONG" {
			return r
		}
		if time.Now().After(deadline) {
			_ = r.cmd.Process.Kill()
			_ = r.cmd.Wait() // its words are what matters
			t.Fatalf("redis-server does not answer: %s %v\n%s", out, err, log.String())
		}
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// A dump of PostgreSQL replaces what another database holds, and is refused as a whole when it is broken.
func TestPostgresPresetAgainstTheRealThing(t *testing.T) {
	from, to := dbtest.PostgresDSN(t), dbtest.PostgresDSN(t)
	run(t, nil, "psql", "--quiet", from, "-c", "CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('kept')")
	run(t, nil, "psql", "--quiet", to, "-c", "CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('old')")
	dump, _ := postgresPreset(t, from)
	_, load := postgresPreset(t, to)
	snapshot := run(t, nil, dump...)
	run(t, snapshot, load...)
	if got := strings.TrimSpace(string(run(t, nil, "psql", "-At", to, "-c", "SELECT text FROM notes"))); got != "kept" {
		t.Errorf("after the load the notes are %q, want kept", got)
	}
	run(t, nil, "psql", "--quiet", to, "-c", "UPDATE notes SET text = 'newer'")
	broken := exec.Command(load[0], load[1:]...)
	broken.Stdin = bytes.NewReader(snapshot[:len(snapshot)-40])
	if err := broken.Run(); err == nil {
		t.Error("half a dump was loaded without an error")
	}
	if got := strings.TrimSpace(string(run(t, nil, "psql", "-At", to, "-c", "SELECT text FROM notes"))); got != "newer" {
		t.Errorf("half a dump left %q, want what was there before", got)
	}
}

func postgresPreset(t *testing.T, dsn string) (dump, load []string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]string{"host": u.Query().Get("host"), "port": "5432", "secret": "unused"}
	state := fmt.Sprintf("kind: postgres, user: %s, database: %s, password: %q", u.Query().Get("user"), strings.TrimPrefix(u.Path, "/"), "${secret:pass}")
	return preset(t, state, known)
}
