package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/internal/access"
	"holdfast/internal/access/accesstest"
	"holdfast/internal/api"
	"holdfast/internal/apply"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/observe"
	"holdfast/internal/op"
	"holdfast/internal/server"
	"holdfast/internal/step"
)

// withNodes is a bench with two nodes: one reports, one has only joined.
func withNodes(t *testing.T) *bench {
	t.Helper()
	b := open(t)
	fold := func(context.Context, db.Tx, string, []step.Update) error { return nil }
	b.parts.Observer = &observe.Observer{DB: b.parts.DB, Log: b.parts.Log, Fold: fold}
	b.parts.Declared = &apply.Declared{}
	b.parts.Metrics = prometheus.NewRegistry()
	b.handler = server.New(b.parts)
	accesstest.Join(t, b.parts.DB, b.parts.Keys, "a1", "north", "run")
	accesstest.Join(t, b.parts.DB, b.parts.Keys, "b1", "south", "vault")
	facts := fleet.NodeFacts{Node: "a1", Site: "north", Roles: []fleet.Role{fleet.RoleRun}, Version: "v9"}
	if _, err := b.parts.Observer.Intake(t.Context(), "a1", []link.Report{{Seq: 1, Facts: &facts}}); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNodes(t *testing.T) {
	b := withNodes(t)
	states := func() string {
		var nodes []api.Node
		decode(t, b, "GET", "/api/v1/nodes", b.tokens[access.Viewer], "", &nodes)
		var got []string
		for _, n := range nodes {
			got = append(got, n.Node+" "+n.Site+" "+string(n.State)+" "+string(n.Roles[0]))
		}
		return strings.Join(got, ", ")
	}
	if got, want := states(), "a1 north ready run, b1 south joined vault"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	later := b.parts.DB.Now().Add(2 * observe.Silent)
	if got := b.ask(t, "POST", "/api/v1/nodes/b1/revoke", b.tokens[access.Operator], "").Code; got != 403 {
		t.Fatalf("an operator revokes a node: %d", got)
	}
	if got := b.ask(t, "POST", "/api/v1/nodes/b1/revoke", b.tokens[access.Admin], ""); got.Code != 200 {
		t.Fatalf("revoke: %d %s", got.Code, got.Body)
	}
	if got, want := states(), "a1 north ready run, b1 south revoked vault"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	b.parts.DB.SetClock(fixed(later))
	if got, want := states(), "a1 north unknown run, b1 south revoked vault"; got != want {
		t.Fatalf("after a silence got %s, want %s", got, want)
	}
}

// An operation is followed over the wire event by event, from where one left off, to its end.
func TestStream(t *testing.T) {
	b := withNodes(t)
	s := httptest.NewServer(b.handler)
	defer s.Close()
	id := submit(t, b)
	events := openStream(t, s.URL+"/api/v1/operations/"+id+"/stream", b.tokens[access.Viewer])
	if e := events(); e.State != "running" || !strings.Contains(e.Note, "asked for by token/operator") {
		t.Fatalf("first event %+v", e)
	}
	if got := b.ask(t, "POST", "/api/v1/operations/"+id+"/cancel", b.tokens[access.Operator], ""); got.Code != 200 {
		t.Fatalf("cancel: %d %s", got.Code, got.Body)
	}
	if e := events(); e.State != "cancelling" || e.Note != "by token/operator" {
		t.Fatalf("second event %+v", e)
	}
	finish(t, b, id)
	if e := events(); e.State != "cancelled" || e.Step != "acme/stop" {
		t.Fatalf("third event %+v", e)
	}
	if e := events(); e.State != "cancelled" || e.Step != "" {
		t.Fatalf("last event %+v", e)
	}
	if e := events(); e.Seq != 0 {
		t.Fatalf("after the end came %+v", e)
	}
	again := openStream(t, s.URL+"/api/v1/operations/"+id+"/stream?after=2", b.tokens[access.Viewer])
	if e := again(); e.Seq != 3 {
		t.Fatalf("going on after 2 came %+v", e)
	}
	if got := b.ask(t, "GET", "/api/v1/operations/none/stream", b.tokens[access.Viewer], ""); got.Code != 404 {
		t.Fatalf("following nothing: %d", got.Code)
	}
	if got := b.ask(t, "GET", "/api/v1/operations/"+id+"/stream", "", ""); got.Code != 401 {
		t.Fatalf("following as nobody: %d", got.Code)
	}
	records, err := audit.List(t.Context(), b.parts.DB, audit.Filter{Object: "operation/" + id})
	if err != nil || len(records) != 1 || records[0].Verb != "cancel operation" {
		t.Fatalf("recorded %+v, %v", records, err)
	}
}

// openStream gives the next event of a stream at each call; a zero event once it has ended.
func openStream(t *testing.T, url, token string) func() op.Event {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(stop)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	if got := response.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Fatalf("content type %q", got)
	}
	lines := bufio.NewScanner(response.Body)
	return func() (e op.Event) {
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				if err := json.Unmarshal([]byte(data), &e); err != nil {
					t.Fatal(err)
				}
				return e
			}
		}
		return op.Event{}
	}
}

func submit(t *testing.T, b *bench) string {
	t.Helper()
	var o op.Operation
	err := b.parts.DB.Tx(t.Context(), func(ctx context.Context, tx db.Tx) (err error) {
		graph := step.Graph{{ID: "acme/stop", Node: "a1", Step: step.Step{Kind: step.Stop, Instance: "acme", Args: []byte("{}")}}}
		o, err = op.Submit(ctx, tx, op.New{Kind: "deploy", Title: "stop acme", Graph: graph, Actor: "token/operator", Instances: []string{"acme"}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return o.ID
}

// finish lets a real interpreter end the operation; no node is in reach.
func finish(t *testing.T, b *bench, id string) {
	t.Helper()
	i, err := op.NewInterpreter(op.Config{
		DB: b.parts.DB, Owner: "test", Alone: true, Dispatcher: deaf{}, Log: b.parts.Log, Folder: op.Folder{Log: b.parts.Log},
		Sign:  func(o step.Order) (step.Signed, error) { return step.Sign(b.parts.Keys.OrderKey(), step.ForOrder, o) },
		Nodes: func(context.Context) (map[string]op.Node, error) { return nil, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := i.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		if o, err := op.Get(t.Context(), b.parts.DB, id); err != nil || o.State.Ended() {
			return
		}
	}
	t.Fatalf("operation %s does not end", id)
}

// deaf is a dispatcher to nobody.
type deaf struct{}

func (deaf) Send(context.Context, string, step.Signed) error { return nil }
func (deaf) Cancel(context.Context, string, string) error    { return nil }

func fixed(at time.Time) func() time.Time { return func() time.Time { return at } }
