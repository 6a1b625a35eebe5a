//go:build !slim

package app_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/app"
	"holdfast/internal/audit"
	"holdfast/internal/config"
	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/op"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

func rebuild(t *testing.T, dir, key string, kits map[string][]byte) (app.Rebuilt, error) {
	t.Helper()
	return app.Rebuild(t.Context(), config.Server{Data: dir, Listen: ":0"}, app.Process{Version: "test", Key: key}, kits)
}

// Every copy of the kit is lost: the server gets new keys and a first token, and acts on nothing before it has adopted.
func TestServerIsRebuiltWithoutAKit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "server")
	made, err := rebuild(t, dir, testKey, nil)
	if err != nil || made.File != "" || made.Kit.Nodes != 0 || len(made.Left) != 0 {
		t.Fatalf("made %+v, %v", made, err)
	}
	if _, err := rebuild(t, dir, testKey, nil); problem.KindOf(err) != problem.Conflict || !strings.HasPrefix(err.Error(), "nothing was rebuilt: a control plane is in this database already") {
		t.Fatalf("over a control plane: %v", err)
	}
	if _, _, err := openServer(t, dir, "", otherKey); problem.KindOf(err) != problem.WrongKey {
		t.Fatalf("the new keys open with another key: %v", err)
	}
	s, people, err := openServer(t, dir, "", testKey)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(people.String(), "admin token (shown this once): hft.") {
		t.Errorf("nobody can come in: the first start said %q", people)
	}
	stop := run(t, s)
	c := client(t, dir)
	if _, err := c.MakePlan(t.Context(), plan.Request{Files: fleet.Files{}}); err == nil || !strings.Contains(hintOf(err), "holdfast adopt") {
		t.Errorf("a plan before the server has adopted: %v", err)
	}
	records, err := c.Audit(t.Context(), audit.Filter{})
	if err != nil || !slices.ContainsFunc(records, func(r audit.Record) bool { return r.Verb == "rebuild server" && strings.HasPrefix(r.Actor, "machine/") }) {
		t.Errorf("it is not in the audit log: %v, %v", records, err)
	}
	stop()
	d, err := db.Open(t.Context(), filepath.Join(dir, "control.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if adopting, err := op.Adopting(t.Context(), d); err != nil || !adopting {
		t.Errorf("after a restart it does not wait for adoption: %v, %v", adopting, err)
	}
}

// A kit that was named and does not open is never passed over: new keys are made only when somebody says so.
func TestServerIsNotRebuiltPastAKitThatDoesNotOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "server")
	if _, err := rebuild(t, dir, testKey, map[string][]byte{"server.kit": []byte("hello")}); problem.KindOf(err) != problem.Invalid {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "control.db")); !os.IsNotExist(err) {
		t.Errorf("something was made: %v", err)
	}
}

func hintOf(err error) string {
	if p, ok := errors.AsType[*problem.Error](err); ok {
		return p.Hint
	}
	return ""
}
