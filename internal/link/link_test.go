package link_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/link/linktest"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// client is the agent's end for a node that has a certificate.
func client(t *testing.T, register *linktest.Register, server *linktest.Server, node string) *link.Client {
	t.Helper()
	config, err := register.NodeTLS(node)
	if err != nil {
		t.Fatal(err)
	}
	c := link.NewClient(link.Dial{URL: server.URL, TLS: config})
	t.Cleanup(c.Close)
	return c
}

func hello(node string) link.ListenRequest {
	return link.ListenRequest{Node: node, Capability: link.Capability, Version: "test", BootID: "boot-" + node}
}

// listen opens a stream and hands its deliveries to a channel; ended holds why it ended.
func listen(t *testing.T, c *link.Client, hello link.ListenRequest) (got chan link.Delivery, ended chan error) {
	t.Helper()
	got, ended = make(chan link.Delivery, 1000), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go func() {
		ended <- c.Listen(ctx, hello, func(d link.Delivery) error { got <- d; return nil })
	}()
	return got, ended
}

func TestDeliveriesArriveInOrder(t *testing.T) {
	register, server := linktest.Up(t)
	got, _ := listen(t, client(t, register, server, "a1"), hello("a1"))
	<-got // the first, empty one
	for _, id := range []string{"1", "2", "3"} {
		if err := server.Deliver("a1", link.Delivery{Cancel: id}); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"1", "2", "3"} {
		if d := <-got; d.Cancel != id {
			t.Fatalf("got %+v, want cancel %s", d, id)
		}
	}
}

func TestDeliverToANodeThatIsAway(t *testing.T) {
	_, server := linktest.Up(t)
	err := server.Deliver("a1", link.Delivery{})
	refused(t, err, problem.Unreachable, "nothing was delivered to node a1: its agent is not connected")
}

func TestANodeThatDoesNotReadIsAway(t *testing.T) {
	register, server := linktest.Up(t)
	stuck := make(chan struct{})
	defer close(stuck)
	c := client(t, register, server, "a1")
	go func() {
		_ = c.Listen(context.Background(), hello("a1"), func(link.Delivery) error { <-stuck; return nil })
	}()
	linktest.Until(t, "the node listens", func() bool { _, ok := server.Session("a1"); return ok })
	noise := make([]byte, 500_000) // compresses badly, so that the stream's window fills
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	big := link.Delivery{Cancel: base64.StdEncoding.EncodeToString(noise)}
	linktest.Until(t, "the queue is full", func() bool { return problem.KindOf(server.Deliver("a1", big)) == problem.Unreachable })
}

func TestAStolenCertificateSpeaksForNobodyElse(t *testing.T) {
	register, server := linktest.Up(t)
	stolen := client(t, register, server, "a1") // b1 holds a1's certificate and key
	words := "the certificate of node a1 was shown by an agent that calls itself b1: a node speaks for itself alone"

	_, ended := listen(t, stolen, hello("b1"))
	refused(t, <-ended, problem.Denied, words)

	_, err := stolen.Report(t.Context(), link.Batch{Node: "b1", Reports: []link.Report{{Seq: 1, Event: &link.Event{Kind: "boot"}}}})
	refused(t, err, problem.Denied, words)

	_, err = stolen.Report(t.Context(), link.Batch{Node: "a1", Reports: []link.Report{{Seq: 1, Facts: &fleet.NodeFacts{Node: "b1"}}}})
	refused(t, err, problem.Denied, "node a1 reported facts of node b1: a node speaks for itself alone")

	if n := len(register.Reports("b1")) + len(register.Reports("a1")); n != 0 {
		t.Fatalf("%d reports were taken", n)
	}
}

func TestWithoutACertificateOnlyJoinIsOpen(t *testing.T) {
	register, server := linktest.Up(t)
	sum := sha256.Sum256(register.Certificate.Raw)
	stranger := link.NewClient(link.Dial{URL: server.URL, TLS: link.PinnedTLS(sum[:], server.URL)})
	defer stranger.Close()
	words := "this call needs the certificate of a node, and none that this server issued was shown"

	_, err := stranger.Report(t.Context(), link.Batch{Node: "a1"})
	refused(t, err, problem.Denied, words)
	_, err = stranger.Renew(t.Context(), link.RenewRequest{})
	refused(t, err, problem.Denied, words)
	_, ended := listen(t, stranger, hello("a1"))
	refused(t, <-ended, problem.Denied, words)
}

func TestACertificateOfAnotherAuthorityIsNotHeard(t *testing.T) {
	register, server := linktest.Up(t)
	other, err := linktest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	config, err := other.NodeTLS("a1")
	if err != nil {
		t.Fatal(err)
	}
	config.RootCAs.AddCert(register.Certificate)
	c := link.NewClient(link.Dial{URL: server.URL, TLS: config})
	defer c.Close()
	if _, err := c.Report(t.Context(), link.Batch{Node: "a1"}); problem.KindOf(err) != problem.Unreachable {
		t.Fatalf("got %v, want the connection to fail", err)
	}
}

func TestAnotherServerThanTheTokenNames(t *testing.T) {
	_, server := linktest.Up(t)
	other, err := linktest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	c := link.NewClient(link.Dial{URL: server.URL, TLS: link.PinnedTLS(link.PinOf(other.Token("a1")), server.URL)})
	defer c.Close()
	sum := sha256.Sum256(other.Certificate.Raw)
	_, err = c.Join(t.Context(), link.JoinRequest{Token: other.Token("a1"), Node: "a1", Capability: link.Capability})
	refused(t, err, problem.Denied, "the server at 127.0.0.1 is not the one that was named: its certificate authority is not "+base64.RawURLEncoding.EncodeToString(sum[:]))
}

// A server of the right authority is still the wrong one when its certificate is for another name: by IP address too.
func TestTheNameIsCheckedWithAPin(t *testing.T) {
	register, server := linktest.Up(t)
	sum := sha256.Sum256(register.Certificate.Raw)
	call := func(said string) error {
		c := link.NewClient(link.Dial{URL: server.URL, TLS: link.PinnedTLS(sum[:], said)})
		defer c.Close()
		_, err := c.Join(t.Context(), link.JoinRequest{Token: register.Token("a1"), Node: "a1", Capability: link.Capability})
		return err
	}
	for said, want := range map[string]string{
		"https://127.0.0.2:8443":      "the server at 127.0.0.2 was not recognised: x509: ",
		"https://server.example:8443": "the server at server.example was not recognised: x509: ",
		"https://:8443":               "the server was not recognised: its address has no host",
		"":                            "the server was not recognised: its address has no host",
	} {
		if err := call(said); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", said, err, want)
		}
	}
	if err := call(server.URL); err != nil && strings.Contains(err.Error(), "recognised") {
		t.Errorf("the right name: %v", err)
	}
}

func TestReportsOutOfOrderAreRefusedWhole(t *testing.T) {
	register, server := linktest.Up(t)
	batch := link.Batch{Node: "a1", Reports: []link.Report{{Seq: 2, Event: &link.Event{Kind: "x"}}, {Seq: 2, Event: &link.Event{Kind: "y"}}}}
	_, err := client(t, register, server, "a1").Report(t.Context(), batch)
	refused(t, err, problem.Invalid, "reports of node a1 are out of order: 2 after 2")
	if n := len(register.Reports("a1")); n != 0 {
		t.Fatalf("%d reports were taken", n)
	}
}

func TestCapability(t *testing.T) {
	register, server := linktest.Up(t)
	for _, c := range []struct {
		capability int
		ok         bool
	}{{link.Capability, true}, {link.Capability + 1, true}, {link.Capability + 2, false}, {0, false}} {
		h := hello("a1")
		h.Capability = c.capability
		got, ended := listen(t, client(t, register, server, "a1"), h)
		select {
		case <-got:
			if !c.ok {
				t.Errorf("capability %d was let in", c.capability)
			}
		case err := <-ended:
			if c.ok || problem.KindOf(err) != problem.Conflict || !strings.Contains(err.Error(), "only neighbours work together") {
				t.Errorf("capability %d: %v", c.capability, err)
			}
		}
	}
}

func TestASecondAgentOfANodeIsNoticed(t *testing.T) {
	authority, err := linktest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	register := linktest.NewRegister(authority)
	gate := register.Gate()
	displaced := make(chan [2]link.Session, 1)
	gate.Displaced = func(_ context.Context, old, now link.Session) { displaced <- [2]link.Session{old, now} }
	server, err := linktest.Start(authority, gate, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)

	first, ended := listen(t, client(t, register, server, "a1"), hello("a1"))
	<-first
	thief := hello("a1")
	thief.BootID = "another boot"
	second, _ := listen(t, client(t, register, server, "a1"), thief)
	<-second
	if err := <-ended; problem.KindOf(err) != problem.Conflict || !strings.Contains(err.Error(), "another agent has taken over as node a1") {
		t.Fatalf("the first agent was told %v", err)
	}
	if d := <-displaced; d[0].BootID != "boot-a1" || d[1].BootID != "another boot" {
		t.Fatalf("displaced: %+v", d)
	}
	if err := server.Deliver("a1", link.Delivery{Cancel: "x"}); err != nil {
		t.Fatal(err)
	}
	if d := <-second; d.Cancel != "x" {
		t.Fatalf("got %+v", d)
	}
}

func TestListeningIsToldAndMayDeliver(t *testing.T) {
	authority, err := linktest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	var server *linktest.Server
	ready := make(chan struct{})
	register := linktest.NewRegister(authority)
	gate := register.Gate()
	gate.Listening = func(_ context.Context, s link.Session) {
		<-ready
		if err := server.Deliver(s.Node, link.Delivery{Cancel: "welcome " + s.BootID}); err != nil {
			t.Error(err)
		}
	}
	if server, err = linktest.Start(authority, gate, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)
	close(ready)
	got, _ := listen(t, client(t, register, server, "a1"), hello("a1"))
	<-got
	if d := <-got; d.Cancel != "welcome boot-a1" {
		t.Fatalf("got %+v", d)
	}
}

// A thousand deliveries are one message each; Keep finds the server again after it was killed and started on the
// same port, and after it stopped by itself.
func TestKeepFindsTheServerAgain(t *testing.T) {
	register, server := linktest.Up(t)
	addr := server.Addr
	got := make(chan string, 10)
	up := make(chan struct{}, 10)
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	c := client(t, register, server, "a1")
	go func() {
		defer close(over)
		c.Keep(ctx, link.Keeper{
			Hello: func() link.ListenRequest { return hello("a1") },
			Up:    func() { up <- struct{}{} },
			Down:  func(error, int) {},
			Take:  func(d link.Delivery) { got <- d.Cancel },
		})
	}()
	<-up
	end := []func(){server.Kill, func() {}}
	for i, kill := range end {
		kill()
		if i == 1 {
			ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
			if err := server.Stop(ctx); err != nil {
				t.Fatalf("the server does not stop while an agent listens: %v", err)
			}
			stop()
		}
		var err error
		if server, err = linktest.Start(register.Authority, register.Gate(), addr); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Kill)
		<-up
		if err := server.Deliver("a1", link.Delivery{Cancel: "back"}); err != nil {
			t.Fatal(err)
		}
		if g := <-got; g != "back" {
			t.Fatalf("got %q", g)
		}
	}
	cancel()
	<-over
}

func TestRedialShowsTheNewestCertificate(t *testing.T) {
	register, server := linktest.Up(t)
	before, err := register.NodeTLS("a1")
	if err != nil {
		t.Fatal(err)
	}
	c := link.NewClient(link.Dial{URL: server.URL, TLS: before})
	t.Cleanup(c.Close)
	got, ended := listen(t, c, hello("a1"))
	<-got
	c.Redial()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "dialled anew") {
		t.Fatalf("the stream ended with %v", err)
	}
	linktest.Until(t, "the server lets the stream go", func() bool { _, ok := server.Session("a1"); return !ok })
}

func TestSignedOrdersCrossUnchanged(t *testing.T) {
	register, server := linktest.Up(t)
	got, _ := listen(t, client(t, register, server, "a1"), hello("a1"))
	<-got
	sent, err := register.Order(step.Order{ID: "op/1/1", Node: "a1", Nonce: "n", ExpiresAt: time.Now().Add(time.Hour), Step: step.Step{Kind: step.Ready, Note: "ünïcode <&>"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Deliver("a1", sent); err != nil {
		t.Fatal(err)
	}
	order, err := step.OpenOrder(register.Orders.Public().(ed25519.PublicKey), *(<-got).Order, "a1", time.Now())
	if err != nil || order.ID != "op/1/1" {
		t.Fatalf("got %+v, %v", order, err)
	}
}

func refused(t *testing.T, err error, kind problem.Kind, words string) {
	t.Helper()
	if problem.KindOf(err) != kind || err.Error() != words {
		t.Fatalf("got %q (%s), want %q (%s)", err, problem.KindOf(err), words, kind)
	}
}
