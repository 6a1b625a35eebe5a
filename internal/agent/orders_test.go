package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/link/linktest"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

func TestAnOrderIsDoneOnceHoweverOftenItArrives(t *testing.T) {
	n := up(t, nil)
	order := orderOf("boot", nil)
	n.send(t, order)
	first := n.ends(t, order.ID, 1)
	if first.State != step.Done || string(first.Result) != string(resultOf(order)) {
		t.Fatalf("got %+v", first)
	}
	n.send(t, order)
	again := n.ends(t, order.ID, 2)
	if again.State != step.Done || string(again.Result) != string(first.Result) {
		t.Fatalf("the journal answered %+v", again)
	}
	if got := n.world.count(order.ID); got != 1 {
		t.Fatalf("done %d times", got)
	}
}

func TestAnOrderThatEndedSinceIsStillAnswered(t *testing.T) {
	var later atomic.Int64
	n := up(t, func(c *Config, _ *world) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	})
	order := orderOf("boot", nil)
	n.send(t, order)
	n.ends(t, order.ID, 1)
	later.Store(int64(2 * time.Hour))
	n.send(t, order)
	if again := n.ends(t, order.ID, 2); again.State != step.Done {
		t.Fatalf("got %+v", again)
	}
}

func TestOrdersThatAreRefused(t *testing.T) {
	n := up(t, nil)
	n.send(t, orderOf("first", func(o *step.Order) { o.Epoch = 5 }))
	n.ends(t, "op1/first/1", 1)
	cases := []struct {
		name   string
		change func(*step.Order)
		kind   problem.Kind
		words  string
	}{
		{"foreign node", func(o *step.Order) { o.Node = "b1" }, problem.Denied, "order op1/x/1 is for node b1, this is a1"},
		{"expired", func(o *step.Order) { o.ExpiresAt = time.Now().Add(-time.Hour - 100*time.Millisecond) }, problem.Stale, "order op1/x/1 ended 1h0m0s ago"},
		{"from the future", func(o *step.Order) { o.IssuedAt = time.Now().Add(24 * time.Hour) }, problem.Denied, "in the future"},
		{"replayed nonce", func(o *step.Order) { o.Nonce, o.Epoch = "nonce of first", 5 }, problem.Denied, "order op1/x/1 is a replay: its nonce came with order op1/first/1"},
		{"old epoch", func(o *step.Order) { o.Epoch = 4 }, problem.Stale, "order op1/x/1 is for epoch 4 of instance acme, this node knows of epoch 5"},
		{"no nonce", func(o *step.Order) { o.Nonce = "" }, problem.Invalid, "order op1/x/1 has no nonce"},
		{"a server's kind", func(o *step.Order) { o.Step.Kind = step.Claim }, problem.Invalid, `order op1/x/1 has the kind "claim", which this node does not know`},
		{"a shell", func(o *step.Order) { o.Step.Kind = "shell" }, problem.Invalid, `order op1/x/1 has the kind "shell", which this node does not know`},
	}
	for i, c := range cases {
		n.send(t, orderOf("x", c.change))
		u := n.ends(t, "op1/x/1", i+1)
		if u.State != step.Refused || u.ErrorKind != string(c.kind) || !strings.Contains(u.Error, c.words) || u.Retryable {
			t.Errorf("%s: got %+v, want %q (%s)", c.name, u, c.words, c.kind)
		}
	}
	if got := n.register.Events("a1", "order_refused"); len(got) != len(cases) || got[0].Labels["order"] != "op1/x/1" || got[0].Labels["reason"] != "denied" {
		t.Errorf("events: %+v", got)
	}
	if n.world.count("op1/x/1") != 0 {
		t.Error("a refused order was done")
	}
	// None of them stands in the way of the good one.
	n.send(t, orderOf("x", func(o *step.Order) { o.Epoch = 5 }))
	if u := n.ends(t, "op1/x/1", len(cases)+1); u.State != step.Done {
		t.Errorf("the good order: %+v", u)
	}
}

func TestAnOrderOfAnotherKeyIsRefused(t *testing.T) {
	n := up(t, nil)
	_, forged, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := orderOf("boot", nil)
	n.send(t, good)
	n.ends(t, good.ID, 1)
	for i, id := range []string{good.ID, "op1/new/1"} { // a known id does not help it
		order := orderOf("boot", func(o *step.Order) { o.ID = id })
		signed, err := step.Sign(forged, step.ForOrder, order)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.server.Deliver("a1", link.Delivery{Order: &signed}); err != nil {
			t.Fatal(err)
		}
		linktest.Until(t, "the refusal", func() bool { return len(n.register.Events("a1", "order_refused")) == i+1 })
		event := n.register.Events("a1", "order_refused")[i]
		want := "signature of key " + step.KeyID(forged.Public().(ed25519.PublicKey)) + " does not hold: this node trusts key " + step.KeyID(publicKey(n.register))
		if event.Note != want {
			t.Errorf("got %q, want %q", event.Note, want)
		}
	}
	if n.world.count(good.ID) != 1 || n.world.count("op1/new/1") != 0 {
		t.Error("a forged order was done")
	}
}

func TestOrdersOfOneInstanceGoOneAfterTheOther(t *testing.T) {
	gate := make(chan struct{})
	n := up(t, func(_ *Config, w *world) {
		w.block["load"], w.begun = gate, make(chan string, 10)
	})
	n.send(t, orderOf("load", nil))
	n.send(t, orderOf("ready", nil))
	n.send(t, orderOf("other", func(o *step.Order) { o.Step.Instance = "umbrella" }))
	n.send(t, orderOf("fence", func(o *step.Order) { o.Step.Kind = step.Fence }))
	n.ends(t, "op1/other/1", 1)
	n.ends(t, "op1/fence/1", 1) // does not wait for the load that it makes pointless
	if n.world.count("op1/ready/1") != 0 {
		t.Fatal("two orders of one instance ran at once")
	}
	close(gate)
	n.ends(t, "op1/ready/1", 1)
}

func TestCancel(t *testing.T) {
	n := up(t, func(_ *Config, w *world) {
		w.block["load"], w.begun = make(chan struct{}), make(chan string, 10)
	})
	n.send(t, orderOf("load", nil))
	<-n.world.begun
	n.send(t, orderOf("waits", nil))
	cancel := func(id string) {
		if err := n.server.Deliver("a1", link.Delivery{Cancel: id}); err != nil {
			t.Fatal(err)
		}
	}
	linktest.Until(t, "the second order is taken", func() bool {
		for _, u := range n.register.Updates("a1") {
			if u.OrderID == "op1/waits/1" {
				return true
			}
		}
		return false
	})
	cancel("op1/waits/1") // while it waits for the first
	if u := n.ends(t, "op1/waits/1", 1); u.State != step.Cancelled || u.Error != "cancelled on order" {
		t.Fatalf("got %+v", u)
	}
	cancel("op1/load/1") // while it runs
	if u := n.ends(t, "op1/load/1", 1); u.State != step.Cancelled {
		t.Fatalf("got %+v", u)
	}
	cancel("op1/late/1") // before it comes
	n.send(t, orderOf("late", nil))
	if u := n.ends(t, "op1/late/1", 1); u.State != step.Cancelled {
		t.Fatalf("got %+v", u)
	}
	if n.world.count("op1/late/1") != 0 {
		t.Fatal("a cancelled order was done")
	}
}

func TestANewerAttemptTakesThePlaceOfTheOld(t *testing.T) {
	gate := make(chan struct{})
	n := up(t, func(_ *Config, w *world) { w.block["load"], w.begun = gate, make(chan string, 10) })
	n.send(t, orderOf("load", nil))
	<-n.world.begun
	n.send(t, orderOf("load", func(o *step.Order) { o.ID, o.Attempt, o.Nonce = "op1/load/2", 2, "another" }))
	if u := n.ends(t, "op1/load/1", 1); u.State != step.Cancelled || u.Error != "a newer attempt took its place" {
		t.Fatalf("got %+v", u)
	}
	close(gate)
	if u := n.ends(t, "op1/load/2", 1); u.State != step.Done {
		t.Fatalf("got %+v", u)
	}
}

func TestAFailureTellsWhatStoodInTheWay(t *testing.T) {
	n := up(t, func(_ *Config, w *world) {
		w.fail["full"] = problem.New(problem.Unavailable, "free some space", "snapshot of acme was not loaded: disk full")
		w.fail["wrong"] = problem.New(problem.WrongKey, "", "wrong key")
	})
	n.send(t, orderOf("full", nil))
	u := n.ends(t, "op1/full/1", 1)
	if u.State != step.Failed || u.Error != "snapshot of acme was not loaded: disk full" || u.Hint != "free some space" || !u.Retryable {
		t.Errorf("got %+v", u)
	}
	n.send(t, orderOf("wrong", nil))
	if u := n.ends(t, "op1/wrong/1", 1); u.State != step.Failed || u.ErrorKind != "wrong_key" || u.Retryable {
		t.Errorf("got %+v", u)
	}
}

func TestProgressIsToldBeforeTheEndAndNotAfter(t *testing.T) {
	gate := make(chan struct{})
	n := up(t, func(_ *Config, w *world) { w.block["load"] = gate })
	n.send(t, orderOf("load", nil))
	linktest.Until(t, "progress", func() bool {
		for _, u := range n.register.Updates("a1") {
			if u.Note == "half way" && u.DoneBytes == 1 && u.TotalBytes == 2 && u.State == step.Running {
				return true
			}
		}
		return false
	})
	close(gate)
	n.ends(t, "op1/load/1", 1)
	all := n.register.Updates("a1")
	if all[0].State != step.Running || !all[len(all)-1].State.Final() {
		t.Fatalf("updates: %+v", all)
	}
}

func TestABrokenStepFailsAlone(t *testing.T) {
	n := up(t, func(_ *Config, w *world) {
		w.fault = func(point string) error {
			if point == "before effect" {
				panic("index out of range")
			}
			return nil
		}
	})
	n.send(t, orderOf("boot", nil))
	if u := n.ends(t, "op1/boot/1", 1); u.State != step.Failed || u.Error != "step ready of order op1/boot/1 broke: index out of range" {
		t.Fatalf("got %+v", u)
	}
}

func TestAResultThatIsNoJSONIsAnEndToo(t *testing.T) {
	n := up(t, func(_ *Config, w *world) { w.garbled = true })
	n.send(t, orderOf("boot", nil))
	if u := n.ends(t, "op1/boot/1", 1); u.State != step.Failed || u.Error != "step ready of order op1/boot/1 was done, and its result cannot be told: it is no JSON" {
		t.Fatalf("got %+v", u)
	}
}

func TestFactsAreTold(t *testing.T) {
	n := up(t, func(c *Config, _ *world) {
		c.Facts = append(c.Facts, func(_ context.Context, f *fleet.NodeFacts) { f.Engines = []string{"exec"} })
	})
	newest := func() *fleet.NodeFacts {
		all := n.register.Reports("a1")
		for i := len(all) - 1; i >= 0; i-- {
			if all[i].Facts != nil {
				return all[i].Facts
			}
		}
		return nil
	}
	linktest.Until(t, "facts", func() bool { return newest() != nil })
	f := newest()
	if f.Node != "a1" || f.Site != "a" || f.BootID != "boot-1" || f.Capacity.MemoryMB == 0 || f.Capacity.DiskMB == 0 || f.Capacity.CPUs == 0 ||
		len(f.Engines) != 1 || !strings.HasPrefix(f.SealTo, "age1") || !strings.HasPrefix(f.SSHKey, "ssh-ed25519 ") {
		t.Fatalf("got %+v", f)
	}
	told := f.TakenAt
	for range 50 {
		n.Spool.Changed()
	}
	linktest.Until(t, "newer facts", func() bool { return newest().TakenAt.After(told) })
}
