package kit_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast/internal/access"
	"holdfast/internal/access/accesstest"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/kit"
	"holdfast/internal/problem"
	"holdfast/internal/secret"
	"holdfast/internal/secret/keeper"
)

const (
	theKey  = "base64key://AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" // of accesstest
	another = "base64key://AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
)

// old is a control plane with a node, a token and a secret.
func old(t *testing.T, d *db.DB) (keys *access.Keys, token string) {
	t.Helper()
	keys = accesstest.Keys(t, d)
	accesstest.Join(t, d, keys, "a1", "a", "run")
	secrets := secret.NewStore(accesstest.Box(t, d))
	tx(t, d, func(ctx context.Context, tx db.Tx) (err error) {
		if token, _, err = access.CreateToken(ctx, tx, "admin", access.Admin, 0); err != nil {
			return err
		}
		log, err := audit.New(keys)
		if err != nil {
			return err
		}
		return errors.Join(log.Append(ctx, tx, audit.Entry{Verb: "create token", Object: "token/admin"}),
			secrets.Put(ctx, tx, "acme", secret.Ref{Name: "db_password", Version: 2}, secret.Of("hunter2hunter2")))
	})
	return keys, token
}

func tx(t *testing.T, d *db.DB, do func(context.Context, db.Tx) error) {
	t.Helper()
	if err := d.Tx(access.With(context.Background(), access.System()), do); err != nil {
		t.Fatal(err)
	}
}

func refresh(t *testing.T, d *db.DB) bool {
	t.Helper()
	made, err := kit.Refresh(context.Background(), d, accesstest.Box(t, d))
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func current(t *testing.T, d *db.DB) []byte {
	t.Helper()
	held, err := kit.Current(context.Background(), d)
	if err != nil || len(held.Sealed) == 0 {
		t.Fatalf("no kit: %v", err)
	}
	return held.Sealed
}

func newest(t *testing.T, key string, files map[string][]byte) (kit.Opened, []error) {
	t.Helper()
	k, err := keeper.Open(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	return kit.Newest(context.Background(), k, files)
}

// A kit made on one engine makes the same control plane on the other.
func TestAKitMakesTheSameServerAgain(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		keys, token := old(t, d)
		if !refresh(t, d) || refresh(t, d) {
			t.Fatal("a kit is made when something changed, and only then")
		}
		first := current(t, d)
		tx(t, d, func(ctx context.Context, tx db.Tx) error { return access.RevokeNode(ctx, tx, "a1") })
		if !refresh(t, d) {
			t.Fatal("a revoked node is in no new kit")
		}
		second := current(t, d)
		for _, word := range []string{"hunter2", "db_password", "acme", token, "AGE-SECRET-KEY"} {
			if bytes.Contains(second, []byte(word)) {
				t.Errorf("the kit shows %q", word)
			}
		}
		opened, left := newest(t, theKey, map[string][]byte{"first": first, "second": second, "torn": second[:len(second)/2]})
		if opened.File != "second" || len(left) != 1 {
			t.Fatalf("took %q and left %v", opened.File, left)
		}
		if about := opened.About(); about.Nodes != 1 || about.Secrets != 1 || !strings.Contains(about.Audit, "holdfast audit log") {
			t.Errorf("about %+v", about)
		}
		again := dbtest.Open(t)
		tx(t, again, opened.Restore)
		if now := accesstest.Keys(t, again); !now.OrderPublic().Equal(keys.OrderPublic()) || now.CustodianRecipient() != keys.CustodianRecipient() ||
			access.Fingerprint(now.Authority.Certificate) != access.Fingerprint(keys.Authority.Certificate) {
			t.Error("the keys are others")
		}
		values, err := secret.NewStore(accesstest.Box(t, again)).ForInstance(ctx, again, "acme", []secret.Ref{{Name: "db_password", Version: 2}})
		if err != nil || values["db_password"].Reveal() != "hunter2hunter2" {
			t.Errorf("the secret is lost: %v", err)
		}
		if who, err := access.SignIn(ctx, again, token, time.Now()); err != nil || who.Role != access.Admin {
			t.Errorf("the token is lost: %v", err)
		}
		if err := access.CheckNode(ctx, again, access.NodeID{Name: "a1", Generation: 1}); problem.KindOf(err) != problem.Denied {
			t.Errorf("a node that was revoked is let in: %v", err)
		}
		if err := again.Tx(ctx, opened.Restore); problem.KindOf(err) != problem.Conflict {
			t.Errorf("a kit was written over a control plane: %v", err)
		}
	})
}

func TestKitsThatDoNotOpen(t *testing.T) {
	d := dbtest.Open(t)
	old(t, d)
	refresh(t, d)
	whole := current(t, d)
	bent := bytes.Replace(whole, []byte(`"sealed":"`), []byte(`"sealed":"AAAA`), 1)
	for name, c := range map[string]struct {
		key  string
		raw  []byte
		kind problem.Kind
		want string
	}{
		"another key":    {another, whole, problem.WrongKey, "the kit was not opened"},
		"changed":        {theKey, bent, problem.Corrupt, "the kit was not opened"},
		"something else": {theKey, []byte("hello"), problem.Invalid, "the file is no kit of a server"},
		"newer":          {theKey, []byte(`{"holdfast_kit":9}`), problem.Invalid, "the kit has format 9, and this binary reads up to 1"},
	} {
		opened, left := newest(t, c.key, map[string][]byte{"f": c.raw})
		if opened.Whole() || len(left) != 1 || problem.KindOf(left[0]) != c.kind || !strings.Contains(left[0].Error(), c.want) {
			t.Errorf("%s: %v", name, left)
		}
	}
}
