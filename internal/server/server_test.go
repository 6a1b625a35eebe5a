package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/internal/access"
	"holdfast/internal/access/accesstest"
	"holdfast/internal/api"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/problem"
	"holdfast/internal/secret"
	"holdfast/internal/server"
)

// bench is a handler with a token of each role.
type bench struct {
	handler http.Handler
	parts   server.Parts
	tokens  map[access.Role]string
	ready   error
}

func open(t *testing.T, mounts ...server.Mount) *bench {
	t.Helper()
	d := dbtest.Open(t)
	keys := accesstest.Keys(t, d)
	log, err := audit.New(keys)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{tokens: map[access.Role]string{}}
	b.parts = server.Parts{
		DB: d, Keys: keys, Secrets: secret.NewStore(accesstest.Box(t, d)), Audit: log, Log: slog.New(slog.DiscardHandler),
		Metrics: prometheus.NewRegistry(), Version: "test", Ready: func(context.Context) error { return b.ready }, Mounts: mounts,
	}
	b.handler = server.New(b.parts)
	err = d.Tx(t.Context(), func(ctx context.Context, tx db.Tx) error {
		for _, role := range access.Roles() {
			if b.tokens[role], _, err = access.CreateToken(ctx, tx, string(role), role, 0); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) ask(t *testing.T, method, path, token, body string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	request := httptest.NewRequestWithContext(t.Context(), method, "https://server"+path, strings.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	recorder := httptest.NewRecorder()
	b.handler.ServeHTTP(recorder, request)
	return recorder
}

func TestRolesAndProblems(t *testing.T) {
	b := open(t)
	cases := []struct {
		name, method, path, token, body string
		status                          int
		kind                            problem.Kind
		want                            string
	}{
		{"nobody", "GET", "/api/v1/tokens", "", "", 401, problem.Unauthenticated, "nobody is signed in: list tokens takes the role admin"},
		{"a wrong token", "GET", "/api/v1/tokens", "hft.aaaaaaaa.x", "", 401, problem.Unauthenticated, "the token is not known here, or has ended"},
		{"a viewer", "GET", "/api/v1/tokens", b.tokens[access.Viewer], "", 403, problem.Denied, "token/viewer may not list tokens: it has the role viewer, this takes admin"},
		{"an operator", "POST", "/api/v1/join-tokens", b.tokens[access.Operator], `{"site":"north","roles":["run"]}`, 403, problem.Denied, "token/operator may not create a join token: it has the role operator, this takes admin"},
		{"what is not there", "DELETE", "/api/v1/tokens/none", b.tokens[access.Admin], "", 404, problem.NotFound, "no token has the id none"},
		{"a field that is not known", "POST", "/api/v1/tokens", b.tokens[access.Admin], `{"name":"x","role":"viewer","power":9}`, 422, "", "unexpected property"},
		{"a role that is not known", "POST", "/api/v1/tokens", b.tokens[access.Admin], `{"name":"x","role":"king"}`, 422, "", `expected value to be one of`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := b.ask(t, c.method, c.path, c.token, c.body)
			if got.Code != c.status || !strings.Contains(got.Body.String(), c.want) || got.Header().Get("Content-Type") != "application/problem+json" {
				t.Fatalf("got %d %s %s", got.Code, got.Header().Get("Content-Type"), got.Body)
			}
			var p api.Problem
			if err := json.Unmarshal(got.Body.Bytes(), &p); err != nil || p.Kind != c.kind || p.Status != c.status {
				t.Fatalf("problem %+v, %v", p, err)
			}
		})
	}
}

func TestEveryDeedIsRecorded(t *testing.T) {
	b := open(t)
	made := b.ask(t, "POST", "/api/v1/tokens", b.tokens[access.Admin], `{"name":"ci","role":"operator"}`)
	if made.Code != 200 {
		t.Fatalf("create: %d %s", made.Code, made.Body)
	}
	var answer api.MadeToken
	if err := json.Unmarshal(made.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	b.ask(t, "DELETE", "/api/v1/tokens/"+answer.Token.ID, b.tokens[access.Admin], "")
	b.ask(t, "POST", "/api/v1/join-tokens", b.tokens[access.Admin], `{"site":"north","roles":["run"]}`)
	b.ask(t, "POST", "/api/v1/join-tokens", b.tokens[access.Admin], `{"site":"","roles":["run"]}`) // refused: no record
	records, err := audit.List(t.Context(), b.parts.DB, audit.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range records {
		got = append(got, r.Actor+" "+r.Verb)
		if strings.Contains(string(r.Detail), strings.Split(answer.Text, ".")[2]) {
			t.Fatal("the audit log holds a token")
		}
	}
	if want := "token/admin create join token|token/admin revoke token|token/admin create token"; strings.Join(got, "|") != want {
		t.Fatalf("recorded %v", got)
	}
}

func TestABrowserOfAnotherSiteIsRefused(t *testing.T) {
	b := open(t)
	var session string
	err := b.parts.DB.Tx(t.Context(), func(ctx context.Context, tx db.Tx) (err error) {
		session, _, err = access.OpenSession(ctx, tx, b.tokens[access.Admin])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	cookie := server.SessionCookie + "=" + session
	create := func(site string) int {
		return b.ask(t, "POST", "/api/v1/tokens", "", `{"name":"x","role":"viewer"}`, "Cookie", cookie, "Sec-Fetch-Site", site).Code
	}
	if code := create("same-origin"); code != 200 {
		t.Fatalf("from our own page: %d", code)
	}
	if code := create("cross-site"); code != 403 {
		t.Fatalf("from another site's page: %d", code)
	}
	if got := b.ask(t, "GET", "/api/v1/me", "", "", "Cookie", server.SessionCookie+"=hfs.aaaaaaaa.x"); got.Code != 401 {
		t.Fatalf("a session that ended: %d", got.Code)
	}
}

func TestHealth(t *testing.T) {
	b := open(t)
	status := func(path, token string) int { return b.ask(t, "GET", path, token, "").Code }
	if status("/healthz", "") != 200 || status("/readyz", "") != 200 || status("/metrics", "") != 401 {
		t.Fatal("health of a server that is well")
	}
	b.ready = errors.New("it is stopping")
	if got := b.ask(t, "GET", "/readyz", "", ""); got.Code != 503 || !strings.Contains(got.Body.String(), "server is not ready: it is stopping") {
		t.Fatalf("readyz: %d %s", got.Code, got.Body)
	}
	b.ask(t, "GET", "/api/v1/me", b.tokens[access.Viewer], "")
	metrics := b.ask(t, "GET", "/metrics", b.tokens[access.Viewer], "").Body.String()
	if want := `holdfast_http_request_seconds_count{route="GET /api/v1/me",status="200"} 1`; !strings.Contains(metrics, want) {
		t.Fatalf("no %s in:\n%s", want, metrics)
	}
}

func TestAPanicIsAnAnswer(t *testing.T) {
	b := open(t, server.Mount{Path: "/boom", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") })})
	got := b.ask(t, "GET", "/boom", "", "")
	body, _ := io.ReadAll(got.Body)
	if got.Code != 500 || !strings.Contains(string(body), "GET /boom was not finished") || strings.Contains(string(body), "goroutine") {
		t.Fatalf("got %d %s", got.Code, body)
	}
}

// The document is what other programs are written from: it names every route and how it is entered.
func TestOpenAPI(t *testing.T) {
	b := open(t)
	got := b.ask(t, "GET", "/api/openapi.json", "", "").Body.String()
	for _, want := range []string{`"/api/v1/tokens"`, `"create-join-token"`, `"Takes the role admin."`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in the document", want)
		}
	}
}
