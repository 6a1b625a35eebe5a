package audit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"holdfast/internal/access"
	"holdfast/internal/access/accesstest"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/problem"
)

func TestTamperingIsNamed(t *testing.T) {
	cases := []struct {
		name string
		do   string
		want string // "" = holds
	}{
		{"nothing", "UPDATE audit_records SET seq = seq", ""},
		{"an object", "UPDATE audit_records SET object = 'instance/globex' WHERE seq = 7", `audit record 7 was changed: it now says that token/ci did "apply plan" to instance/globex at`},
		{"an actor", "UPDATE audit_records SET actor = 'token/eve' WHERE seq = 0", `audit record 0 was changed: it now says that token/eve did`},
		{"a detail", "UPDATE audit_records SET detail = '{}' WHERE seq = 20", `audit record 20 was changed`},
		{"a time", "UPDATE audit_records SET at = at + 1 WHERE seq = 3", `audit record 3 was changed`},
		{"a record gone", "DELETE FROM audit_records WHERE seq = 5", "audit record 5 is missing"},
		{"the last records gone", "DELETE FROM audit_records WHERE seq >= 19", "audit record 19 is missing: the signed head counts 21 records"},
		{"a record more", "INSERT INTO audit_records (seq, at, actor, verb, object, detail) VALUES (21, 0, 'a', 'b', 'c', '')", "audit record 21 was changed"},
		{"a leaf hash", "UPDATE audit_hashes SET hash = (SELECT hash FROM audit_hashes WHERE at = 0) WHERE at = 1", "audit record 1 was changed"},
		{"an inner hash", "UPDATE audit_hashes SET hash = (SELECT hash FROM audit_hashes WHERE at = 0) WHERE at = 2", "hash 2 of the audit log was changed; the records themselves hold"},
		{"the head", "UPDATE audit_heads SET signed = replace(signed, '21', '20') WHERE size = 21", "newest head of the audit log does not hold"},
		{"all heads gone", "DELETE FROM audit_heads", "audit log has 21 records and no signed head"},
	}
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		log := open(t, d)
		write(t, d, log, 21)
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) { wantVerify(t, damage(t, d, log, c.do), c.want) })
		}
	})
}

// damage runs the statement, verifies, and takes the damage back.
func damage(t *testing.T, d *db.DB, log *audit.Log, statement string) error {
	t.Helper()
	back := errors.New("back")
	var found error
	err := d.Tx(t.Context(), func(ctx context.Context, tx db.Tx) error {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
		_, found = log.Verify(ctx, tx, "")
		return back
	})
	if !errors.Is(err, back) {
		t.Fatal(err)
	}
	return found
}

// Who changes a record and all hashes with it still lacks the key that signed the heads.
func TestForgedHashesAreNamed(t *testing.T) {
	d := dbtest.Open(t)
	log := open(t, d)
	write(t, d, log, 40)
	inTx(t, d, func(ctx context.Context, tx db.Tx) error {
		forged, err := audit.List(ctx, tx, audit.Filter{Limit: 100})
		if err != nil {
			return err
		}
		return forge(ctx, tx, forged)
	})
	_, err := verify(t, d, log, "")
	wantVerify(t, err, "audit record 13 was changed, and the hashes with it: the head signed after it does not hold")
}

// forge changes record 13 and rewrites the whole tree to fit.
func forge(ctx context.Context, tx db.Tx, newestFirst []audit.Record) error {
	tree := tlog.HashReaderFunc(nil)
	var hashes []tlog.Hash
	tree = func(indexes []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, at := range indexes {
			out = append(out, hashes[at])
		}
		return out, nil
	}
	for i := range newestFirst {
		r := newestFirst[len(newestFirst)-1-i]
		if r.Seq == 13 {
			r.Object = "instance/forged"
		}
		more, err := tlog.StoredHashes(r.Seq, audit.Leaf(r), tree)
		if err != nil {
			return err
		}
		hashes = append(hashes, more...)
	}
	if _, err := tx.ExecContext(ctx, "UPDATE audit_records SET object = 'instance/forged' WHERE seq = 13"); err != nil {
		return err
	}
	for at, hash := range hashes {
		if _, err := tx.NewRaw("UPDATE audit_hashes SET hash = ? WHERE at = ?", hash.String(), at).Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}

// A head kept elsewhere shows a log that was cut back and written anew with the true key.
func TestAKeptHead(t *testing.T) {
	d := dbtest.Open(t)
	log := open(t, d)
	write(t, d, log, 5)
	found, err := verify(t, d, log, "")
	if err != nil || found.Records != 5 {
		t.Fatalf("verify: %+v, %v", found, err)
	}
	kept := found.Head
	write(t, d, log, 6)
	if _, err := verify(t, d, log, kept); err != nil {
		t.Fatalf("a log that only grew: %v", err)
	}
	inTx(t, d, func(ctx context.Context, tx db.Tx) error {
		for _, cut := range []string{"DELETE FROM audit_records WHERE seq >= 3", "DELETE FROM audit_heads WHERE size > 3", fmt.Sprintf("DELETE FROM audit_hashes WHERE at >= %d", tlog.StoredHashCount(3))} {
			if _, err := tx.ExecContext(ctx, cut); err != nil {
				return err
			}
		}
		return nil
	})
	_, err = verify(t, d, log, kept)
	wantVerify(t, err, "audit log has 3 records, the kept head counts 5: records were removed")
	write(t, d, log, 9)
	if _, err = verify(t, d, log, ""); err != nil {
		t.Fatalf("the rewritten log holds by itself: %v", err)
	}
	_, err = verify(t, d, log, kept)
	wantVerify(t, err, "audit log is not the one whose head was kept: among its first 5 records some were changed")
	if _, err = verify(t, d, log, "words"); problem.KindOf(err) != problem.Invalid {
		t.Fatalf("words as a head: %v", err)
	}
}

func TestAppendIsPartOfTheDeed(t *testing.T) {
	d := dbtest.Open(t)
	log := open(t, d)
	boom := errors.New("boom")
	err := d.Tx(access.With(t.Context(), access.System()), func(ctx context.Context, tx db.Tx) error {
		return errors.Join(log.Append(ctx, tx, audit.Entry{Verb: "apply plan", Object: "plan/1"}), boom)
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if found, err := verify(t, d, log, ""); err != nil || found.Records != 0 {
		t.Fatalf("a deed that was rolled back left %+v, %v", found, err)
	}
	err = d.Tx(t.Context(), func(ctx context.Context, tx db.Tx) error {
		return log.Append(ctx, tx, audit.Entry{Verb: "apply plan", Object: "plan/1"})
	})
	if err == nil || !strings.Contains(err.Error(), "the context names no actor") {
		t.Fatalf("a deed without a doer: %v", err)
	}
}

func TestList(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		log := open(t, d)
		write(t, d, log, 6)
		for _, c := range []struct {
			filter audit.Filter
			want   string
		}{
			{audit.Filter{}, "5 4 3 2 1 0"},
			{audit.Filter{Limit: 2}, "5 4"},
			{audit.Filter{Before: 2}, "1 0"},
			{audit.Filter{Object: "instance/acme-3"}, "3"},
			{audit.Filter{Actor: "token/eve"}, ""},
		} {
			records, err := audit.List(t.Context(), d, c.filter)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range records {
				got = append(got, fmt.Sprint(r.Seq))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("%+v: got %v, want %s", c.filter, got, c.want)
			}
		}
	})
}

func open(t *testing.T, d *db.DB) *audit.Log {
	t.Helper()
	log, err := audit.New(accesstest.Keys(t, d))
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func write(t *testing.T, d *db.DB, log *audit.Log, n int) {
	t.Helper()
	ctx := access.With(t.Context(), access.Actor{Name: "token/ci", Role: access.Operator})
	for i := range n {
		err := d.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
			return log.Append(ctx, tx, audit.Entry{Verb: "apply plan", Object: fmt.Sprintf("instance/acme-%d", i), Detail: map[string]any{"plan": i}})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func verify(t *testing.T, d *db.DB, log *audit.Log, kept string) (found audit.Verified, err error) {
	t.Helper()
	err = d.Tx(t.Context(), func(ctx context.Context, tx db.Tx) (err error) { found, err = log.Verify(ctx, tx, kept); return err })
	return found, err
}

func wantVerify(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err == nil {
		return
	}
	if want == "" || problem.KindOf(err) != problem.Corrupt || !strings.HasPrefix(err.Error(), want) {
		t.Fatalf("got %v, want %q", err, want)
	}
}

func inTx(t *testing.T, d *db.DB, do func(ctx context.Context, tx db.Tx) error) {
	t.Helper()
	if err := d.Tx(t.Context(), do); err != nil {
		t.Fatal(err)
	}
}
