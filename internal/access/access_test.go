package access_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/access"
	"holdfast/internal/access/accesstest"
	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/problem"
)

// clock is a moment that a test moves.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func TestKeysStayOverRestarts(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		a, b := accesstest.Keys(t, d), accesstest.Keys(t, d)
		if !a.Authority.Certificate.Equal(b.Authority.Certificate) || !a.OrderKey().Equal(b.OrderKey()) ||
			a.CustodianRecipient() != b.CustodianRecipient() || a.ReplyToRecipient() != b.ReplyToRecipient() || a.AuditVerifierKey() != b.AuditVerifierKey() {
			t.Fatal("a key changed over a restart")
		}
		if printed := fmt.Sprintf("%v %+v %#v %s", a, a, a, a); strings.Contains(printed, "AGE-SECRET-KEY") || strings.Contains(printed, "PRIVATE") {
			t.Fatalf("keys are printed: %s", printed)
		}
	})
}

func TestJoin(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		c := &clock{time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}
		d.SetClock(c.now)
		keys := accesstest.Keys(t, d)
		_, csr := accesstest.Request(t)
		_, otherCSR := accesstest.Request(t)
		bounds := access.JoinBounds{Site: "north", Roles: []string{"run", "edge"}, Life: time.Hour}
		token := joinToken(t, d, keys, bounds)
		id := strings.Split(token, ".")[1]
		who := access.Applicant{Node: "a1", Site: "north", Roles: []string{"run"}, CSR: csr}
		with := func(change func(*access.Applicant)) access.Applicant { other := who; change(&other); return other }

		refused(t, d, keys, token, with(func(a *access.Applicant) { a.Site = "south" }), problem.Denied, "node a1 did not join: join token "+id+" is for site north, not south")
		refused(t, d, keys, token, with(func(a *access.Applicant) { a.Roles = []string{"vault"} }), problem.Denied, "node a1 did not join: join token "+id+" does not give the role vault")
		refused(t, d, keys, token, with(func(a *access.Applicant) { a.Node = "../a1" }), problem.Invalid, `"../a1" cannot be the name of a node`)
		refused(t, d, keys, token, with(func(a *access.Applicant) { a.CSR = []byte("x") }), problem.Invalid, "certificate request cannot be read: asn1: syntax error: truncated tag or length")
		refused(t, d, keys, strings.Replace(token, ".", ".x", 2), who, problem.Denied, "the join token is not known here")
		refused(t, d, keys, "words", who, problem.Denied, "the join token is not known here")

		first := join(t, d, keys, token, who)
		if first.Name != "a1" || first.Generation != 1 {
			t.Fatalf("joined as %+v", first)
		}
		c.at = c.at.Add(time.Minute)
		// the answer was lost: the same node with the same key asks again
		if again := join(t, d, keys, token, who); again != first {
			t.Fatalf("asked again, joined as %+v, want %+v", again, first)
		}
		refused(t, d, keys, token, with(func(a *access.Applicant) { a.CSR = otherCSR }), problem.Denied,
			"node a1 did not join: join token "+id+" was used already, by node a1 at 2026-03-04T05:06:07Z")
		refused(t, d, keys, token, with(func(a *access.Applicant) { a.Node = "a2" }), problem.Denied,
			"node a2 did not join: join token "+id+" was used already, by node a1 at 2026-03-04T05:06:07Z")

		late := joinToken(t, d, keys, bounds)
		refused(t, d, keys, late, with(func(a *access.Applicant) { a.CSR = otherCSR }), problem.Conflict, "node a1 did not join: a node of that name joined at 2026-03-04T05:06:07Z")
		c.at = c.at.Add(2 * time.Hour)
		refused(t, d, keys, late, with(func(a *access.Applicant) { a.Node = "a2" }), problem.Denied,
			"node a2 did not join: join token "+strings.Split(late, ".")[1]+" ended at 2026-03-04T06:07:07Z")
	})
}

func TestJoiningAgainTurnsTheOldCertificateOff(t *testing.T) {
	d := dbtest.Open(t)
	keys := accesstest.Keys(t, d)
	_, csr := accesstest.Request(t)
	who := access.Applicant{Node: "a1", Site: "north", Roles: []string{"run"}, CSR: csr}
	bounds := access.JoinBounds{Site: "north", Roles: []string{"run"}, Node: "a1", Life: time.Hour}
	first := join(t, d, keys, joinToken(t, d, keys, bounds), who)
	second := join(t, d, keys, joinToken(t, d, keys, bounds), who)
	if second.Generation != 2 {
		t.Fatalf("second join: %+v", second)
	}
	wantError(t, access.CheckNode(t.Context(), d, first), problem.Denied, "certificate of node a1 was replaced when the node joined again at ")
	if err := access.CheckNode(t.Context(), d, second); err != nil {
		t.Fatal(err)
	}
	inTx(t, d, func(ctx context.Context, tx db.Tx) error { return access.RevokeNode(ctx, tx, "a1") })
	wantError(t, access.CheckNode(t.Context(), d, second), problem.Denied, "certificate of node a1 was revoked at ")
	wantError(t, access.CheckNode(t.Context(), d, access.NodeID{Name: "zz", Generation: 1}), problem.NotFound, "no node zz has joined")
	third := join(t, d, keys, joinToken(t, d, keys, bounds), who)
	if err := access.CheckNode(t.Context(), d, third); err != nil || third.Generation != 3 {
		t.Fatalf("joined after revocation as %+v: %v", third, err)
	}
}

func TestCertificates(t *testing.T) {
	d := dbtest.Open(t)
	keys := accesstest.Keys(t, d)
	cert := accesstest.Join(t, d, keys, "a1", "north", "run").Leaf
	if life := cert.NotAfter.Sub(cert.NotBefore); life < access.NodeLife || life > access.NodeLife+2*time.Hour {
		t.Fatalf("node certificate lives %s", life)
	}
	if len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Fatalf("node certificate may do %v", cert.ExtKeyUsage)
	}
	if at := access.RenewAt(cert); !at.Before(cert.NotAfter.Add(-9*24*time.Hour)) || at.Before(cert.NotBefore.Add(19*24*time.Hour)) {
		t.Fatalf("renew at %s of %s to %s", at, cert.NotBefore, cert.NotAfter)
	}
	_, csr := accesstest.Request(t)
	var renewed []byte
	inTx(t, d, func(ctx context.Context, tx db.Tx) (err error) {
		renewed, err = keys.Renew(ctx, tx, access.NodeID{Name: "a1", Generation: 1}, csr)
		return err
	})
	if id := idOf(t, renewed); id != (access.NodeID{Name: "a1", Generation: 1}) {
		t.Fatalf("renewed as %+v", id)
	}
	if _, err := access.NodeOf(keys.Authority.Certificate); problem.KindOf(err) != problem.Denied {
		t.Fatalf("the authority passes for a node: %v", err)
	}
}

// Over real TLS: a node's certificate is seen, a stranger's authority is refused both ways.
func TestTLS(t *testing.T) {
	d, foreign := dbtest.Open(t), dbtest.Open(t)
	keys, foreignKeys := accesstest.Keys(t, d), accesstest.Keys(t, foreign)
	url := serve(t, keys)
	node := accesstest.Join(t, d, keys, "a1", "north", "run")
	stranger := accesstest.Join(t, foreign, foreignKeys, "a1", "north", "run")
	show := func(c *tls.Certificate) func() *tls.Certificate { return func() *tls.Certificate { return c } }
	cases := []struct {
		name   string
		config *tls.Config
		want   string // body, or part of the error
	}{
		{"a node", access.ClientTLS(keys.Authority.Certificate, show(node)), "a1/1"},
		{"a person", access.ClientTLS(keys.Authority.Certificate, nil), "no node certificate was shown"},
		{"another authority's node", access.ClientTLS(keys.Authority.Certificate, show(stranger)), "tls: unknown certificate authority"},
		{"who trusts another authority", access.ClientTLS(foreignKeys.Authority.Certificate, nil), "certificate signed by unknown authority"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := ask(t, url, c.config); !strings.Contains(got, c.want) {
				t.Fatalf("got %q, want %q", got, c.want)
			}
		})
	}
}

// A certificate without the node's key is worth nothing.
func TestAStolenCertificateWithoutItsKey(t *testing.T) {
	d := dbtest.Open(t)
	keys := accesstest.Keys(t, d)
	stolen := *accesstest.Join(t, d, keys, "a1", "north", "run")
	stolen.PrivateKey, _ = accesstest.Request(t)
	got := ask(t, serve(t, keys), access.ClientTLS(keys.Authority.Certificate, func() *tls.Certificate { return &stolen }))
	if !strings.Contains(got, "tls:") {
		t.Fatalf("a certificate was taken without its key: %q", got)
	}
}

func TestTokens(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		c := &clock{time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}
		d.SetClock(c.now)
		text, made := createToken(t, d, "ci", access.Operator, time.Hour)
		signIn := func(text string) (access.Actor, error) { return access.SignIn(t.Context(), d, text, c.at) }
		actor, err := signIn(text)
		if err != nil || actor != (access.Actor{Name: "token/ci", Role: access.Operator}) {
			t.Fatalf("signed in as %+v, %v", actor, err)
		}
		for _, wrong := range []string{"", "x", text + "x", strings.Replace(text, "hft", "hfs", 1), "hft." + made.ID + ".", strings.Replace(text, made.ID, "aaaaaaaa", 1)} {
			if actor, err := signIn(wrong); problem.KindOf(err) != problem.Unauthenticated {
				t.Errorf("%q signs in as %+v, %v", wrong, actor, err)
			}
		}
		session := openSession(t, d, text)
		if actor, err := signIn(session); err != nil || actor.Name != "token/ci" {
			t.Fatalf("session is %+v, %v", actor, err)
		}
		if _, err := signIn(strings.Replace(session, "hfs", "hft", 1)); problem.KindOf(err) != problem.Unauthenticated {
			t.Fatalf("a session passes for a token: %v", err)
		}
		inTx(t, d, func(ctx context.Context, tx db.Tx) error { return access.CloseSession(ctx, tx, session) })
		if _, err := signIn(session); problem.KindOf(err) != problem.Unauthenticated {
			t.Fatalf("a closed session: %v", err)
		}
		open := openSession(t, d, text)
		inTx(t, d, func(ctx context.Context, tx db.Tx) error { _, err := access.RevokeToken(ctx, tx, made.ID); return err })
		for _, ended := range []string{text, open} {
			if _, err := signIn(ended); problem.KindOf(err) != problem.Unauthenticated {
				t.Fatalf("signs in after its token was revoked: %v", err)
			}
		}
		timed, _ := createToken(t, d, "soon", access.Viewer, time.Minute)
		c.at = c.at.Add(time.Minute)
		if _, err := signIn(timed); problem.KindOf(err) != problem.Unauthenticated {
			t.Fatalf("an ended token: %v", err)
		}
		var rows []string
		if err := d.NewRaw("SELECT hash FROM access_tokens UNION SELECT hash FROM access_sessions").Scan(t.Context(), &rows); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(strings.Join(rows, " "), strings.Split(text, ".")[2]) {
			t.Fatal("a token stands readable in the database")
		}
		tokens, err := access.ListTokens(t.Context(), d)
		if err != nil || len(tokens) != 2 || tokens[0].RevokedAt.IsZero() == tokens[1].RevokedAt.IsZero() {
			t.Fatalf("tokens: %+v, %v", tokens, err)
		}
	})
}

func TestMay(t *testing.T) {
	var got []string
	for _, actor := range []access.Actor{{}, {Name: "token/v", Role: access.Viewer}, {Name: "token/o", Role: access.Operator}, {Name: "token/a", Role: access.Admin}, {Name: "node/a1"}} {
		for _, role := range access.Roles() {
			got = append(got, fmt.Sprintf("%s %s %s", actor.Name, role, problem.KindOf(actor.May(role, "apply a plan"))))
		}
	}
	want := []string{
		" viewer unauthenticated", " operator unauthenticated", " admin unauthenticated",
		"token/v viewer ", "token/v operator denied", "token/v admin denied",
		"token/o viewer ", "token/o operator ", "token/o admin denied",
		"token/a viewer ", "token/a operator ", "token/a admin ",
		"node/a1 viewer denied", "node/a1 operator denied", "node/a1 admin denied",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	err := access.Actor{Name: "token/v", Role: access.Viewer}.May(access.Operator, "apply a plan")
	wantError(t, err, problem.Denied, "token/v may not apply a plan: it has the role viewer, this takes operator")
}

func serve(t *testing.T, keys *access.Keys) string {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", keys.Authority.ServerTLS([]string{"127.0.0.1", "localhost"}, time.Now))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := access.PeerNode(r.TLS)
		if err != nil {
			fmt.Fprint(w, err)
			return
		}
		fmt.Fprintf(w, "%s/%d", id.Name, id.Generation)
	})}
	go func() { _ = s.Serve(listener) }() // ends with Close below
	t.Cleanup(func() { _ = s.Close() })
	return "https://" + listener.Addr().String()
}

func ask(t *testing.T, url string, config *tls.Config) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	res, err := client.Get(url)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	var body strings.Builder
	if err := res.Write(&body); err != nil {
		return err.Error()
	}
	return body.String()
}

func joinToken(t *testing.T, d *db.DB, keys *access.Keys, bounds access.JoinBounds) (text string) {
	t.Helper()
	inTx(t, d, func(ctx context.Context, tx db.Tx) (err error) {
		text, _, err = keys.CreateJoinToken(ctx, tx, bounds)
		return err
	})
	if pin := text[strings.LastIndex(text, ".")+1:]; pin != access.Fingerprint(keys.Authority.Certificate) {
		t.Fatalf("the token names authority %q", pin)
	}
	return text
}

func join(t *testing.T, d *db.DB, keys *access.Keys, token string, who access.Applicant) access.NodeID {
	t.Helper()
	var der []byte
	inTx(t, d, func(ctx context.Context, tx db.Tx) (err error) { der, err = keys.Join(ctx, tx, token, who); return err })
	return idOf(t, der)
}

func refused(t *testing.T, d *db.DB, keys *access.Keys, token string, who access.Applicant, kind problem.Kind, text string) {
	t.Helper()
	err := d.Tx(t.Context(), func(ctx context.Context, tx db.Tx) error { _, err := keys.Join(ctx, tx, token, who); return err })
	wantError(t, err, kind, text)
}

func idOf(t *testing.T, der []byte) access.NodeID {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	id, err := access.NodeOf(cert)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func createToken(t *testing.T, d *db.DB, name string, role access.Role, life time.Duration) (text string, made access.Token) {
	t.Helper()
	inTx(t, d, func(ctx context.Context, tx db.Tx) (err error) {
		text, made, err = access.CreateToken(ctx, tx, name, role, life)
		return err
	})
	return text, made
}

func openSession(t *testing.T, d *db.DB, token string) (text string) {
	t.Helper()
	inTx(t, d, func(ctx context.Context, tx db.Tx) (err error) {
		text, _, err = access.OpenSession(ctx, tx, token)
		return err
	})
	return text
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
