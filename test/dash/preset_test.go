package dash_test

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/agent/agenttest"
	"holdfast/internal/fleet"
)

// The dump and load commands that the fleet renders for a MongoDB state carry a customer's data from one server to
// another: FerretDB, or with HOLDFAST_MONGOD a real mongod.
func TestMongoPreset(t *testing.T) {
	made := build(t, "-programs")
	from, to := startDatabase(t, made), startDatabase(t, made)
	storage, ledger := t.TempDir(), filepath.Join(t.TempDir(), "ledger")
	files, err := fleet.Collect("../../examples/dash/fleet")
	if err != nil {
		t.Fatal(err)
	}
	f, err := fleet.Read(files)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := fleet.Render(f, "acme")
	if err != nil {
		t.Fatal(err)
	}
	state := spec.State[0]
	if state.Kind != fleet.StateMongoDB {
		t.Fatalf("the first state is %s", state.Kind)
	}
	url := startBackend(t, made, from, storage)
	tool(t, nil, filepath.Join(made, "programs", "dash-load"), "seed", "-url", url, "-customer", "acme", "-every", "1", "-dashboards", "5", "-ledger", ledger)
	dump := tool(t, nil, resolved(t, made, state.Dump, from)...)
	if len(dump) == 0 {
		t.Fatal("the dump is empty")
	}
	tool(t, dump, resolved(t, made, state.Load, to)...)
	tool(t, dump, resolved(t, made, state.Load, to)...) // again replaces what is there
	url = startBackend(t, made, to, storage)
	tool(t, nil, filepath.Join(made, "programs", "dash-load"), "verify", "-url", url, "-ledger", ledger)
	broken := exec.CommandContext(t.Context(), resolved(t, made, state.Load, to)[0], resolved(t, made, state.Load, to)[1:]...)
	broken.Stdin = bytes.NewReader(dump[:len(dump)/2])
	if err := broken.Run(); err == nil {
		t.Error("half a dump was loaded without an error")
	}
}

// resolved gives a command as a node runs it, with the programs that were made.
func resolved(t *testing.T, made string, command fleet.Command, address string) []string {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, text := range command.Args {
		arg, err := fleet.Resolve(text, func(r fleet.Reference) (string, error) {
			return map[string]string{"host": host, "port": port}[r.Kind], nil
		})
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, arg)
	}
	args[0] = filepath.Join(made, "programs", args[0])
	if os.Getenv("HOLDFAST_MONGOD") == "" && strings.HasSuffix(args[0], "mongorestore") {
		args = append(args, "--noIndexRestore") // as its image does: FerretDB takes no index of mongorestore
	}
	return args
}

func startDatabase(t *testing.T, made string) (address string) {
	t.Helper()
	address = freeAddress(t)
	_, port, _ := strings.Cut(address, ":")
	if mongod := os.Getenv("HOLDFAST_MONGOD"); mongod != "" {
		startProcess(t, address, nil, mongod, "--dbpath", t.TempDir(), "--bind_ip", "127.0.0.1", "--port", port)
		return address
	}
	startProcess(t, address, []string{"FERRETDB_LISTEN=" + address, "FERRETDB_DATA=" + t.TempDir()}, filepath.Join(made, "programs", "ferretdb-1.24"))
	return address
}

// startBackend starts a cache of its own and the API of v3.
func startBackend(t *testing.T, made, database, storage string) (url string) {
	t.Helper()
	cache, listen := freeAddress(t), freeAddress(t)
	_, port, _ := strings.Cut(cache, ":")
	startProcess(t, cache, nil, "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir())
	startProcess(t, listen, []string{
		"DASH_LISTEN=" + listen, "DASH_DATABASE=mongodb://" + database, "DASH_CACHE=" + cache, "DASH_STORAGE=" + storage,
		"DASH_INSTANCE=acme", "ENCRYPTION_SECRET=" + strings.Repeat("e", 48),
	}, filepath.Join(made, "programs", "dash-backend-v3.0.0"), "api")
	return "http://" + listen
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func startProcess(t *testing.T, address string, env []string, args ...string) {
	t.Helper()
	command := exec.Command(args[0], args[1:]...)
	var words bytes.Buffer
	command.Env, command.Stdout, command.Stderr = append(os.Environ(), env...), &words, &words
	if err := command.Start(); err != nil {
		t.Fatalf("start %s (make setup installs what is missing): %v", args[0], err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill() // its data is thrown away
		_ = command.Wait()
	})
	agenttest.Await(t, func() bool {
		conn, err := net.Dial("tcp", address)
		return err == nil && conn.Close() == nil
	}, func() string { return args[0] + " does not listen" })
}

// tool runs a program with input and gives its output.
func tool(t *testing.T, input []byte, args ...string) []byte {
	t.Helper()
	var out, words bytes.Buffer
	command := exec.CommandContext(t.Context(), args[0], args[1:]...)
	command.Stdin, command.Stdout, command.Stderr = bytes.NewReader(input), &out, &words
	if err := command.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, &words)
	}
	return out.Bytes()
}
