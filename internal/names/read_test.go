package names

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/problem"
)

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "names.yaml")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	good := "provider: rfc2136\nzone: example.com\nttl: 30s\nserver: 192.0.2.53:53\nkey_name: holdfast\nkey: c2VjcmV0\n"
	write(good, 0o600)
	got, err := Read(path)
	if err != nil || got.Zone != "example.com" || got.TTL != 30*time.Second || got.Key.Reveal() != "c2VjcmV0" {
		t.Fatalf("%+v %v", got, err)
	}
	write(good, 0o644)
	if _, err := Read(path); problem.KindOf(err) != problem.Invalid || !strings.Contains(err.Error(), "can be read by others (mode 0644)") {
		t.Errorf("open to others: %v", err)
	}
	write(good+"tokn: x\n", 0o600)
	if _, err := Read(path); problem.KindOf(err) != problem.Invalid || !strings.Contains(err.Error(), "tokn") || strings.Contains(err.Error(), "c2VjcmV0") {
		t.Errorf("unknown key: %v", err)
	}
}
