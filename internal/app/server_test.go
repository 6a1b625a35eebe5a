//go:build !slim

package app_test

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/access"
	"holdfast/internal/api"
	"holdfast/internal/app"
	"holdfast/internal/audit"
	"holdfast/internal/config"
	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/problem"
)

const (
	testKey  = "base64key://AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	otherKey = "base64key://AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
)

// output takes what a server writes, from many goroutines.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func openServer(t *testing.T, dir, dsn, key string) (s *app.Server, people *output, err error) {
	t.Helper()
	people = &output{}
	settings := config.Server{Data: dir, Database: dsn, Listen: "127.0.0.1:0"}
	s, err = app.OpenServer(t.Context(), settings, app.Process{Version: "test", Key: key, Logs: &output{}, People: people})
	return s, people, err
}

// The same story on both engines: first start, use, stop, start again.
func TestServerLives(t *testing.T) {
	for name, dsn := range map[string]func(testing.TB) string{"sqlite": func(testing.TB) string { return "" }, "postgres": dbtest.PostgresDSN} {
		t.Run(name, func(t *testing.T) { serverLives(t, t.TempDir(), dsn(t)) })
	}
}

func serverLives(t *testing.T, dir, dsn string) {
	s, people, err := openServer(t, dir, dsn, testKey)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(people.String(), "admin token (shown this once): hft.") {
		t.Fatalf("the first start said %q", people)
	}
	if _, _, err := openServer(t, dir, dsn, testKey); problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "another server uses the data folder") {
		t.Fatalf("a second server on the folder: %v", err)
	}
	stop := run(t, s)
	c := client(t, dir)
	if me, err := c.Me(t.Context()); err != nil || me.Name != "token/admin" || me.Version != "test" {
		t.Fatalf("me %+v, %v", me, err)
	}
	if nodes, err := c.Nodes(t.Context()); err != nil || len(nodes) != 0 {
		t.Fatalf("nodes %v, %v", nodes, err)
	}
	if page := status(t, dir, "/login"); page != http.StatusOK {
		t.Fatalf("the way in answers %d", page)
	}
	stop()
	s, people, err = openServer(t, dir, dsn, testKey)
	if err != nil {
		t.Fatal(err)
	}
	if people.String() != "" {
		t.Fatalf("the second start said %q", people)
	}
	defer run(t, s)()
	if me, err := client(t, dir).Me(t.Context()); err != nil || me.Name != "token/admin" {
		t.Fatalf("after a restart: me %+v, %v", me, err)
	}
}

func TestServerRefuses(t *testing.T) {
	dir := t.TempDir()
	s, _, err := openServer(t, dir, "", testKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openServer(t, dir, "", otherKey); problem.KindOf(err) != problem.WrongKey || !strings.HasPrefix(err.Error(), "the given key does not open the secrets in this database") {
		t.Fatalf("another key: %v", err)
	}
	before := makeNewer(t, filepath.Join(dir, "control.db"))
	_, _, err = openServer(t, dir, "", testKey)
	want := "server was not started, and the database was left as it is: migrate sqlite database: the database was migrated by a newer holdfast: it is at version 99999, this binary knows "
	if problem.KindOf(err) != problem.Conflict || !strings.HasPrefix(err.Error(), want) {
		t.Fatalf("a newer database: %v", err)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "control.db")); err != nil || !bytes.Equal(before, after) {
		t.Fatalf("the newer database was touched (%v)", err)
	}
	fresh := filepath.Join(t.TempDir(), "data")
	if _, _, err := openServer(t, fresh, "", ""); problem.KindOf(err) != problem.Usage || err.Error() != "server was not started: it needs a key that seals its secrets" {
		t.Fatalf("without a key: %v", err)
	}
	if _, err := os.Stat(fresh); !os.IsNotExist(err) {
		t.Fatalf("without a key something was made: %v", err)
	}
}

// The way in when every token is lost: on the machine, with the key, while the server runs.
func TestATokenIsMadeOnTheMachine(t *testing.T) {
	dir := t.TempDir()
	settings := config.Server{Data: dir, Listen: ":0"}
	make := func(key string) (string, error) {
		return app.MachineToken(t.Context(), settings, app.Process{Key: key}, "break-glass", access.Admin, time.Hour)
	}
	if _, err := make(testKey); problem.KindOf(err) != problem.NotFound || !strings.HasPrefix(err.Error(), "there is no control database") {
		t.Fatalf("without a database: %v", err)
	}
	s, _, err := openServer(t, dir, "", testKey)
	if err != nil {
		t.Fatal(err)
	}
	defer run(t, s)()
	if _, err := make(otherKey); problem.KindOf(err) != problem.WrongKey {
		t.Fatalf("with another key: %v", err)
	}
	text, err := make(testKey)
	if err != nil {
		t.Fatal(err)
	}
	known, err := api.ReadContext(filepath.Join(dir, "admin.json"))
	if err != nil {
		t.Fatal(err)
	}
	known.Token = text
	c, err := api.NewClient(known)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if me, err := c.Me(t.Context()); err != nil || me.Name != "token/break-glass" || me.Role != access.Admin {
		t.Fatalf("me %+v, %v", me, err)
	}
	records, err := c.Audit(t.Context(), audit.Filter{})
	if err != nil || !slices.ContainsFunc(records, func(r audit.Record) bool {
		return r.Verb == "create token on the machine" && strings.HasPrefix(r.Actor, "machine/")
	}) {
		t.Errorf("it is not in the audit log: %v, %v", records, err)
	}
}

func makeNewer(t *testing.T, path string) []byte {
	t.Helper()
	d, err := db.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, TRUE)"); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// run runs the server and returns what stops it and sees that it ended well.
func run(t *testing.T, s *app.Server) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the server ended with %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the server does not end")
		}
	}
}

func client(t *testing.T, dir string) *api.Client {
	t.Helper()
	known, err := api.ReadContext(filepath.Join(dir, "admin.json"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := api.NewClient(known)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// status asks for a page as a browser that trusts the authority.
func status(t *testing.T, dir, path string) int {
	t.Helper()
	known, err := api.ReadContext(filepath.Join(dir, "admin.json"))
	if err != nil {
		t.Fatal(err)
	}
	config, err := known.TLS()
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	response, err := browser.Get(known.Server + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode
}
