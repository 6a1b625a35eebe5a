package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"holdfast/internal/problem"
)

// What the server found crosses the wire whole: kind, words, hint, place, and all of a list.
func TestProblemsCrossTheWire(t *testing.T) {
	one := problem.New(problem.Stale, "holdfast plan", "plan 1 is old").At("acme.yaml", 3)
	two := problem.New(problem.Invalid, "", "another")
	for _, sent := range []error{one, problem.List{one, two}} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			p := ToProblem(sent)
			w.WriteHeader(p.Status)
			_ = json.NewEncoder(w).Encode(p)
		}))
		_, err := testClient(t, s.URL).Me(t.Context())
		s.Close()
		if diff := cmp.Diff(sent, err, cmpopts.IgnoreUnexported(problem.Error{})); diff != "" {
			t.Fatalf("-sent +came:\n%s", diff)
		}
	}
}

func TestAnswersOfOthers(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		kind   problem.Kind
		want   string
	}{
		{502, "<html>bad gateway</html>", problem.Unavailable, "server answered 502 Bad Gateway: <html>bad gateway</html>"},
		{422, `{"title":"Unprocessable Entity","status":422,"detail":"validation failed","errors":[{"message":"unexpected property","location":"body.x"}]}`,
			problem.Invalid, "server answered 422 Unprocessable Entity: validation failed: unexpected property"},
		{200, "<html>a portal</html>", problem.Unavailable, "answer of /api/v1/me cannot be read"},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body))
		}))
		_, err := testClient(t, s.URL).Me(t.Context())
		s.Close()
		if problem.KindOf(err) != c.kind || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("got %s %v, want %s %s", problem.KindOf(err), err, c.kind, c.want)
		}
	}
	s := httptest.NewServer(nil)
	s.Close()
	if _, err := testClient(t, s.URL).Me(t.Context()); problem.KindOf(err) != problem.Unavailable || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("a server that is gone: %v", err)
	}
}

func TestFindContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "context.json")
	env := map[string]string{EnvContext: path}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	if _, err := FindContext(lookup); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "no server is known") {
		t.Fatalf("without any: %v", err)
	}
	want := Context{Server: "https://a:1", Token: "t"}
	if err := want.Save(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("context file: %v, %v", info.Mode(), err)
	}
	if got, err := FindContext(lookup); err != nil || got != want {
		t.Fatalf("got %+v, %v", got, err)
	}
	env[EnvToken] = "other"
	if got, err := FindContext(lookup); err != nil || got.Token != "other" || got.Server != "https://a:1" {
		t.Fatalf("got %+v, %v", got, err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := FindContext(lookup); problem.KindOf(err) != problem.Usage || errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a broken file: %v", err)
	}
}

func testClient(t *testing.T, url string) *Client {
	t.Helper()
	c, err := NewClient(Context{Server: url, Token: "x"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}
