package dash_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/examples/dash/build"
	"holdfast/examples/dash/dash"
)

const secret = "0123456789abcdef0123456789abcdef"

// programs are built once for all tests of this package.
var programs map[string]string

func TestMain(m *testing.M) {
	code, err := with(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func with(m *testing.M) (int, error) {
	root, err := build.Root()
	if err != nil {
		return 1, err
	}
	programs, err = build.MakePrograms(context.Background(), root, filepath.Join(root, "..", "..", "bin", "dash", "programs"),
		func(text string) { fmt.Fprintln(os.Stderr, text) },
		"ferretdb-1.23", "ferretdb-1.24", "mongodump", "mongorestore", "dash-backend-v1.0.0", "dash-load")
	if err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// server is a process that a test started.
type server struct {
	address string // HOST:PORT
	command *exec.Cmd
	words   *bytes.Buffer
}

func (s server) stop(t *testing.T) {
	t.Helper()
	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.command.Wait(); err != nil {
		t.Fatalf("%s ended with %v:\n%s", s.command.Path, err, s.words)
	}
}

func start(t *testing.T, address string, env []string, args ...string) server {
	t.Helper()
	s := server{address: address, command: exec.Command(args[0], args[1:]...), words: &bytes.Buffer{}}
	s.command.Env = append(os.Environ(), env...)
	s.command.Stdout, s.command.Stderr = s.words, s.words
	if err := s.command.Start(); err != nil {
		t.Fatalf("start %s (make setup installs what is missing): %v", args[0], err)
	}
	t.Cleanup(func() {
		if s.command.ProcessState == nil {
			_ = s.command.Process.Kill() // the test did not stop it
			_ = s.command.Wait()
		}
	})
	await(t, func() bool {
		conn, err := net.Dial("tcp", address)
		return err == nil && conn.Close() == nil
	}, func() string { return args[0] + " does not listen:\n" + s.words.String() })
	return s
}

func await(t *testing.T, done func() bool, words func() string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatal(words())
		}
		<-time.After(20 * time.Millisecond)
	}
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// ferret starts a version of FerretDB on a folder; with HOLDFAST_MONGOD every version is that mongod.
func ferret(t *testing.T, version, folder string) server {
	t.Helper()
	address := free(t)
	if mongod := os.Getenv("HOLDFAST_MONGOD"); mongod != "" {
		_, port, _ := strings.Cut(address, ":")
		return start(t, address, nil, mongod, "--dbpath", folder, "--bind_ip", "127.0.0.1", "--port", port)
	}
	return start(t, address, []string{"FERRETDB_LISTEN=" + address, "FERRETDB_DATA=" + folder}, programs["ferretdb-"+version])
}

func redisServer(t *testing.T) server {
	t.Helper()
	address := free(t)
	_, port, _ := strings.Cut(address, ":")
	return start(t, address, nil, "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir())
}

// world is the data of one instance, with its servers.
type world struct {
	*testing.T
	database server
	cache    server
	data     string // of the database
	storage  string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, data: t.TempDir(), storage: t.TempDir()}
	w.database, w.cache = ferret(t, "1.23", w.data), redisServer(t)
	return w
}

// open reaches the data as a release does, without bringing it to the release's form.
func (w *world) open(version string) *dash.Store {
	w.Helper()
	release, err := dash.ParseRelease(version)
	if err != nil {
		w.Fatal(err)
	}
	store, err := dash.Open(w.Context(), dash.Options{Database: "mongodb://" + w.database.address, Storage: w.storage, Secret: secret, Release: release})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = store.Close() }) // its server may have ended before
	return store
}

// deploy starts a release in this process: migrations, the API and one worker, until the returned function.
func (w *world) deploy(version string) (url string, stop func()) {
	w.Helper()
	store := w.open(version)
	if _, err := store.Migrate(w.Context()); err != nil {
		w.Fatalf("deploy %s: %v", version, err)
	}
	release, _ := dash.ParseRelease(version) // open has parsed it
	queue := dash.OpenQueue(w.cache.address)
	api := httptest.NewServer(dash.API{Store: store, Queue: queue, Instance: "acme", Release: release, StatusAgent: "secret-agent"}.Handler())
	ctx, cancel := context.WithCancel(w.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- dash.Worker{Name: "w1", Store: store, Queue: queue, Again: 200 * time.Millisecond}.Run(ctx)
	}()
	return api.URL, func() {
		w.Helper()
		api.Close()
		cancel()
		if err := <-ended; err != nil {
			w.Error(err)
		}
		if err := queue.Close(); err != nil {
			w.Error(err)
		}
	}
}

// ask sends a request and gives the code and the body.
func ask(t *testing.T, method, url, body string, headers ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var out bytes.Buffer
	if _, err := out.ReadFrom(answer.Body); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, out.String()
}

// must asks and wants the code.
func must(t *testing.T, code int, method, url, body string, headers ...string) string {
	t.Helper()
	got, text := ask(t, method, url, body, headers...)
	if got != code {
		t.Fatalf("%s %s: %d, want %d: %s", method, url, got, code, text)
	}
	return text
}
