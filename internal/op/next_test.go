package op

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/step"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// model is an operation in memory with nodes that answer as the test draws.
type model struct {
	view  View
	now   time.Time
	sent  map[string]int  // orders begun on nodes, by order id
	asked map[string]bool // order ids that were asked to stop
	ended *Finish
}

func drawModel(t *rapid.T) *model {
	nodes := []string{"a1", "a2", "b1"}
	m := &model{now: epoch, sent: map[string]int{}, asked: map[string]bool{}, view: View{
		Operation: Operation{ID: "o", State: Running, Patience: time.Minute, CreatedAt: epoch},
		Nodes:     map[string]Node{}, TakenBy: map[string]string{}, Handed: map[string]time.Time{}, Serving: map[string]bool{},
		Limits: Limits{PerNode: rapid.IntRange(1, 3).Draw(t, "per node"), PerSite: rapid.IntRange(1, 4).Draw(t, "per site")},
	}}
	for _, n := range nodes {
		m.view.Nodes[n] = Node{Site: n[:1], Reachable: true}
	}
	count := rapid.IntRange(1, 12).Draw(t, "steps")
	for i := range count {
		kind := rapid.SampledFrom([]step.Kind{step.Boot, step.Fetch, step.Switch, step.Tell}).Draw(t, "kind")
		s := Step{ID: fmt.Sprint(i), Kind: kind, Instance: rapid.SampledFrom([]string{"acme", "bolt"}).Draw(t, "instance"), State: step.Waiting}
		if kind != step.Tell {
			s.Node = rapid.SampledFrom(nodes).Draw(t, "node")
		}
		for j := range i {
			if rapid.IntRange(0, 3).Draw(t, "needs") == 0 {
				s.Needs = append(s.Needs, fmt.Sprint(j))
			}
		}
		s.OnFailure = len(s.Needs) > 0 && rapid.IntRange(0, 5).Draw(t, "on failure") == 0
		m.view.Steps = append(m.view.Steps, s)
	}
	return m
}

// pass asks Next once, holds what it wants against the rules, and does it.
func (m *model) pass(t *rapid.T) (wrote bool) {
	before := slices.Clone(m.view.Steps)
	d := Next(m.view, m.now)
	for _, move := range d.Moves {
		i := slices.IndexFunc(before, func(s Step) bool { return s.ID == move.Step.ID })
		if before[i].State != move.Was || before[i].Attempt != move.WasAttempt {
			t.Fatalf("move of %s guards %s/%d, the step stands at %s/%d", move.Step.ID, move.Was, move.WasAttempt, before[i].State, before[i].Attempt)
		}
		if before[i].Settled() {
			t.Fatalf("step %s is %s and was moved to %s", before[i].ID, before[i].State, move.Step.State)
		}
		wrote = wrote || move.Write
		m.do(t, i, move)
	}
	m.limits(t)
	if d.Finish != nil {
		m.ended = d.Finish
	}
	if all := !slices.ContainsFunc(m.view.Steps, func(s Step) bool { return !s.Settled() }); all != (d.Finish != nil) {
		t.Fatalf("all settled: %v, finish: %+v", all, d.Finish)
	}
	return wrote
}

func (m *model) do(t *rapid.T, i int, move Move) {
	m.view.Steps[i] = move.Step
	id := move.Step.OrderID("o")
	switch move.Deed {
	case Send, Serve:
		m.mayBegin(t, move.Step)
		m.sent[id]++
		m.view.Handed[id] = m.now
		m.view.Serving[id] = move.Deed == Serve
	case Ask:
		m.asked[id] = true
		m.view.Handed[id] = m.now
	case Nothing:
	}
}

// mayBegin refuses an order whose step does not have what it needs, or whose node is out of reach.
func (m *model) mayBegin(t *rapid.T, s Step) {
	if s.Node != "" && !m.view.Nodes[s.Placed].Reachable {
		t.Fatalf("step %s was sent to %s, which is out of reach", s.ID, s.Placed)
	}
	for _, need := range s.Needs {
		n := m.view.Steps[slices.IndexFunc(m.view.Steps, func(x Step) bool { return x.ID == need })]
		met := n.State == step.Done || n.State == step.Skipped || n.OnFailure && n.Settled()
		if !s.OnFailure && !met || s.OnFailure && !n.Settled() {
			t.Fatalf("step %s was begun while %s, which it needs, is %s", s.ID, need, n.State)
		}
	}
}

func (m *model) limits(t *rapid.T) {
	node, site := map[string]int{}, map[string]int{}
	for _, s := range m.view.Steps {
		if s.inFlight() && s.Node != "" && !policyOf(s.Kind).light {
			node[s.Placed]++
			site[m.view.Nodes[s.Placed].Site]++
		}
	}
	for name, n := range node {
		if n > m.view.Limits.PerNode {
			t.Fatalf("%d orders in flight on %s, the limit is %d", n, name, m.view.Limits.PerNode)
		}
	}
	for name, n := range site {
		if n > m.view.Limits.PerSite {
			t.Fatalf("%d orders in flight in %s, the limit is %d", n, name, m.view.Limits.PerSite)
		}
	}
}

// settle passes until nothing is written any more: that must come soon, or Next chases its own tail.
func (m *model) settle(t *rapid.T) {
	for range len(m.view.Steps) + 2 {
		if m.ended != nil || !m.pass(t) {
			return
		}
	}
	t.Fatalf("Next goes on writing though nothing happens")
}

func (m *model) tell(i int, u step.Update) {
	s := m.view.Steps[i]
	u.Attempt = s.Attempt
	if next, news := told(m.view.Operation, s, u, m.now); news {
		m.view.Steps[i] = next
		if !next.inFlight() {
			delete(m.view.Serving, s.OrderID("o"))
		}
	}
}

func TestNextKeepsItsRulesAndEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t)
		for range rapid.IntRange(0, 40).Draw(t, "happenings") {
			m.happen(t)
			m.settle(t)
			if m.ended != nil {
				break
			}
		}
		m.comeToRest(t)
		m.judge(t)
	})
}

// happen is one thing from outside: a node speaks, goes, comes back, a person cancels, time passes.
func (m *model) happen(t *rapid.T) {
	switch rapid.IntRange(0, 9).Draw(t, "what") {
	case 0:
		name := rapid.SampledFrom([]string{"a1", "a2", "b1"}).Draw(t, "goes or comes")
		n := m.view.Nodes[name]
		n.Reachable = !n.Reachable
		m.view.Nodes[name] = n
	case 1:
		m.now = m.now.Add(time.Duration(rapid.IntRange(1, 200).Draw(t, "seconds")) * time.Second)
	case 2:
		if rapid.IntRange(0, 9).Draw(t, "cancel") == 0 {
			m.view.Operation.State = Cancelling
		}
	case 3:
		if rapid.IntRange(0, 9).Draw(t, "taken") == 0 {
			m.view.TakenBy["acme"] = "another"
		}
	case 4:
		m.view.Serving, m.view.Handed = map[string]bool{}, map[string]time.Time{} // the server restarts
	default:
		i := rapid.IntRange(0, len(m.view.Steps)-1).Draw(t, "who speaks")
		m.tell(i, rapid.SampledFrom([]step.Update{
			{State: step.Running, Note: "on it"}, {State: step.Done}, {State: step.Done}, {State: step.Failed, Error: "no"},
			{State: step.Failed, Error: "not now", Retryable: true}, {State: step.Refused, Error: "will not"}, {State: step.Cancelled},
		}).Draw(t, "word"))
	}
}

// comeToRest lets every node answer; the operation must end.
func (m *model) comeToRest(t *rapid.T) {
	for name, n := range m.view.Nodes {
		n.Reachable = true
		m.view.Nodes[name] = n
	}
	for range 20 * (len(m.view.Steps) + 1) {
		m.settle(t)
		if m.ended != nil {
			return
		}
		for i, s := range m.view.Steps {
			if s.State == step.Sent || s.State == step.Running {
				answer := step.Done
				if m.asked[s.OrderID("o")] {
					answer = step.Cancelled
				}
				m.tell(i, step.Update{State: answer})
			}
		}
		m.now = m.now.Add(10 * time.Second)
	}
	t.Fatalf("the operation does not end: %+v", m.view.Steps)
}

// judge holds the end against the steps.
func (m *model) judge(t *rapid.T) {
	for _, s := range m.view.Steps {
		if s.State == step.Done && !s.OnFailure {
			for _, need := range s.Needs {
				n := m.view.Steps[slices.IndexFunc(m.view.Steps, func(x Step) bool { return x.ID == need })]
				if n.State != step.Done && n.State != step.Skipped && !n.OnFailure {
					t.Fatalf("step %s is done though %s, which it needs, is %s", s.ID, need, n.State)
				}
			}
		}
		if s.Attempt > policyOf(s.Kind).attempts {
			t.Fatalf("step %s had %d attempts", s.ID, s.Attempt)
		}
	}
	c := m.ended.Counts
	if c.Done+c.Failed+c.Refused+c.Unknown+c.Cancelled != c.Steps {
		t.Fatalf("counts do not add up: %+v", c)
	}
	if (m.ended.State == Done) != (c.Done == c.Steps) {
		t.Fatalf("ended as %s with %+v", m.ended.State, c)
	}
}

// What may serve is not taken away from: a way back does not begin while it is not known whether the switch came to be.
func TestNoWayBackFromASwitchOfWhichNothingIsKnown(t *testing.T) {
	for state, want := range map[step.State]verdict{step.Failed: met, step.Refused: met, step.Done: skip, step.Unknown: skip} {
		switched := Step{ID: "acme/switch", Kind: step.Switch, Instance: "acme", Node: "b1", State: state, Attempt: 1, EndedAt: epoch}
		back := Step{ID: "acme/reclaim", Kind: step.Claim, Instance: "acme", Needs: []string{"acme/switch"}, OnFailure: true, State: step.Waiting}
		r := newRound(View{Steps: []Step{switched, back}}, epoch)
		if got, why := r.needs(back); got != want {
			t.Errorf("after a switch that is %s: verdict %d (%s), want %d", state, got, why, want)
		}
	}
}
