package vaulttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sort"
	"sync"
	"testing"
	"time"

	"holdfast/internal/vault"
)

// Run is the conformance suite of stores. open gives a new empty store, or the same one again
// for each call within one test.
func Run(t *testing.T, open func(t *testing.T) vault.Store) {
	for name, check := range map[string]func(*testing.T, vault.Store){
		"PutGet": putGet, "Ranges": ranges, "NoOverwrite": noOverwrite, "OneWinner": oneWinner, "Listing": listing,
		"Missing": missing, "Deleting": deleting, "Names": names, "Cancelled": cancelled, "Large": large,
	} {
		t.Run(name, func(t *testing.T) { check(t, open(t)) })
	}
}

func name(i int) string { return fmt.Sprintf("packs/%064x", i) }

func mustPut(t *testing.T, s vault.Store, name string, body []byte) {
	t.Helper()
	if err := s.Put(t.Context(), name, body); err != nil {
		t.Fatalf("put %s: %v", name, err)
	}
}

func get(t *testing.T, s vault.Store, name string, offset, length int64) []byte {
	t.Helper()
	r, err := s.Get(t.Context(), name, offset, length)
	if err != nil {
		t.Fatalf("get %s: %v", name, err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read %s: %v", name, err)
	}
	return data
}

func putGet(t *testing.T, s vault.Store) {
	for i, body := range [][]byte{{}, []byte("a"), bytes.Repeat([]byte("0123456789"), 100_000)} {
		mustPut(t, s, name(i), body)
		if got := get(t, s, name(i), 0, -1); !bytes.Equal(got, body) {
			t.Errorf("object of %d bytes came back as %d", len(body), len(got))
		}
	}
	mustPut(t, s, "config.json", []byte("{}"))
	if got := get(t, s, "config.json", 0, -1); string(got) != "{}" {
		t.Errorf("the root's object is %q", got)
	}
}

func ranges(t *testing.T, s vault.Store) {
	body := []byte("0123456789")
	mustPut(t, s, name(1), body)
	for _, c := range []struct {
		offset, length int64
		want           string
	}{{0, 4, "0123"}, {3, 4, "3456"}, {8, 10, "89"}, {5, -1, "56789"}, {10, 5, ""}, {0, 0, ""}} {
		if got := get(t, s, name(1), c.offset, c.length); string(got) != c.want {
			t.Errorf("%d bytes from %d: %q, want %q", c.length, c.offset, got, c.want)
		}
	}
}

func noOverwrite(t *testing.T, s vault.Store) {
	mustPut(t, s, name(1), []byte("first"))
	if err := s.Put(t.Context(), name(1), []byte("other")); !errors.Is(err, vault.ErrExists) {
		t.Errorf("second put: %v, want %v", err, vault.ErrExists)
	}
	if got := get(t, s, name(1), 0, -1); string(got) != "first" {
		t.Errorf("the object became %q", got)
	}
}

func oneWinner(t *testing.T, s vault.Store) {
	const writers = 6
	errs := make([]error, writers)
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() { errs[i] = s.Put(t.Context(), name(7), fmt.Appendf(nil, "body of %d", i)) })
	}
	group.Wait()
	won := -1
	for i, err := range errs {
		switch {
		case err == nil && won >= 0:
			t.Fatalf("writers %d and %d both won", won, i)
		case err == nil:
			won = i
		case !errors.Is(err, vault.ErrExists):
			t.Errorf("writer %d: %v", i, err)
		}
	}
	if got := get(t, s, name(7), 0, -1); string(got) != fmt.Sprintf("body of %d", won) {
		t.Errorf("writer %d won, the object is %q", won, got)
	}
}

func listing(t *testing.T, s vault.Store) {
	if all, err := s.List(t.Context(), "packs"); err != nil || len(all) > 0 {
		t.Fatalf("empty folder: %v, %v", all, err)
	}
	for i := range 30 {
		mustPut(t, s, name(i), make([]byte, i))
	}
	mustPut(t, s, "config.json", []byte("{}"))
	all, err := s.List(t.Context(), "packs")
	if err != nil || len(all) != 30 {
		t.Fatalf("%d objects, %v", len(all), err)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	for i, o := range all {
		if o.Name != name(i) || o.Size != int64(i) || time.Since(o.Time).Abs() > time.Hour {
			t.Errorf("object %d is listed as %+v", i, o)
		}
	}
	if root, err := s.List(t.Context(), ""); err != nil || len(root) != 1 || root[0].Name != "config.json" {
		t.Errorf("root: %+v, %v", root, err)
	}
}

func missing(t *testing.T, s vault.Store) {
	if r, err := s.Get(t.Context(), name(1), 0, -1); !errors.Is(err, vault.ErrNotFound) {
		t.Errorf("get: %v, %v, want %v", r, err, vault.ErrNotFound)
	}
	if err := s.Delete(t.Context(), name(1)); err != nil {
		t.Errorf("delete: %v", err)
	}
}

func deleting(t *testing.T, s vault.Store) {
	mustPut(t, s, name(1), []byte("x"))
	if err := s.Delete(t.Context(), name(1)); err != nil {
		t.Fatal(err)
	}
	if all, err := s.List(t.Context(), "packs"); err != nil || len(all) > 0 {
		t.Errorf("after delete: %v, %v", all, err)
	}
	mustPut(t, s, name(1), []byte("again"))
}

func names(t *testing.T, s vault.Store) {
	for _, bad := range []string{"../x", "packs/../../x", "/etc/x", "a/b/c"} {
		if err := s.Put(t.Context(), bad, []byte("x")); err == nil {
			t.Errorf("put %q was taken", bad)
		}
		if r, err := s.Get(t.Context(), bad, 0, -1); err == nil {
			r.Close()
			t.Errorf("get %q was answered", bad)
		}
	}
}

func cancelled(t *testing.T, s vault.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, name(1), []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
	mustPut(t, s, name(1), []byte("x"))
}

func large(t *testing.T, s vault.Store) {
	body := make([]byte, 33<<20+17)
	rand.NewChaCha8([32]byte{1}).Read(body)
	mustPut(t, s, name(1), body)
	if !bytes.Equal(get(t, s, name(1), 0, -1), body) {
		t.Error("33 MB came back different")
	}
	if !bytes.Equal(get(t, s, name(1), 11<<20, 3<<20), body[11<<20:14<<20]) {
		t.Error("a range of it differs")
	}
}

// Faulty is a store whose operations go wrong when a test says so.
type Faulty struct {
	vault.Store
	// Before is called before each operation ("put", "get", "list", "delete"); its error is the operation's.
	Before func(op, name string) error
	// After is called after each operation that went well; its error is returned although the work was done,
	// as when an answer is lost.
	After func(op, name string) error
	// Change sees what a Get read, and may give other bytes.
	Change func(name string, offset int64, data []byte) []byte
}

func (f *Faulty) around(op, name string, work func() error) error {
	if f.Before != nil {
		if err := f.Before(op, name); err != nil {
			return err
		}
	}
	if err := work(); err != nil {
		return err
	}
	if f.After != nil {
		return f.After(op, name)
	}
	return nil
}

// Put implements vault.Store.
func (f *Faulty) Put(ctx context.Context, name string, body []byte) error {
	return f.around("put", name, func() error { return f.Store.Put(ctx, name, body) })
}

// Get implements vault.Store.
func (f *Faulty) Get(ctx context.Context, name string, offset, length int64) (r io.ReadCloser, err error) {
	err = f.around("get", name, func() (err error) { r, err = f.Store.Get(ctx, name, offset, length); return err })
	if err != nil || f.Change == nil {
		return r, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	return io.NopCloser(bytes.NewReader(f.Change(name, offset, data))), err
}

// List implements vault.Store.
func (f *Faulty) List(ctx context.Context, folder string) (out []vault.Object, err error) {
	err = f.around("list", folder, func() (err error) { out, err = f.Store.List(ctx, folder); return err })
	return out, err
}

// Delete implements vault.Store.
func (f *Faulty) Delete(ctx context.Context, name string) error {
	return f.around("delete", name, func() error { return f.Store.Delete(ctx, name) })
}
