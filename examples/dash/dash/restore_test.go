package dash_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/examples/dash/load"
)

// A dump under steady writes, with the folder copied after it, holds every write acknowledged before it began, and
// nothing in part; the data of a release is loaded into an empty server with mongorestore and served again.
func TestDumpUnderWrites(t *testing.T) {
	w := newWorld(t)
	w.database.stop(t)
	w.database = ferret(t, "1.24", w.data)
	url, stop := w.deploy("v3.0.0")
	target, err := load.Reach(t.Context(), http.DefaultClient, url, "")
	if err != nil {
		t.Fatal(err)
	}
	seed, err := load.ReadPackages(strings.NewReader(packages(400)), load.Share("acme", 2))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := target.Fill(t.Context(), load.Seed{Customer: "acme", Facts: seed, Dashboards: 8})
	if err != nil {
		t.Fatal(err)
	}
	writing, halt := context.WithCancel(t.Context())
	var ledger lines
	ended := make(chan error, 1)
	go func() {
		_, err := target.Write(writing, load.Writing{Run: "w", Rate: 100, Size: 2000, Logs: func(err error) { t.Errorf("write: %v", err) }}, &ledger)
		ended <- err
	}()
	await(t, func() bool { return ledger.count() >= 30 }, func() string { return "no writes are acknowledged" })

	began := time.Now().UTC()
	dump := tool(t, nil, programs["mongodump"], "--quiet", "--archive", "--host=127.0.0.1", "--port="+port(w.database), "--db=dash")
	storage := t.TempDir()
	copyFiles(t, w.storage, storage)
	await(t, func() bool { return ledger.count() >= 60 }, func() string { return "the writes do not go on" })
	halt()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	stop()
	written, err := load.ReadLedger(ledger.reader())
	if err != nil {
		t.Fatal(err)
	}

	w.data, w.storage = t.TempDir(), storage
	w.database = ferret(t, "1.24", w.data)
	restore := []string{programs["mongorestore"], "--quiet"}
	if os.Getenv("HOLDFAST_MONGOD") == "" {
		restore = append(restore, "--noIndexRestore") // FerretDB knows no "ns" in an index; its image adds this too
	}
	tool(t, dump, append(restore, "--archive", "--host=127.0.0.1", "--port="+port(w.database), "--drop", "--nsInclude=dash.*")...)
	url, stop = w.deploy("v3.0.0")
	defer stop()
	if target, err = load.Reach(t.Context(), http.DefaultClient, url, ""); err != nil {
		t.Fatal(err)
	}
	verdict, err := target.Verify(t.Context(), append(entries, written...), began)
	if err != nil {
		t.Fatal(err)
	}
	if !verdict.Well() || verdict.Asked < 38 {
		t.Errorf("after the restore: %+v", verdict)
	}
	must(t, http.StatusOK, "GET", url+"/invariants", "")
	if again, err := target.Verify(t.Context(), []load.Entry{{ID: "never-written", Acked: began.Add(-time.Second)}}, began); err != nil || again.Well() {
		t.Errorf("a write that is not there was not missed: %+v, %v", again, err)
	}
}

// copyFiles copies what has its name already; files that are being written have others.
func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		body, err := os.ReadFile(filepath.Join(from, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, entry.Name()), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func port(s server) string {
	_, port, _ := strings.Cut(s.address, ":")
	return port
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

// packages is a list of n packages in ten sections.
func packages(n int) string {
	var list strings.Builder
	for i := range n {
		fmt.Fprintf(&list, "Package: p%d\nVersion: 1.%d\nInstalled-Size: %d\nSection: s%d\nDescription: package %d\n\n", i, i, 100+i, i%10, i)
	}
	return list.String()
}

// lines is a ledger in memory that may be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.text.Bytes(), []byte("\n"))
}

func (l *lines) reader() *bytes.Reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.NewReader(bytes.Clone(l.text.Bytes()))
}
