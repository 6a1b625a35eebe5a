package recovery

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/fleet"
	"holdfast/internal/step"
)

// model is a world that answers a run's orders, second by second, with the troubles that were drawn.
type model struct {
	run   Run
	facts Facts
	now   time.Time

	armed, fired, heals, returns map[string]bool          // by node: does it
	slow                         map[string]time.Duration // by node: how late it is in all it does
	restores                     bool                     // the recovery brings members back
	seen                         bool                     // probes see the fault
	refuses                      bool                     // a node that does not, says so
	submitted                    map[step.Kind]time.Time
	backAt                       time.Time
}

func drawModel(t *rapid.T) *model {
	m := &model{
		now: t0, submitted: map[step.Kind]time.Time{}, slow: map[string]time.Duration{},
		armed: map[string]bool{}, fired: map[string]bool{}, heals: map[string]bool{}, returns: map[string]bool{},
		restores: rapid.Bool().Draw(t, "restores"), seen: rapid.Bool().Draw(t, "seen"), refuses: rapid.Bool().Draw(t, "refuses"),
		run: Run{ID: "d", Kind: Drill, Phase: Arming, Since: t0, StartedAt: t0, Nodes: []string{"paris1", "paris2"}, Fault: fleet.RecoveryFault{Kind: "kill", For: 3 * time.Minute},
			Members: []Member{{Instance: "acme", FromNode: "paris1", Epoch: 1}, {Instance: "globex", FromNode: "paris2", Epoch: 1}}},
	}
	for _, n := range m.run.Nodes {
		likely := rapid.SampledFrom([]bool{true, true, true, false})
		m.armed[n], m.fired[n], m.heals[n], m.returns[n] = likely.Draw(t, "arms"), likely.Draw(t, "fires"), likely.Draw(t, "heals"), likely.Draw(t, "returns")
		m.slow[n] = time.Duration(rapid.IntRange(0, 40).Draw(t, "slow")) * time.Second
	}
	if rapid.Bool().Draw(t, "is real") {
		m.run.Kind, m.run.Phase, m.run.Nodes, m.run.Fault = Real, Recovering, nil, fleet.RecoveryFault{}
	}
	return m
}

// tick lets the world answer and then makes every move there is.
func (m *model) tick(t *rapid.T) {
	m.now = m.now.Add(5 * time.Second)
	m.answer()
	for range 20 {
		move := Next(m.run, m.facts, m.now)
		if d := cmp.Diff(move, Next(m.run, m.facts, m.now)); d != "" {
			t.Fatalf("the same rows gave two moves: %s", d)
		}
		if move.waits() {
			return
		}
		m.apply(t, move)
	}
	t.Fatalf("phase %s never comes to rest", m.run.Phase)
}

func (m *model) apply(t *rapid.T, move Move) {
	if move.Submit != "" {
		m.order(t, move.Submit)
	}
	m.run.Why = orElse(move.Why, m.run.Why)
	if move.End != "" {
		m.run.End = move.End
	}
	if move.Phase != "" {
		m.run.Phase, m.run.Since = move.Phase, m.now
	}
	m.facts.Events = append(m.facts.Events, move.Events...)
}

// order holds every order against what must have been before it.
func (m *model) order(t *rapid.T, kind step.Kind) {
	if _, twice := m.submitted[kind]; twice {
		t.Fatalf("%s was ordered twice", kind)
	}
	m.submitted[kind] = m.now
	switch kind {
	case step.Arm:
		m.run.Operations.Arm = "a"
	case step.Fire:
		for _, n := range m.run.Nodes {
			if !slices.ContainsFunc(m.facts.Arm.Steps, func(s StepRecord) bool { return s.Node == n && s.State == step.Done }) {
				t.Fatalf("fired although %s had not acknowledged", n)
			}
		}
		m.run.Operations.Fire = "f"
		m.facts.Events = append(m.facts.Events, Event{At: m.now, Kind: EventFiring})
	case step.Claim:
		if _, seen := first(append(m.facts.Events, Next(m.run, m.facts, m.now).Events...), EventDetected); m.run.Kind == Drill && !seen {
			t.Fatal("recovered what the probes had not seen lost")
		}
		m.run.Operations.Recover = "r"
		m.facts.Events = append(m.facts.Events, Event{At: m.now, Kind: EventDeclared})
	case step.Undo:
		m.run.Operations.Undo = "u"
	default:
		t.Fatalf("%s is no order of a run", kind)
	}
}

// answer lets nodes, probes and the recovery do their part.
func (m *model) answer() {
	m.facts.Arm = m.steps(step.Arm, m.armed)
	m.facts.Fire = m.steps(step.Fire, m.fired)
	m.facts.Undo = m.steps(step.Undo, m.heals)
	m.heal()
	m.restore()
	m.probe()
	m.facts.Reported = map[string]time.Time{}
	for _, n := range m.run.Nodes {
		if m.returns[n] {
			m.facts.Reported[n] = m.now
		}
	}
}

func (m *model) steps(kind step.Kind, does map[string]bool) Progress {
	at, ordered := m.submitted[kind]
	if !ordered {
		return Progress{}
	}
	p := Progress{Ended: m.now.Sub(at) > time.Minute}
	for _, n := range m.run.Nodes {
		if does[n] && m.now.Sub(at) >= m.slow[n] {
			p.Steps = append(p.Steps, StepRecord{Kind: kind, Node: n, State: step.Done, EndedAt: at.Add(m.slow[n])})
		} else if m.refuses && m.now.Sub(at) >= m.slow[n] {
			p.Steps = append(p.Steps, StepRecord{Kind: kind, Node: n, State: step.Refused, EndedAt: at.Add(m.slow[n])})
		}
	}
	return p
}

// heal lets faults end by themselves, on the node, whether or not anybody ordered it.
func (m *model) heal() {
	at, fired := m.submitted[step.Fire]
	if !fired || m.now.Sub(at) < m.run.Fault.For {
		return
	}
	for _, n := range m.run.Nodes {
		if m.returns[n] && !slices.ContainsFunc(m.facts.NodeEvents, func(e NodeEvent) bool { return e.Node == n && e.Kind == NodeUndoFired }) {
			m.facts.NodeEvents = append(m.facts.NodeEvents, NodeEvent{Node: n, Kind: NodeUndoFired, At: m.now})
		}
	}
}

func (m *model) restore() {
	at, ordered := m.submitted[step.Claim]
	if !ordered || m.now.Sub(at) < 20*time.Second {
		return
	}
	m.facts.Recover.Ended = true
	if m.restores && m.backAt.IsZero() {
		m.backAt = m.now
	}
	if m.now.Sub(at) == 30*time.Second {
		for _, member := range m.run.Members {
			if m.returns[member.FromNode] {
				m.facts.NodeEvents = append(m.facts.NodeEvents, NodeEvent{Node: member.FromNode, Instance: member.Instance, Kind: NodeFenced, Epoch: 1, At: m.now})
			}
		}
	}
}

func (m *model) probe() {
	_, fired := m.submitted[step.Fire]
	bad := (fired || m.run.Kind == Real) && m.seen && m.backAt.IsZero()
	for _, member := range m.run.Members {
		m.facts.Results = append(m.facts.Results, ProbeResult{Instance: member.Instance, Probe: "p1", OK: !bad, At: m.now, Interval: 5 * time.Second})
	}
}

// Whatever goes wrong: nothing is fired before every node has acknowledged; nothing is recovered before the probes
// have seen it lost; what was armed is ordered to end; nothing is ordered twice; and the run ends, in time, in a
// named state.
func TestRunProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t)
		abortAt := 5 * rapid.IntRange(0, 80).Draw(t, "abort at second")
		aborts := rapid.Bool().Draw(t, "aborts")
		seconds := 0
		for ; seconds < 1500 && !m.run.Phase.Over(); seconds += 5 {
			if aborts && seconds == abortAt {
				m.run.AbortedBy = "ann"
			}
			m.tick(t)
		}
		if !m.run.Phase.Over() {
			t.Fatalf("after %d s it is still %s", seconds, m.run.Phase)
		}
		_, armed := m.submitted[step.Arm]
		if _, undone := m.submitted[step.Undo]; armed && !undone {
			t.Fatal("ended without ordering the end of the fault")
		}
		if m.run.Phase == Failed && m.run.Why == "" {
			t.Fatal("failed without a reason")
		}
		if _, recovered := m.submitted[step.Claim]; m.run.Phase == Ended && (!recovered || m.seen && !m.restores) {
			t.Fatalf("done, although recovered %v and restores %v", recovered, m.restores)
		}
	})
}

func TestNothingIsFiredWithoutEveryAcknowledgement(t *testing.T) {
	r := Run{Kind: Drill, Phase: Arming, Since: t0, Nodes: []string{"a", "b"}, Operations: Operations{Arm: "op1"}}
	f := Facts{Arm: Progress{Ended: true, Steps: []StepRecord{{Kind: step.Arm, Node: "a", State: step.Done, EndedAt: sec(1)}, {Kind: step.Arm, Node: "b", State: step.Refused, EndedAt: sec(1)}}}}
	got := Next(r, f, sec(2))
	want := Move{Phase: Undoing, End: Failed, Why: "nothing was fired: b did not acknowledge the fault's own end"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestAnAbortedRecoveryIsCarriedThrough(t *testing.T) {
	r := Run{Kind: Drill, Phase: Recovering, Since: t0, AbortedBy: "ann", Operations: Operations{Arm: "a", Fire: "f", Recover: "r"}}
	move := Next(r, Facts{}, sec(1))
	if move.Phase != "" || move.Cancel != "" || move.End != Aborted {
		t.Errorf("%+v", move)
	}
	r.End = Aborted
	if move := Next(r, Facts{Recover: Progress{Ended: true}}, sec(2)); move.Phase != Undoing {
		t.Errorf("%+v", move)
	}
}
