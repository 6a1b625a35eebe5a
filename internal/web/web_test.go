package web_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/op"
	"holdfast/internal/problem"
	"holdfast/internal/step"
	"holdfast/internal/web"
)

var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

const token = "right"

// stage is a set of pages over a fleet that a test changes.
type stage struct {
	*httptest.Server
	inventory atomic.Pointer[fleet.Inventory]
	changed   chan struct{}
}

// open serves pages over a fleet of n instances, one of which is in each unhappy state.
func open(t testing.TB, n int) *stage {
	t.Helper()
	s := &stage{changed: make(chan struct{}, 1)}
	s.inventory.Store(inventory(n))
	pages, err := web.New(web.Config{
		Reads: s.reads(),
		Enter: func(_ context.Context, given string) (*http.Cookie, error) {
			if given != token {
				return nil, problem.New(problem.Denied, "holdfast token create", "this token opens nothing")
			}
			return &http.Cookie{Name: "session", Value: "s", Path: "/", HttpOnly: true}, nil
		},
		Allowed: func(r *http.Request) bool { c, err := r.Cookie("session"); return err == nil && c.Value == "s" },
		Changed: func() <-chan struct{} { return s.changed },
		Now:     func() time.Time { return now },
		Log:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewServer(pages.Handler())
	t.Cleanup(s.CloseClientConnections)
	return s
}

func (s *stage) reads() web.Reads {
	return web.Reads{
		Inventory:  func(context.Context) (fleet.Inventory, error) { return *s.inventory.Load(), nil },
		Proofs:     func(context.Context) (map[string]web.Proof, error) { return proofs(), nil },
		Instance:   func(_ context.Context, name string) (web.InstanceReads, error) { return s.instance(name) },
		Operations: func(context.Context) ([]web.Operation, error) { return []web.Operation{operation()}, nil },
		Operation:  func(context.Context, string) (web.Operation, []web.Step, error) { return operation(), steps(), nil },
		Drills: func(context.Context) ([]web.Drill, error) {
			return []web.Drill{{ID: "d1", Plan: "lose-par1", Scenario: "site lost", Phase: "recover", Started: now.Add(-time.Minute)}}, nil
		},
		Report: func(_ context.Context, id, format string) ([]byte, error) { return []byte(id + " as " + format), nil },
	}
}

func inventory(n int) *fleet.Inventory {
	inv := &fleet.Inventory{Nodes: map[string]fleet.NodeFacts{}, Placements: map[string]fleet.Placement{}}
	for i := range 4 {
		name := fmt.Sprintf("par1-n%d", i)
		inv.Nodes[name] = fleet.NodeFacts{Node: name, Site: "par1", Roles: []fleet.Role{fleet.RoleRun}, SeenAt: now.Add(-time.Second), Version: "v1",
			Capacity: fleet.Capacity{MemoryMB: 64 << 10, MemoryUsedMB: 20 << 10, DiskFreeMB: 900 << 10}, Instances: map[string]fleet.InstanceFacts{}}
	}
	states := []fleet.InstanceState{fleet.StateDegraded, fleet.StateStarting, fleet.StateFenced, fleet.StateStopped}
	for i := range n {
		name, node := fmt.Sprintf("customer-%03d", i), fmt.Sprintf("par1-n%d", i%4)
		inv.Placements[name] = fleet.Placement{Instance: name, Node: node, Site: "par1", Epoch: 3, Slot: "s1", Release: "notes/v1.0.0"}
		facts := fleet.InstanceFacts{Instance: name, State: fleet.StateRunning, Endpoints: []string{"127.0.1.1:2000"}, CanarySeq: 77, CanaryAt: now.Add(-time.Second),
			Services: []fleet.ServiceFacts{{Name: "api", Ready: true, Running: 1, Wanted: 1, Since: now.Add(-time.Hour), MemoryMB: 20}, {Name: "worker", Wanted: 1, Note: "ended with 1"}}}
		if i < len(states) {
			facts.State = states[i]
		}
		inv.Nodes[node].Instances[name] = facts
	}
	inv.Nodes["ams1-n0"] = fleet.NodeFacts{Node: "ams1-n0", Site: "ams1", SeenAt: now.Add(-time.Hour), Instances: map[string]fleet.InstanceFacts{}}
	inv.Placements["far"] = fleet.Placement{Instance: "far", Node: "ams1-n0", Site: "ams1", Release: "notes/v1.0.0"}
	return inv
}

func proofs() map[string]web.Proof {
	return map[string]web.Proof{
		"customer-000": {Snapshot: now.Add(-time.Hour), Proven: now.Add(-2 * time.Hour)},
		"customer-001": {Snapshot: now.Add(-time.Hour)},
	}
}

func (s *stage) instance(name string) (web.InstanceReads, error) {
	p, ok := s.inventory.Load().Placements[name]
	if !ok {
		return web.InstanceReads{}, problem.New(problem.NotFound, "holdfast get instances", "there is no instance %s", name)
	}
	return web.InstanceReads{
		Placement: p, Hosts: []string{name + ".notes.localhost"},
		Snapshots:  []web.Snapshot{{ID: "7f3c", Release: "notes/v1.0.0", Vault: "ams1-vault", Taken: now.Add(-time.Hour), Bytes: 1 << 30, Added: 3 << 20}},
		Probes:     []web.ProbeAnswer{{Prober: "probe1", OK: true, Words: "200", At: now.Add(-time.Second), Took: 3 * time.Millisecond}, {Prober: "probe2", Words: "503", At: now}},
		Operations: []web.Operation{operation()},
	}, nil
}

func operation() web.Operation {
	return web.Operation{ID: "op-1", Kind: "recover", Title: "recover par1", Actor: "ada", State: op.Running, CreatedAt: now.Add(-20 * time.Second), Counts: op.Counts{Steps: 10, Done: 4}}
}

func steps() []web.Step {
	return []web.Step{
		{ID: "acme/fetch", Instance: "acme", Kind: step.Fetch, State: step.Running, Placed: "ams1-n1", Title: "fetch 7f3c", DoneBytes: 1 << 20, TotalBytes: 4 << 20, StartedAt: now.Add(-3 * time.Second)},
		{ID: "acme/load", Instance: "acme", Kind: step.Load, State: step.Failed, Error: "the dump ends too early <script>", Title: "load"},
		{ID: "tell", Kind: step.Tell, State: step.Done, Title: "tell the team"},
	}
}

// fetch reads a page as someone who has entered.
func fetch(t testing.TB, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.AddCookie(&http.Cookie{Name: "session", Value: "s"})
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestRoomsShowWhatIs(t *testing.T) {
	s := open(t, 20)
	rooms := map[string][]string{
		"/":                       {"customer-000", "degraded", "proven 2 h ago", "unproven · snapshot 60 min ago", "no snapshot", "unknown", "par1-n1"},
		"/nodes":                  {"par1-n0", "heard", "out of reach", "20 GiB of 64 GiB"},
		"/instances/customer-004": {"customer-004.notes.localhost", "epoch 3", "ended with 1", "7f3c", "unproven", "503", "number 77"},
		"/operations":             {"recover par1", "4 of 10 steps", "running"},
		"/operations/op-1":        {"fetch 7f3c (1.0 MiB of 4.0 MiB)", "the dump ends too early &lt;script&gt;", "for all"},
		"/drills":                 {"lose-par1", "under way", "unknown"},
		"/drills/d1":              {"report.html", "under way"},
		"/drills/d1/scorecard.md": {"d1 as md"},
	}
	for path, wants := range rooms {
		code, body := fetch(t, s.URL+path)
		if code != http.StatusOK {
			t.Errorf("%s: %d", path, code)
		}
		for _, want := range wants {
			if !strings.Contains(body, want) {
				t.Errorf("%s does not show %q", path, want)
			}
		}
	}
}

func TestNoRoomSaysThatABackupIsFine(t *testing.T) {
	s := open(t, 5)
	for _, path := range []string{"/", "/instances/customer-001"} {
		_, body := fetch(t, s.URL+path)
		if strings.Contains(strings.ToLower(body), "backup ok") {
			t.Errorf("%s rounds an unproven backup to fine", path)
		}
	}
}

// stay is a client that follows no redirect.
func stay() *http.Client {
	return &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func TestOnlyWhoEntersLooks(t *testing.T) {
	s := open(t, 1)
	for _, path := range []string{"/", "/nodes", "/instances/customer-000", "/operations", "/operations/op-1", "/drills", "/drills/d1", "/drills/d1/report.html", "/live"} {
		resp, err := stay().Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusSeeOther || !strings.HasPrefix(resp.Header.Get("Location"), "/login") {
			t.Errorf("%s without a session: %d to %s", path, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
}

func TestTokenIsTradedForASession(t *testing.T) {
	s := open(t, 1)
	cases := []struct {
		token, next, to string
		code            int
	}{
		{token, "/nodes", "/nodes", http.StatusSeeOther},
		{token, "//evil.example", "/", http.StatusSeeOther},
		{token, "/\\evil.example", "/", http.StatusSeeOther},
		{"wrong", "/", "", http.StatusForbidden},
	}
	for _, c := range cases {
		resp, err := stay().PostForm(s.URL+"/login", map[string][]string{"token": {c.token}, "next": {c.next}})
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.code || resp.Header.Get("Location") != c.to {
			t.Errorf("%+v: %d to %q", c, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
}

func TestUnknownInstanceIsNotFound(t *testing.T) {
	s := open(t, 1)
	if code, body := fetch(t, s.URL+"/instances/nobody"); code != http.StatusNotFound || !strings.Contains(body, "nobody") {
		t.Errorf("%d %s", code, body)
	}
}
