package pack

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strconv"
	"testing"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"holdfast/internal/vault/internal/seal"
)

func chunks(seed uint64, n int) [][]byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	noise := rand.NewChaCha8([32]byte{byte(seed)})
	var out [][]byte
	for range n {
		data := make([]byte, 1+rng.IntN(200<<10))
		if rng.IntN(2) == 0 {
			noise.Read(data)
		} else {
			for i := range data {
				data[i] = byte(i / 100)
			}
		}
		out = append(out, data)
	}
	return out
}

func build(t testing.TB, keys *seal.Keys, id *age.X25519Identity, all [][]byte) *Sealed {
	t.Helper()
	b, err := NewBuilder(keys, id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	h := keys.Hasher()
	for _, data := range all {
		if err := b.Add(h.ID(data), data, func() []byte { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	s, err := b.Seal()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func identity(t testing.TB) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestRoundTrip(t *testing.T) {
	keys, id, all := seal.Derive([32]byte{1}), identity(t), chunks(1, 60)
	s := build(t, keys, id, all)
	plain, size, err := age.DecryptReaderAt(bytes.NewReader(s.Body), int64(len(s.Body)), id)
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewReader(keys)
	if err != nil {
		t.Fatal(err)
	}
	table, err := r.Table(plain, size, s.MAC)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range table.Chunks {
		frame, err := r.Frame(plain, table.Frames[c.Frame])
		if err != nil {
			t.Fatal(err)
		}
		data, err := r.Chunk(frame, c)
		if err != nil || !bytes.Equal(data, all[i]) {
			t.Fatalf("chunk %d: %d bytes, %v", i, len(data), err)
		}
	}
	if _, err := r.Table(plain, size, seal.MAC{}); err == nil {
		t.Fatal("a table with another mac was taken")
	}
}

// TestWrongChunksAreRefused has a table that is right and frames that are not what it says.
func TestWrongChunksAreRefused(t *testing.T) {
	keys, id := seal.Derive([32]byte{1}), identity(t)
	b, err := NewBuilder(keys, id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Add(keys.Hasher().ID([]byte("what was meant")), []byte("something else"), func() []byte { return nil }); err != nil {
		t.Fatal(err)
	}
	s, err := b.Seal()
	if err != nil {
		t.Fatal(err)
	}
	plain, size, err := age.DecryptReaderAt(bytes.NewReader(s.Body), int64(len(s.Body)), id)
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewReader(keys)
	if err != nil {
		t.Fatal(err)
	}
	table, err := r.Table(plain, size, s.MAC)
	if err != nil {
		t.Fatal(err)
	}
	frame, err := r.Frame(plain, table.Frames[0])
	if err != nil {
		t.Fatal(err)
	}
	if data, err := r.Chunk(frame, table.Chunks[0]); err == nil {
		t.Fatalf("%q was taken for another chunk", data)
	}
	table.Frames[0].Raw--
	if _, err := r.Frame(plain, table.Frames[0]); err == nil {
		t.Fatal("a frame of another length was taken")
	}
}

// TestChunksStayInTheirFrames refuses tables that reach out, and numbers that a writer would not write.
func TestChunksStayInTheirFrames(t *testing.T) {
	good := Table{Frames: []Frame{{0, 10, 100}}, Chunks: []Chunk{{Offset: 50, Length: 50}}}
	if _, err := ParseTable(good.Encode()); err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string]Table{
		"reaches out":     {Frames: good.Frames, Chunks: []Chunk{{Offset: 51, Length: 50}}},
		"unknown frame":   {Frames: good.Frames, Chunks: []Chunk{{Frame: 1}}},
		"frame too large": {Frames: []Frame{{0, 10, MaxFrame + 1}}},
	} {
		if _, err := ParseTable(bad.Encode()); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if _, err := ParseTable(append(good.Encode(), 0)); err == nil {
		t.Error("bytes behind the table were taken")
	}
}

// TestStockTools holds the promise that a pack is age, zstd and tar and nothing else.
func TestStockTools(t *testing.T) {
	id, all := identity(t), chunks(2, 20)
	s := build(t, seal.Derive([32]byte{1}), id, all)
	plain, err := age.Decrypt(bytes.NewReader(s.Body), id)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := zstd.NewReader(plain)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	archive := tar.NewReader(raw)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if found[h.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range all {
		if !bytes.Equal(found[strconv.Itoa(i)], want) {
			t.Errorf("member %d differs", i)
		}
	}
	if len(found) != len(all)+1 || !bytes.Equal(found["table"], s.Table) {
		t.Errorf("%d members, want %d and the table", len(found), len(all))
	}
}

func FuzzParseTable(f *testing.F) {
	f.Add([]byte{})
	id, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(build(f, seal.Derive([32]byte{1}), id, chunks(3, 5)).Table)
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := ParseTable(data)
		if err != nil {
			return
		}
		for _, c := range table.Chunks {
			if c.Offset+c.Length > table.Frames[c.Frame].Raw {
				t.Fatal("a chunk reaches out of its frame")
			}
		}
		again, err := ParseTable(table.Encode())
		if err != nil || len(again.Chunks) != len(table.Chunks) {
			t.Fatalf("what was read does not read again: %v", err)
		}
	})
}

// FuzzOpen feeds hostile plaintext, as a forger with the public recipient could seal it.
func FuzzOpen(f *testing.F) {
	keys := seal.Derive([32]byte{1})
	id, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	s := build(f, keys, id, [][]byte{[]byte("small"), bytes.Repeat([]byte("text "), 999)})
	plain, size, err := age.DecryptReaderAt(bytes.NewReader(s.Body), int64(len(s.Body)), id)
	if err != nil {
		f.Fatal(err)
	}
	all, err := io.ReadAll(io.NewSectionReader(plain, 0, size))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(all)
	r, err := NewReader(keys)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := r.Table(bytes.NewReader(data), int64(len(data)), s.MAC)
		if err != nil {
			return
		}
		for _, fr := range table.Frames {
			if raw, err := r.Frame(bytes.NewReader(data), fr); err == nil && len(raw) > MaxFrame {
				t.Fatalf("a frame of %d bytes", len(raw))
			}
		}
	})
}

func BenchmarkBuild(b *testing.B) {
	keys, id, all := seal.Derive([32]byte{1}), identity(b), chunks(1, 150)
	h := keys.Hasher()
	builder, err := NewBuilder(keys, id.Recipient())
	if err != nil {
		b.Fatal(err)
	}
	total := 0
	for _, c := range all {
		total += len(c)
	}
	b.SetBytes(int64(total))
	buf := make([]byte, 0, Target+MaxFrame)
	for b.Loop() {
		for _, c := range all {
			if err := builder.Add(h.ID(c), c, func() []byte { return buf }); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := builder.Seal(); err != nil {
			b.Fatal(err)
		}
	}
}
