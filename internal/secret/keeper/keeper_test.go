package keeper

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/problem"
)

func TestCreateReadOpen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "holdfast.key")
	if err := Create(file); err != nil {
		t.Fatal(err)
	}
	url, err := Read(file, "")
	if err != nil {
		t.Fatal(err)
	}
	k, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := k.Encrypt(t.Context(), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if back, err := k.Decrypt(t.Context(), sealed); err != nil || string(back) != "x" {
		t.Fatalf("got %q, %v", back, err)
	}
	if err := Create(file); problem.KindOf(err) != problem.Conflict {
		t.Fatalf("a key was overwritten: %v", err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(file, ""); err == nil || !strings.Contains(err.Error(), "can be read by others (mode 0640)") {
		t.Fatalf("a key that others can read: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	if _, err := Read("", ""); err == nil || err.Error() != "server was not started: it needs a key that seals its secrets" {
		t.Fatalf("without a key: %v", err)
	}
	for _, url := range []string{"", "words", "base64key://", "base64key://c2VjcmV0LXN0dWZm", "base64key://not base64 at all", "nosuch://key/1"} {
		_, err := Open(t.Context(), url)
		if problem.KindOf(err) != problem.Usage {
			t.Errorf("%q: %v", url, err)
		}
		if err != nil && strings.Contains(err.Error(), "c2VjcmV0") {
			t.Errorf("the error quotes the key: %v", err)
		}
	}
}
