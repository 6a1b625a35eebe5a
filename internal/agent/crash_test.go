package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"holdfast/internal/link"
	"holdfast/internal/link/linktest"
	"holdfast/internal/step"
)

// crasher ends the agent at one point: from then on nothing it does has any effect, as after SIGKILL.
type crasher struct {
	at    int
	mu    sync.Mutex
	n     int
	point string // where it died; "" = alive
}

var errDead = errors.New("the process is dead")

func (c *crasher) hit(point string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.point != "" {
		return errDead
	}
	if c.n++; c.n == c.at {
		c.point = point
		return errDead
	}
	return nil
}

// died tells where; "" = it did not.
func (c *crasher) died() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.point
}

// story is three orders of one instance, an event before each, a setting, and a cancelled order, told until the server
// knows the end of all. Every life of the agent goes as far as it can.
type story struct {
	t        *testing.T
	dir      string
	register *linktest.Register
	identity *Identity
	world    *world
}

func newStory(t *testing.T) *story {
	t.Helper()
	authority, err := linktest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	register := linktest.NewRegister(authority)
	return &story{t: t, dir: t.TempDir(), register: register, identity: &Identity{Node: "a1", OrderKey: publicKey(register)}, world: newWorld()}
}

func (s *story) orders() []step.Order {
	return []step.Order{orderOf("stage", nil), orderOf("boot", nil), orderOf("switch", func(o *step.Order) { o.Epoch = 4 })}
}

// live is one life of the agent. It returns when everything is told, or when the crasher has struck.
func (s *story) live(crash *crasher) {
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	journal, _, err := OpenJournal(ctx, s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = journal.Close() }()
	journal.fault, s.world.fault = crash.hit, crash.hit
	o := &orders{
		identity: s.identity, journal: journal, spool: NewSpool(journal, nil), steps: s.world, now: time.Now, log: slog.New(slog.DiscardHandler),
		root: ctx, broken: make(chan error, 1), running: map[string]*work{}, tails: map[string]*work{},
	}
	s.register.Fail(func(string, []link.Report) (bool, error) {
		if err := crash.hit("before the server commits"); err != nil {
			return false, err
		}
		err := crash.hit("before the answer arrives")
		return true, err
	})
	tell := &sender{node: "a1", spool: o.spool, log: o.log, report: func(ctx context.Context, b link.Batch) (link.Ack, error) {
		through, err := s.register.Gate().Intake(ctx, b.Node, b.Reports)
		return link.Ack{Through: through}, err
	}}
	done := func() bool {
		finished := make(chan struct{})
		go func() { defer close(finished); o.all.Wait() }()
		for {
			select {
			case <-finished:
				return crash.died() == ""
			case <-time.After(20 * time.Millisecond):
				if crash.died() != "" { // an order that died waits for its journal for ever: the kill ends it
					cancel()
					<-finished
					return false
				}
			}
		}
	}
	s.tell(ctx, o, tell, done)
}

// tell is the server's part: it delivers what has not ended, and takes what is reported.
func (s *story) tell(ctx context.Context, o *orders, tell *sender, done func() bool) {
	if o.resume(ctx) != nil || !done() {
		return
	}
	for i, order := range s.orders() {
		if s.told(order.ID) {
			continue
		}
		if !s.event(ctx, o.spool, i) {
			return
		}
		signed, err := step.Sign(s.register.Orders, step.ForOrder, order)
		if err != nil {
			s.t.Fatal(err)
		}
		if o.take(ctx, signed) != nil || !done() {
			return
		}
		for more := true; more; {
			if more, err = tell.send(ctx); err != nil {
				return
			}
		}
	}
	if _, err := o.journal.PutSetting(ctx, link.Setting{Kind: link.SettingLeases, Generation: 1, Body: []byte(`{"leases":{"acme":{"epoch":5,"node":"a1"}}}`)}); err != nil {
		return
	}
	if err := o.stop(ctx, "op1/never/1"); err != nil {
		return
	}
}

func (s *story) told(id string) bool {
	for _, u := range s.register.Updates("a1") {
		if u.OrderID == id && u.State.Final() {
			return true
		}
	}
	return false
}

// event writes an event once; it is acknowledged when the spool has returned, and must then never be lost.
func (s *story) event(ctx context.Context, spool *Spool, i int) bool {
	if s.world.count(fmt.Sprint("event ", i)) > 0 {
		return true
	}
	if err := spool.Event(ctx, link.Event{Kind: "counted", Note: fmt.Sprint(i)}); err != nil {
		return false
	}
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	s.world.effects[fmt.Sprint("event ", i)]++
	return true
}

// check holds what must be true once the story is told, however often the agent died.
func (s *story) check(where string) {
	s.t.Helper()
	for _, order := range s.orders() {
		if n := s.world.count(order.ID); n != 1 {
			s.t.Errorf("%s: order %s had %d effects", where, order.ID, n)
		}
		ends := 0
		for _, u := range s.register.Updates("a1") {
			if u.OrderID == order.ID && u.State.Final() {
				ends++
				if u.State != step.Done || string(u.Result) != string(resultOf(order)) {
					s.t.Errorf("%s: order %s ended as %+v", where, order.ID, u)
				}
			}
		}
		if ends == 0 {
			s.t.Errorf("%s: the end of order %s was never told", where, order.ID)
		}
	}
	seen := map[string]bool{}
	for _, e := range s.register.Events("a1", "counted") {
		seen[e.Note] = true
	}
	if len(seen) != len(s.orders()) {
		s.t.Errorf("%s: of the acknowledged events only %v arrived", where, seen)
	}
	last := int64(0)
	for _, r := range s.register.Reports("a1") {
		if r.Seq <= last {
			s.t.Errorf("%s: report %d came after %d", where, r.Seq, last)
		}
		last = r.Seq
	}
}

// TestKilledAtEveryPoint kills the agent at every point at which it writes, acts or is answered, one run for each, and
// then once more in the life after.
func TestKilledAtEveryPoint(t *testing.T) {
	calm := newStory(t)
	count := &crasher{}
	calm.live(count)
	calm.check("uninterrupted")
	if count.n < 30 {
		t.Fatalf("only %d points were passed: the story does not reach what it is about", count.n)
	}
	for at := 1; at <= count.n; at++ {
		s := newStory(t)
		first, second := &crasher{at: at}, &crasher{at: 1 + at%7}
		s.live(first)
		if first.point == "" {
			t.Fatalf("point %d was not reached", at)
		}
		s.live(second)
		last := &crasher{}
		s.live(last)
		s.check(fmt.Sprintf("killed %s (%d) and %s", first.point, at, second.point))
	}
	t.Logf("%d points", count.n)
}
