package secret_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/problem"
	"holdfast/internal/secret"
	"holdfast/internal/secret/keeper"
)

const (
	keyOne = "base64key://AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	keyTwo = "base64key://AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
)

func TestValueIsNeverPrinted(t *testing.T) {
	v := secret.Of("hunter22")
	held := struct{ Password secret.Value }{v}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+"\n", v)
		fmt.Fprintf(&out, verb+"\n", held)
	}
	fmt.Fprintln(&out, v, held, &held, map[string]secret.Value{"a": v})
	if err := json.NewEncoder(&out).Encode(held); err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("said", "v", v, "held", held)
	slog.New(slog.NewTextHandler(&out, nil)).Info("said", "v", v, "held", held)
	for _, form := range []string{"hunter22", fmt.Sprintf("%x", "hunter22")} {
		if strings.Contains(out.String(), form) {
			t.Fatalf("the secret was printed as %s:\n%s", form, out.String())
		}
	}
	if !strings.Contains(out.String(), secret.Mask) {
		t.Fatalf("no %s in:\n%s", secret.Mask, out.String())
	}
}

func TestGenerate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.IntRange(secret.MinLength, 200).Draw(t, "length")
		a, err := secret.Generate(length)
		if err != nil {
			t.Fatal(err)
		}
		b, err := secret.Generate(length)
		if err != nil {
			t.Fatal(err)
		}
		if a == b || len(a.Reveal()) != length || strings.Trim(a.Reveal(), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") != "" {
			t.Fatalf("bad secrets of length %d: %q %q", length, a.Reveal(), b.Reveal())
		}
	})
	if _, err := secret.Generate(8); problem.KindOf(err) != problem.Invalid {
		t.Fatalf("a secret of 8 characters: %v", err)
	}
}

func TestStore(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		store := secret.NewStore(openBox(t, d, keyOne))
		refs := []secret.Ref{{Name: "db", Version: 1, Length: 24}, {Name: "api", Version: 1}}
		ensure := func() (made []string) {
			inTx(t, d, func(ctx context.Context, tx db.Tx) (err error) {
				made, err = store.Ensure(ctx, tx, "acme", refs)
				return err
			})
			return made
		}
		if diff := cmp.Diff([]string{"db", "api"}, ensure()); diff != "" {
			t.Fatal(diff)
		}
		first := read(t, store, d, "acme", refs)
		if made := ensure(); made != nil || len(first["db"].Reveal()) != 24 || len(first["api"].Reveal()) != secret.DefaultLength {
			t.Fatalf("made again %v, values %d %d", made, len(first["db"].Reveal()), len(first["api"].Reveal()))
		}
		// the same key opens them after a restart
		again := read(t, secret.NewStore(openBox(t, d, keyOne)), d, "acme", refs)
		if again["db"] != first["db"] || again["api"] != first["api"] {
			t.Fatal("secrets changed over a restart")
		}
		refs[0].Version = 2
		if diff := cmp.Diff([]string{"db"}, ensure()); diff != "" {
			t.Fatal(diff)
		}
		if read(t, store, d, "acme", refs)["db"] == first["db"] {
			t.Fatal("a new version has the old value")
		}
		_, err := store.ForInstance(t.Context(), d, "globex", refs[:1])
		wantError(t, err, problem.NotFound, "secret db of instance globex has no version 2")
		var raw string
		if err := d.NewRaw("SELECT sealed FROM instance_secrets LIMIT 1").Scan(t.Context(), &raw); err != nil || strings.Contains(raw, first["db"].Reveal()) {
			t.Fatalf("at rest: %q, %v", raw, err)
		}
	})
}

func TestPut(t *testing.T) {
	d := dbtest.Open(t)
	store := secret.NewStore(openBox(t, d, keyOne))
	ref := secret.Ref{Name: "db", Version: 1}
	put := func(text string) (err error) {
		_ = d.Tx(t.Context(), func(ctx context.Context, tx db.Tx) error {
			err = store.Put(ctx, tx, "acme", ref, secret.Of(text))
			return err
		})
		return err
	}
	for _, text := range []string{"from the snapshot", "from the snapshot"} {
		if err := put(text); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, put("another"), problem.Conflict, "secret db of instance acme has another value at version 1")
}

func TestAnotherKeyIsRefused(t *testing.T) {
	d := dbtest.Open(t)
	openBox(t, d, keyOne)
	k, err := keeper.Open(t.Context(), keyTwo)
	if err != nil {
		t.Fatal(err)
	}
	_, err = secret.OpenBox(t.Context(), d, k)
	wantError(t, err, problem.WrongKey, "the given key does not open the secrets in this database")
}

func TestARowMovedToAnotherInstanceDoesNotOpen(t *testing.T) {
	d := dbtest.Open(t)
	store := secret.NewStore(openBox(t, d, keyOne))
	refs := []secret.Ref{{Name: "db", Version: 1}}
	inTx(t, d, func(ctx context.Context, tx db.Tx) error {
		if _, err := store.Ensure(ctx, tx, "acme", refs); err != nil {
			return err
		}
		_, err := tx.NewRaw("UPDATE instance_secrets SET instance = 'globex'").Exec(ctx)
		return err
	})
	_, err := store.ForInstance(t.Context(), d, "globex", refs)
	wantError(t, err, problem.Corrupt, "secret instance/globex/db/1 does not open: its bytes are not what was sealed")
}

func TestTravel(t *testing.T) {
	node, other := identity(t), identity(t)
	want := map[string]secret.Value{"db": secret.Of("p\"ä\n"), "empty": secret.Of("")}
	sealed, err := secret.SealTo(node.Recipient().String(), want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := secret.OpenFrom(node, sealed)
	if err != nil || got["db"] != want["db"] || len(got) != 2 {
		t.Fatalf("got %d values, %v", len(got), err)
	}
	_, err = secret.OpenFrom(other, sealed)
	wantError(t, err, problem.WrongKey, "message is sealed to somebody else")
	sealed[len(sealed)-1] ^= 1
	_, err = secret.OpenFrom(node, sealed)
	wantError(t, err, problem.Corrupt, "sealed message cannot be read")
}

func identity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func openBox(t *testing.T, d *db.DB, url string) *secret.Box {
	t.Helper()
	k, err := keeper.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	box, err := secret.OpenBox(t.Context(), d, k)
	if err != nil {
		t.Fatal(err)
	}
	return box
}

func read(t *testing.T, s *secret.Store, d *db.DB, instance string, refs []secret.Ref) map[string]secret.Value {
	t.Helper()
	values, err := s.ForInstance(t.Context(), d, instance, refs)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func inTx(t *testing.T, d *db.DB, do func(ctx context.Context, tx db.Tx) error) {
	t.Helper()
	if err := d.Tx(t.Context(), do); err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err error, kind problem.Kind, text string) {
	t.Helper()
	if problem.KindOf(err) != kind || !strings.HasPrefix(fmt.Sprint(err), text) {
		t.Fatalf("got %s %q, want %s %q", problem.KindOf(err), err, kind, text)
	}
}
