package tree

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/vault/internal/seal"
)

var paths = rapid.OneOf(
	rapid.StringMatching(`[a-z]{1,30}(/[a-zA-Z0-9 ._-]{1,60}x){0,4}`),
	rapid.Custom(func(t *rapid.T) string {
		raw := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "bytes")
		return "x" + string(bytes.Map(func(r rune) rune {
			if r == 0 || r == '/' {
				return 'y'
			}
			return r
		}, raw)) + "\xff"
	}),
)

var entries = rapid.Custom(func(t *rapid.T) *Entry {
	e := &Entry{
		Path: paths.Draw(t, "path"), Kind: rapid.SampledFrom([]byte("01234560s")).Draw(t, "kind"),
		Mode: rapid.Uint32Range(0, 0o7777).Draw(t, "mode"), UID: rapid.Uint32().Draw(t, "uid"), GID: rapid.Uint32().Draw(t, "gid"),
		ModTime: time.Unix(rapid.Int64Range(-1<<34, 1<<34).Draw(t, "sec"), rapid.Int64Range(0, 999999999).Draw(t, "nsec")),
	}
	switch e.Kind {
	case File:
		e.Size = rapid.OneOf(rapid.Int64Range(0, 5), rapid.Int64Range(0, 1<<42)).Draw(t, "size")
		if e.Sparse = e.Size > 8 && rapid.Bool().Draw(t, "sparse"); e.Sparse {
			e.Extents = []Extent{{e.Size / 4, e.Size / 4}, {e.Size, 0}}
		}
	case HardLink, Symlink:
		e.Link = paths.Draw(t, "link")
	case CharDev, BlockDev:
		e.Major, e.Minor = rapid.Uint32Range(0, 4095).Draw(t, "major"), rapid.Uint32Range(0, 1<<20).Draw(t, "minor")
	}
	for _, name := range rapid.SliceOfNDistinct(rapid.StringMatching(`user\.[a-z=%]{1,9}`), 0, 2, rapid.ID[string]).Draw(t, "xattrs") {
		e.Xattrs = append(e.Xattrs, Xattr{name, string(rapid.SliceOf(rapid.Byte()).Draw(t, "value"))})
	}
	return e
})

func TestHeaderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := entries.Draw(t, "entry")
		got, rest, err := ParseHeader(append(AppendHeader(nil, e), "rest"...))
		if err != nil || string(rest) != "rest" {
			t.Fatalf("read %+v: rest %q, %v", e, rest, err)
		}
		if d := cmp.Diff(e, got); d != "" {
			t.Fatalf("(-written +read)\n%s", d)
		}
	})
}

// TestHeaderIsTar lets the standard library read what we write.
func TestHeaderIsTar(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := entries.Filter(func(e *Entry) bool { return e.Kind != Socket && e.ModTime.Unix() >= 0 }).Draw(t, "entry")
		h, err := tar.NewReader(bytes.NewReader(AppendHeader(nil, e))).Next()
		if err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		if !h.ModTime.Equal(e.ModTime) || h.Mode != int64(e.Mode) || h.Size != e.Size || h.Linkname != e.Link {
			t.Fatalf("tar reads %+v, want %+v", h, e)
		}
	})
}

func TestPathsThatClimb(t *testing.T) {
	for _, p := range []string{"", "/etc/passwd", "..", "a/../b", "../x", "a/..", "a//b", "a/./b", "./a", "a/", strings.Repeat("y", 300) + "\x00b"} {
		e := &Entry{Path: p, Kind: File, ModTime: time.Unix(0, 0)}
		if got, _, err := ParseHeader(AppendHeader(nil, e)); err == nil {
			t.Errorf("%q was taken as %q", p, got.Path)
		}
		e = &Entry{Path: "a", Kind: HardLink, Link: p, ModTime: time.Unix(0, 0)}
		if _, _, err := ParseHeader(AppendHeader(nil, e)); err == nil {
			t.Errorf("a link to %q was taken", p)
		}
	}
}

type item struct {
	E    *Entry
	Refs []Ref
}

func sealed(t testing.TB, keys *seal.Keys, to age.Recipient, items []item, packs []PackLine) []byte {
	t.Helper()
	w, err := NewWriter(keys)
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		w.Add(it.E, it.Refs)
	}
	body, err := w.Seal([]byte(`{"format":1}`), packs, to)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func readAll(body []byte, keys *seal.Keys, id age.Identity) ([]item, error) {
	r, err := NewReader(bytes.NewReader(body), keys, id)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var out []item
	for {
		e, refs, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, item{e, append([]Ref(nil), refs...)})
	}
}

func TestManifestRoundTrip(t *testing.T) {
	keys := seal.Derive([32]byte{5})
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	packs := []PackLine{{Name: seal.Name([]byte("1")), Epoch: "e1"}, {Name: seal.Name([]byte("2")), Epoch: "e2"}}
	rapid.Check(t, func(t *rapid.T) {
		items := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) item {
			it := item{E: entries.Draw(t, "entry")}
			for range rapid.IntRange(1, 3).Draw(t, "refs") {
				if it.E.Stored() > 0 {
					it.Refs = append(it.Refs, Ref{rapid.Uint32Range(1, 2).Draw(t, "pack"), rapid.Uint32Range(0, math.MaxUint32).Draw(t, "ordinal")})
				}
			}
			return it
		}), 0, 40).Draw(t, "items")
		w, err := NewWriter(keys)
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range items {
			w.Add(it.E, it.Refs)
		}
		body, err := w.Seal([]byte("{}"), packs, id.Recipient())
		if err != nil {
			t.Fatal(err)
		}
		got, err := readAll(body, keys, id)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(items) {
			t.Fatalf("%d entries, want %d", len(got), len(items))
		}
		for i := range got {
			if d := cmp.Diff(items[i], got[i]); d != "" {
				t.Fatalf("entry %d (-written +read)\n%s", i, d)
			}
		}
	})
}

// TestForgedManifest is an attacker at the vault: he can encrypt to the epoch, and does not hold the hash key.
func TestForgedManifest(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	forged := sealed(t, seal.Derive([32]byte{66}), id.Recipient(), []item{{E: &Entry{Path: "a", Kind: Directory}}}, nil)
	if _, err := readAll(forged, seal.Derive([32]byte{5}), id); !errors.Is(err, ErrMAC) {
		t.Fatalf("read gave %v, want %v", err, ErrMAC)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add(AppendHeader(nil, &Entry{Path: "a/b", Kind: File, Size: 10, ModTime: time.Unix(1, 2), Xattrs: []Xattr{{"user.x", "y"}}}))
	f.Add(AppendHeader(nil, &Entry{Path: "s", Kind: File, Size: 1 << 20, Sparse: true, Extents: []Extent{{4096, 100}, {1 << 20, 0}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, rest, err := ParseHeader(data)
		if err != nil {
			return
		}
		if len(rest) > len(data) || checkPath(e.Path) != nil || e.Stored() < 0 {
			t.Fatalf("took %+v", e)
		}
	})
}

// FuzzManifest feeds what a forger could put into the age file.
func FuzzManifest(f *testing.F) {
	keys := seal.Derive([32]byte{5})
	id, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	body := sealed(f, keys, id.Recipient(), []item{{&Entry{Path: "a", Kind: File, Size: 5, ModTime: time.Unix(1, 2)}, []Ref{{1, 0}}}}, []PackLine{{Name: seal.Name(nil), Epoch: "e"}})
	plain, err := age.Decrypt(bytes.NewReader(body), id)
	if err != nil {
		f.Fatal(err)
	}
	good, err := io.ReadAll(plain)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		var body bytes.Buffer
		w, err := age.Encrypt(&body, id.Recipient())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := readAll(body.Bytes(), keys, id); err == nil && !bytes.Equal(data, good) {
			t.Fatal("a manifest that no key holder wrote was taken")
		}
	})
}
