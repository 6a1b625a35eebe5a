package agent

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/link/linktest"
	"holdfast/internal/problem"
)

func selfOf(url string) Self {
	return Self{Server: url, Node: "a1", Site: "a", Roles: []fleet.Role{fleet.RoleRun, fleet.RoleSpare}}
}

func TestJoinOnceAndStartAgainWithoutAToken(t *testing.T) {
	register, server := linktest.Up(t)
	dir := filepath.Join(t.TempDir(), "data")
	first, err := Enter(t.Context(), dir, selfOf(server.URL), register.Token("a1"), "test", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	server.Kill() // what follows must not need it
	second, err := Enter(t.Context(), dir, selfOf(server.URL), "", "test", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if !first.Certificate().Leaf.Equal(second.Certificate().Leaf) || first.Unseal.String() != second.Unseal.String() ||
		!first.OrderKey.Equal(second.OrderKey) || authorizedKey(first.SSH) != authorizedKey(second.SSH) {
		t.Fatal("the identity is another one after a start")
	}
	for _, path := range []string{dir, filepath.Join(dir, identityName)} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %s", path, info.Mode())
		}
	}
}

func TestJoinIsAskedAgainWithTheSameKeyWhenTheAnswerWasLost(t *testing.T) {
	authority, err := linktest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	register := linktest.NewRegister(authority)
	gate := register.Gate()
	lose := true
	join := gate.Join
	gate.Join = func(ctx context.Context, r link.JoinRequest) (link.JoinResponse, error) {
		answer, err := join(ctx, r)
		if lose && err == nil {
			lose = false
			return link.JoinResponse{}, problem.New(problem.Unavailable, "", "lost")
		}
		return answer, err
	}
	server, err := linktest.Start(authority, gate, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)
	dir, token := t.TempDir(), register.Token("a1")
	if _, err := Enter(t.Context(), dir, selfOf(server.URL), token, "test", time.Now); problem.KindOf(err) != problem.Unavailable {
		t.Fatalf("got %v", err)
	}
	if _, err := Enter(t.Context(), dir, selfOf(server.URL), token, "test", time.Now); err != nil {
		t.Fatalf("the same key was refused: %v", err)
	}
	_, err = Enter(t.Context(), t.TempDir(), selfOf(server.URL), token, "test", time.Now)
	if problem.KindOf(err) != problem.Denied || err.Error() != "node a1 did not join: the join token was used already" {
		t.Fatalf("another node used the token: %v", err)
	}
}

func TestJoinIsRefused(t *testing.T) {
	register, server := linktest.Up(t)
	other, err := linktest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := Enter(t.Context(), dir, selfOf(server.URL), register.Token("a1"), "test", time.Now); err != nil {
		t.Fatal(err)
	}
	renamed := selfOf(server.URL)
	renamed.Node = "a2"
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, identityName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, dir, token string
		self             Self
		clock            func() time.Time
		kind             problem.Kind
		words, hint      string
	}{
		{"no token", t.TempDir(), "", selfOf(server.URL), time.Now, problem.Usage,
			"the agent did not start: node a1 has not joined, and no join token was given", "holdfast join-token create --site a --roles run,spare"},
		{"token without a pin", t.TempDir(), "hfj.1.secret", selfOf(server.URL), time.Now, problem.Usage,
			"node a1 did not join: the join token does not name the server's authority", "holdfast agent --ca FILE, or a whole token: holdfast join-token create"},
		{"token of another server", t.TempDir(), other.Token("a1"), selfOf(server.URL), time.Now, problem.Denied,
			"the server at 127.0.0.1 is not the one that was named: its certificate authority is not ", "check the address, or make a new token on the right server: holdfast join-token create"},
		{"another node's data", dir, "", renamed, time.Now, problem.Conflict,
			dir + " holds the identity of node a1, not of a2", "start it with --node a1, or with another --data"},
		{"ended certificate", dir, "", selfOf(server.URL), func() time.Time { return time.Now().AddDate(1, 0, 0) }, problem.Denied,
			"the agent did not start: the certificate of node a1 ended at ", "holdfast join-token create --site a --roles run,spare --node a1"},
		{"damaged identity", damaged, "", selfOf(server.URL), time.Now, problem.Corrupt, "identity.json cannot be read", "remove the file and join again: holdfast agent --join TOKEN"},
		{"no server", t.TempDir(), register.Token("a1"), selfOf("https://127.0.0.1:1"), time.Now, problem.Unreachable, "cannot reach the server at https://127.0.0.1:1", ""},
	} {
		_, err := Enter(t.Context(), c.dir, c.self, c.token, "test", c.clock)
		told, ok := errors.AsType[*problem.Error](err)
		if !ok || told.Kind != c.kind || !strings.Contains(told.Message, c.words) || c.hint != "" && told.Hint != c.hint {
			t.Errorf("%s: got %#v", c.name, err)
		}
	}
}

func TestAnEndedCertificateIsReplacedByJoiningAgain(t *testing.T) {
	register, server := linktest.Up(t)
	register.Life = time.Hour
	dir := t.TempDir()
	first, err := Enter(t.Context(), dir, selfOf(server.URL), register.Token("a1"), "test", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	later := func() time.Time { return time.Now().Add(2 * time.Hour) }
	register.Now = later
	second, err := Enter(t.Context(), dir, selfOf(server.URL), register.AnotherToken("a1"), "test", later)
	if err != nil {
		t.Fatal(err)
	}
	if first.Certificate().Leaf.Equal(second.Certificate().Leaf) || first.Unseal.String() != second.Unseal.String() {
		t.Fatal("want a fresh certificate and the same keys")
	}
}

// A certificate that was stolen is revoked, and the node joins again with another token: the stolen key is then of no
// use. A refused token leaves the identity as it was.
func TestAnotherTokenMakesTheNodeJoinAgainWithANewKey(t *testing.T) {
	register, server := linktest.Up(t)
	dir := t.TempDir()
	self := selfOf(server.URL)
	enterWith := func(token string) (*Identity, error) {
		return Enter(t.Context(), dir, self, token, "test", time.Now)
	}
	first, err := enterWith(register.Token("a1"))
	if err != nil {
		t.Fatal(err)
	}
	same, err := enterWith(register.Token("a1"))
	if err != nil || !same.Certificate().Leaf.Equal(first.Certificate().Leaf) {
		t.Fatalf("the token it has joined with: %v", err)
	}
	if _, err := enterWith("hfj.unknown.x." + strings.SplitN(register.Token("a1"), ".", 4)[3]); problem.KindOf(err) != problem.Denied {
		t.Fatalf("a token that is not known: %v", err)
	}
	if still, err := enterWith(""); err != nil || !still.Certificate().Leaf.Equal(first.Certificate().Leaf) {
		t.Fatalf("after a refused token: %v", err)
	}
	second, err := enterWith(register.AnotherToken("a1"))
	if err != nil {
		t.Fatal(err)
	}
	if first.Certificate().Leaf.PublicKey.(*ecdsa.PublicKey).Equal(second.Certificate().Leaf.PublicKey) || first.Unseal.String() != second.Unseal.String() {
		t.Fatal("want a new key for the certificate, and the node's other keys as they were")
	}
}

func TestJoinTrustsAFile(t *testing.T) {
	register, server := linktest.Up(t)
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: register.Certificate.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	self := selfOf(server.URL)
	self.Authority = path
	if _, err := Enter(t.Context(), t.TempDir(), self, register.Token("a1"), "test", time.Now); err != nil {
		t.Fatal(err)
	}
}

// The certificate is renewed well before it ends, and the stream then shows the new one.
func TestTheCertificateIsRenewed(t *testing.T) {
	t.Parallel() // it mostly waits
	register, server := linktest.Up(t)
	register.Life = 5 * time.Second // two thirds of it are the first renewal
	config := enter(t, t.TempDir(), register, server.URL, time.Now)
	config.Steps = newWorld()
	first := config.Identity.Certificate().Leaf
	a := run(t, config)
	linktest.Until(t, "the renewal", func() bool { return len(register.Events("a1", "certificate_renewed")) > 0 })
	next := a.Identity.Certificate().Leaf
	if !next.NotAfter.After(first.NotAfter) || first.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(next.PublicKey) {
		t.Fatal("want a later certificate for a new key")
	}
	again, err := Enter(t.Context(), config.Dir, config.Self, "", "test", time.Now)
	if err != nil || !again.Certificate().Leaf.NotAfter.After(first.NotAfter) {
		t.Fatalf("the renewed certificate is not on disk: %v", err)
	}
	linktest.Until(t, "the agent outlives its first certificate", func() bool {
		_, listens := server.Session("a1")
		return listens && time.Now().After(first.NotAfter)
	})
}

// proxy is an HTTP CONNECT proxy that counts and asks for a name and a password.
func proxy(t *testing.T, tunnels *atomic.Int64) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Header.Get("Proxy-Authorization") == "" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		tunnels.Add(1)
		tunnel(t, w, r.Host)
	}))
	t.Cleanup(s.Close)
	at, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	at.User = url.UserPassword("node", "secret")
	return at.String()
}

func tunnel(t *testing.T, w http.ResponseWriter, host string) {
	out, err := net.Dial("tcp", host)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	in, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	_, _ = io.WriteString(in, "HTTP/1.1 200 Connection established\r\n\r\n") // a broken tunnel shows in the test
	go func() { _, _ = io.Copy(out, buffered.Reader); _ = out.Close() }()
	_, _ = io.Copy(in, bufio.NewReader(out))
	_ = in.Close()
}

func TestTheAgentGoesThroughAProxy(t *testing.T) {
	register, server := linktest.Up(t)
	var tunnels atomic.Int64
	self := selfOf(server.URL)
	self.Proxy = proxy(t, &tunnels)
	dir := t.TempDir()
	id, err := Enter(t.Context(), dir, self, register.Token("a1"), "test", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	joined := tunnels.Load()
	if joined == 0 {
		t.Fatal("the join went past the proxy")
	}
	config := enter(t, dir, register, server.URL, time.Now)
	config.Identity, config.Self, config.Steps = id, self, newWorld()
	n := &node{Agent: run(t, config), register: register, server: server, world: config.Steps.(*world)}
	linktest.Until(t, "the agent listens", func() bool { _, ok := server.Session("a1"); return ok })
	n.send(t, orderOf("boot", nil))
	n.ends(t, "op1/boot/1", 1)
	if tunnels.Load() <= joined {
		t.Fatal("the stream went past the proxy")
	}
}

func TestAProxyThatIsNone(t *testing.T) {
	self := selfOf("https://127.0.0.1:1")
	self.Proxy = "not a proxy"
	if _, err := self.proxy(); problem.KindOf(err) != problem.Usage || err.Error() != `"not a proxy" is not the URL of a proxy` {
		t.Fatalf("got %v", err)
	}
}
