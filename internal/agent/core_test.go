package agent

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/link/linktest"
	"holdfast/internal/step"
)

// world is what the steps of a test act on. It outlives the agent, as the disk of a node does.
type world struct {
	mu      sync.Mutex
	effects map[string]int // by order id; Do is not idempotent here, so that a second Do shows
	fault   func(point string) error
	block   map[string]chan struct{} // Do of this step id waits for its channel to close
	begun   chan string              // step ids as Do begins them; nil = nobody listens
	fail    map[string]error
	garbled bool // results are no JSON
}

func newWorld() *world {
	return &world{effects: map[string]int{}, fault: func(string) error { return nil }, block: map[string]chan struct{}{}, fail: map[string]error{}}
}

func (w *world) Do(ctx context.Context, order step.Order, progress Progress) (json.RawMessage, error) {
	if w.begun != nil {
		w.begun <- order.StepID
	}
	progress("half way", 1, 2)
	if gate := w.block[order.StepID]; gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err := w.fail[order.StepID]; err != nil {
		return nil, err
	}
	if err := w.fault("before effect"); err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.effects[order.ID]++
	w.mu.Unlock()
	if err := w.fault("after effect"); err != nil {
		return nil, err
	}
	if w.garbled {
		return json.RawMessage("no JSON"), nil
	}
	return resultOf(order), nil
}

func (w *world) Done(_ context.Context, order step.Order) (json.RawMessage, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return resultOf(order), w.effects[order.ID] > 0, w.fault("asked")
}

func (w *world) count(id string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.effects[id]
}

func resultOf(order step.Order) json.RawMessage {
	raw, err := json.Marshal(map[string]string{"of": order.ID})
	if err != nil {
		panic(err)
	}
	return raw
}

// node is an agent of a test with its register.
type node struct {
	*Agent
	register *linktest.Register
	server   *linktest.Server
	world    *world
}

// enter joins a node called a1 and opens its journal.
func enter(t *testing.T, dir string, register *linktest.Register, url string, clock func() time.Time) Config {
	t.Helper()
	self := Self{Server: url, Node: "a1", Site: "a", Roles: []fleet.Role{fleet.RoleRun}, Address: "127.0.0.1"}
	id, err := Enter(t.Context(), dir, self, register.Token("a1"), "test", clock)
	if err != nil {
		t.Fatalf("join: %v", err)
	}
	journal, _, err := OpenJournal(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = journal.Close() })
	return Config{Self: self, Dir: dir, Identity: id, Journal: journal, Spool: NewSpool(journal, clock), BootID: "boot-1", Version: "test",
		Now: clock, Log: slog.New(slog.DiscardHandler)}
}

// up starts a server and an agent that is connected to it.
func up(t *testing.T, change func(*Config, *world)) *node {
	t.Helper()
	register, server := linktest.Up(t)
	n := &node{register: register, server: server, world: newWorld()}
	config := enter(t, t.TempDir(), register, server.URL, time.Now)
	config.Steps = n.world
	if change != nil {
		change(&config, n.world)
	}
	n.Agent = run(t, config)
	linktest.Until(t, "the agent listens", func() bool { _, ok := server.Session("a1"); return ok })
	return n
}

// run starts an agent that stops with the test.
func run(t *testing.T, config Config) *Agent {
	t.Helper()
	a, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		if err := a.Run(ctx); err != nil {
			t.Errorf("agent: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-over })
	return a
}

// orderOf is an order for step "stepID" of instance acme, good for an hour.
func orderOf(stepID string, change func(*step.Order)) step.Order {
	now := time.Now()
	order := step.Order{
		ID: "op1/" + stepID + "/1", Operation: "op1", StepID: stepID, Attempt: 1, Node: "a1", Epoch: 3, Nonce: "nonce of " + stepID,
		IssuedAt: now, ExpiresAt: now.Add(time.Hour), Step: step.Step{Kind: step.Ready, Instance: "acme"},
	}
	if change != nil {
		change(&order)
	}
	return order
}

// send delivers an order that the register's order key signed.
func (n *node) send(t *testing.T, order step.Order) {
	t.Helper()
	d, err := n.register.Order(order)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.server.Deliver("a1", d); err != nil {
		t.Fatal(err)
	}
}

// ends waits for the n-th last word about an order.
func (n *node) ends(t *testing.T, id string, nth int) step.Update {
	t.Helper()
	var got []step.Update
	linktest.Until(t, fmt.Sprintf("end %d of order %s", nth, id), func() bool {
		got = got[:0]
		for _, u := range n.register.Updates("a1") {
			if u.OrderID == id && u.State.Final() {
				got = append(got, u)
			}
		}
		return len(got) >= nth
	})
	return got[nth-1]
}

func publicKey(r *linktest.Register) ed25519.PublicKey {
	return r.Orders.Public().(ed25519.PublicKey)
}

// setting signs and delivers a setting.
func (n *node) setting(t *testing.T, s link.Setting, document any) {
	t.Helper()
	body, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	s.Body = body
	d, err := n.register.Setting(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.server.Deliver("a1", d); err != nil {
		t.Fatal(err)
	}
}
