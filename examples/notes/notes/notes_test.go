package notes_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/examples/notes/notes"
)

const secret = "0123456789abcdef"

func open(t *testing.T, dir, secret string) (*notes.Store, error) {
	t.Helper()
	s, err := notes.Open(context.Background(), filepath.Join(dir, "notes.db"), filepath.Join(dir, "files"), secret)
	if err == nil {
		t.Cleanup(func() { _ = s.Close() })
	}
	return s, err
}

func TestOtherSecretIsNoticed(t *testing.T) {
	dir := t.TempDir()
	if _, err := open(t, dir, secret); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, dir, "fedcba9876543210"); err == nil || !strings.Contains(err.Error(), "another NOTES_SECRET") {
		t.Fatalf("opened with another secret: %v", err)
	}
}

func TestMissingSecretRefusesToStart(t *testing.T) {
	if _, err := open(t, t.TempDir(), ""); err == nil {
		t.Fatal("opened without a secret")
	}
}

func TestInvariantsNameWhatIsDamaged(t *testing.T) {
	dir := t.TempDir()
	s, err := open(t, dir, secret)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(notes.API{Store: s, Instance: "acme"}.Handler())
	defer server.Close()
	put(t, server.URL+"/notes/n1", "three plain words")
	put(t, server.URL+"/files/a.txt", "attachment")
	if code := get(t, server.URL+"/invariants"); code != http.StatusOK {
		t.Fatalf("invariants of whole data: %d", code)
	}
	hits, err := filepath.Glob(filepath.Join(dir, "files", "a.txt.*"))
	if err != nil || len(hits) != 1 {
		t.Fatalf("stored files: %v %v", hits, err)
	}
	if err := os.WriteFile(hits[0], []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := get(t, server.URL+"/invariants"); code != http.StatusConflict {
		t.Fatalf("invariants of damaged data: %d", code)
	}
}

func TestWorkerCountsWords(t *testing.T) {
	s, err := open(t, t.TempDir(), secret)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if _, err := s.Put(ctx, "n1", "three plain words"); err != nil {
		t.Fatal(err)
	}
	if n, err := s.CountWords(ctx, 10); err != nil || n != 1 {
		t.Fatalf("counted %d, %v", n, err)
	}
	if n, err := s.Get(ctx, "n1"); err != nil || n.Words != 3 {
		t.Fatalf("words of n1: %d, %v", n.Words, err)
	}
}

func put(t *testing.T, url, body string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPut, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("PUT %s: %d", url, resp.StatusCode)
	}
}

func get(t *testing.T, url string) int {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}
