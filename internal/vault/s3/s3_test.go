package s3_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"holdfast/internal/vault"
	"holdfast/internal/vault/s3"
	"holdfast/internal/vault/s3/s3test"
	"holdfast/internal/vault/vaulttest"
)

func open(t *testing.T, c s3.Config) vault.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	vaulttest.Run(t, func(t *testing.T) vault.Store {
		_, c := s3test.New(t)
		return open(t, c)
	})
}

// TestTroubleInTheMiddleOfAMultipart breaks a part: the name must stay free, and the next try work.
func TestTroubleInTheMiddleOfAMultipart(t *testing.T) {
	s, c := s3test.New(t)
	store := open(t, c)
	var mended atomic.Bool
	s.Trouble(func(r *http.Request) int {
		if !mended.Load() && r.URL.Query().Get("partNumber") == "2" {
			return 500
		}
		return 0
	})
	body := make([]byte, 12<<20)
	vaulttest.Noise(1, body)
	name := fmt.Sprintf("packs/%064x", 1)
	if err := store.Put(t.Context(), name, body); err == nil {
		t.Fatal("a put whose second part was refused went well")
	}
	if r, err := store.Get(t.Context(), name, 0, -1); !errors.Is(err, vault.ErrNotFound) {
		t.Fatalf("after it: %v, %v", r, err)
	}
	mended.Store(true)
	if err := store.Put(t.Context(), name, body); err != nil {
		t.Fatal(err)
	}
	r, err := store.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != string(body) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

func TestMissingBucket(t *testing.T) {
	s, c := s3test.New(t)
	s.Trouble(func(*http.Request) int { return 404 })
	if _, err := s3.Open(t.Context(), c); !errors.Is(err, vault.ErrNotFound) {
		t.Fatalf("open: %v", err)
	}
}
