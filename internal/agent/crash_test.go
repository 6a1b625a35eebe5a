package agent_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"holdfast/internal/agent"
	"holdfast/internal/agent/agenttest"
	"holdfast/internal/fleet"
	"holdfast/internal/step"
)

// crasher ends an agent at one of the points between the effects of its steps: the goroutine that comes there goes
// no further, and neither does any other that comes to a point after it.
type crasher struct {
	mu      sync.Mutex
	at      int // 0 = never
	passed  int
	crashed bool
	where   string
}

func (c *crasher) point(name string) {
	c.mu.Lock()
	c.passed++
	if c.passed == c.at {
		c.crashed, c.where = true, name
	}
	dead := c.crashed
	c.mu.Unlock()
	if dead {
		runtime.Goexit()
	}
}

func (c *crasher) dead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.crashed
}

func (c *crasher) revive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.crashed = false
}

// life carries orders to their end over the crash, as the agent's core does: the order in flight is first asked
// whether it is done, then done again.
type life struct {
	*node
	*crasher
	power bool // the crash takes the services along
	epoch int64
}

func (l *life) carry(kind step.Kind, args any) json.RawMessage {
	l.Helper()
	order := l.order(kind, "acme", l.epoch, args)
	result, err := l.attempt(order)
	if l.dead() {
		l.reboot()
		done := false
		if result, done, err = l.stack.Done(l.Context(), order); !done || err != nil {
			result, err = l.attempt(order)
		}
	}
	if err != nil {
		l.Fatalf("%s after a crash at %s: %v", kind, l.where, err)
	}
	return result
}

// attempt runs one Do to its end, which may be the crash.
func (l *life) attempt(order step.Order) (result json.RawMessage, err error) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		result, err = l.stack.Do(l.Context(), order, nil)
	}()
	<-ended
	return result, err
}

func (l *life) hear(epoch int64, holder string) {
	l.Helper()
	ended := make(chan struct{})
	go func() { defer close(ended); l.lease("acme", epoch, holder) }()
	<-ended
	if l.dead() {
		l.reboot()
		l.lease("acme", epoch, holder)
	}
}

// reboot starts a new agent; the server gives its word on who serves.
func (l *life) reboot() {
	l.Helper()
	l.leave()
	if l.power {
		l.killAll()
	}
	l.revive()
	l.start()
	l.lease("acme", l.epoch, l.name)
}

// story is the whole life of an instance on a node: deployed, backed up, restored beside and switched, lost.
func (w *world) story(t *testing.T, c *crasher, power bool) *life {
	t.Helper()
	l := &life{node: w.node(fmt.Sprintf("n%d%v", c.at, power)), crasher: c, power: power, epoch: 1}
	l.node.point = c.point
	spec := w.spec("acme")
	l.carry(step.Boot, step.BootArgs{Spec: spec, Slot: "s1", Secrets: l.secrets()})
	l.carry(step.Ready, step.SlotArgs{Slot: "s1"})
	l.carry(step.Switch, step.SwitchArgs{Slot: "s1", Epoch: 1})
	l.awaitState("acme", fleet.StateRunning)
	l.fill("acme", "s1", "one", "two")
	var backup step.BackupResult
	w.unmarshal(l.carry(step.Backup, step.BackupArgs{Spec: spec, Custodians: []string{w.custodian.Recipient().String()}}), &backup)
	l.epoch = 2
	l.carry(step.Fetch, l.fetchArgs(spec, "s2", backup))
	l.carry(step.Load, step.SlotArgs{Slot: "s2"})
	l.carry(step.Boot, step.BootArgs{Spec: spec, Slot: "s2", Restored: true})
	l.carry(step.Ready, step.SlotArgs{Slot: "s2"})
	l.carry(step.Switch, step.SwitchArgs{Slot: "s2", Epoch: 2})
	return l
}

// settled checks the end of the story, which no crash may change.
func (l *life) settled(t *testing.T) {
	t.Helper()
	facts := l.awaitState("acme", fleet.StateRunning)
	if facts.Slot != "s2" || facts.Epoch != 2 || len(facts.Beside) != 0 {
		t.Errorf("crash at %q: facts %+v", l.where, facts)
	}
	want := "data=[one two] db=[one two] docs=one two"
	if one, two := l.holds("acme", "s1"), l.holds("acme", "s2"); one != want || two != want {
		t.Errorf("crash at %q: s1 holds %s, s2 holds %s", l.where, one, two)
	}
	if running := l.processes(); len(running) != 2 {
		t.Errorf("crash at %q: %v run, the stack has 2 processes", l.where, running)
	}
	l.hear(3, "elsewhere")
	l.awaitState("acme", fleet.StateFenced)
	agenttest.Await(t, func() bool { return strings.HasSuffix(l.told(), "stopped/2 fenced/2") }, func() string { return l.where + ": told " + l.told() })
	if running := l.processes(); len(running) != 0 {
		t.Errorf("crash at %q: %v run on a fenced node", l.where, running)
	}
	if err := alternates(l.told()); err != nil {
		t.Errorf("crash at %q: %v", l.where, err)
	}
}

// processes names every process of the node by its slot and service.
func (l *life) processes() []string {
	var all []string
	for _, pid := range agent.Marked(agent.Mark(l.name, filepath.Join(l.dir, l.name))) {
		environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		name := strconv.Itoa(pid)
		for entry := range strings.SplitSeq(string(environ), "\x00") {
			if key, value, _ := strings.Cut(entry, "="); key == "HOLDFAST_SLOT" || key == "HOLDFAST_SERVICE" {
				name += " " + value
			}
		}
		all = append(all, name+" "+stateOf(pid))
	}
	return all
}

// alternates holds the serving account to: started, stopped, started, ..., never two starts without an end.
func alternates(told string) error {
	serving := false
	for word := range strings.FieldsSeq(told) {
		switch {
		case strings.HasPrefix(word, "started/") && serving:
			return fmt.Errorf("it started serving twice: %s", told)
		case strings.HasPrefix(word, "started/"):
			serving = true
		case strings.HasPrefix(word, "stopped/"):
			serving = false
		}
	}
	return nil
}

// TestCrashEverywhere ends the agent, and then agent and services, at every point of the story.
func TestCrashEverywhere(t *testing.T) {
	counting := &crasher{}
	w := newWorld(t)
	l := w.story(t, counting, false)
	l.settled(t)
	points := counting.passed
	if points < 20 {
		t.Fatalf("the story has only %d points", points)
	}
	for at := 1; at <= points; at++ {
		t.Run(fmt.Sprintf("%02d", at), func(t *testing.T) {
			w := newWorld(t)
			c := &crasher{at: at}
			l := w.story(t, c, at%2 == 0)
			l.settled(t)
		})
	}
}
