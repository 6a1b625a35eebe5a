package op

import (
	"fmt"
	"strings"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// Node is what must be known of a node to decide about its steps.
type Node struct {
	Site      string
	Reachable bool   // the link is up, or it was heard from a short while ago
	SealTo    string // age recipient for what only this node may read
}

// View is all that Next looks at. It is a snapshot; nothing in it is changed.
type View struct {
	Operation Operation
	Steps     []Step // in graph order
	Nodes     map[string]Node
	Limits    Limits
	OnNode    map[string]int       // orders of other operations in flight, per node
	InSite    map[string]int       // the same per site
	TakenBy   map[string]string    // instance -> the operation that took it away from this one
	Handed    map[string]time.Time // order id -> when this server last gave it to the link
	Serving   map[string]bool      // order id -> this server is doing it right now
}

// Deed is what has to be done for a move, once it is written.
type Deed int

// The deeds.
const (
	Nothing Deed = iota // writing it is all
	Send                // hand the order to the link; safe to repeat
	Serve               // the server does the step itself
	Ask                 // ask whoever does the step to stop
)

// Move is one step as it is to be, and what to do about it. Was and WasAttempt guard the write: a step that has
// moved meanwhile is left alone. A move with Write false changes no row.
type Move struct {
	Step       Step
	Was        step.State
	WasAttempt int
	Write      bool
	Deed       Deed
}

// Decision is what Next wants.
type Decision struct {
	Moves  []Move
	Free   []string  // instances whose steps are all settled: their leases can go
	Finish *Finish   // set when every step is settled
	Wake   time.Time // when to look again even if nothing happens; zero = only when something does
	Held   bool      // a step waits for room on its node or in its site: look again when any operation moves
}

// Finish is how the operation ends.
type Finish struct {
	State  State
	Why    string
	Counts Counts
}

// Next decides what an operation does at now. It is pure, and asked again with what it decided it decides nothing
// new until a node, a person or the clock moves.
func Next(v View, now time.Time) Decision {
	r := newRound(v, now)
	for i := range r.steps {
		r.visit(i)
	}
	r.close()
	return r.out
}

// round is one pass of Next over the steps; later steps see what earlier ones were moved to.
type round struct {
	View
	now    time.Time
	steps  []Step
	at     map[string]int
	onNode map[string]int
	inSite map[string]int
	out    Decision
}

func newRound(v View, now time.Time) *round {
	r := &round{View: v, now: now, steps: append([]Step(nil), v.Steps...), at: map[string]int{}, onNode: map[string]int{}, inSite: map[string]int{}}
	for i, s := range r.steps {
		r.at[s.ID] = i
		if s.inFlight() && !policyOf(s.Kind).light {
			r.count(s.Placed)
		}
	}
	return r
}

func (r *round) count(node string) {
	if node == "" {
		return
	}
	r.onNode[node]++
	r.inSite[r.Nodes[node].Site]++
}

func (r *round) visit(i int) {
	s := r.steps[i]
	switch s.State {
	case step.Waiting:
		r.waiting(i, s)
	case step.Sent, step.Running:
		r.inFlight(i, s)
	case step.Unknown:
		r.unknown(i, s)
	case step.Done, step.Failed, step.Refused, step.Cancelled, step.Skipped:
	}
}

// move records the new form of step i, stamps its end, and asks for deed.
func (r *round) move(i int, to Step, deed Deed) {
	was := r.steps[i]
	if to.State.Final() {
		to.EndedAt = r.now
	}
	r.steps[i] = to
	r.out.Moves = append(r.out.Moves, Move{Step: to, Was: was.State, WasAttempt: was.Attempt, Write: true, Deed: deed})
}

// repeat asks for deed again without changing a row.
func (r *round) repeat(i int, deed Deed) {
	s := r.steps[i]
	r.out.Moves = append(r.out.Moves, Move{Step: s, Was: s.State, WasAttempt: s.Attempt, Deed: deed})
}

func (r *round) wake(at time.Time) {
	if r.out.Wake.IsZero() || at.Before(r.out.Wake) {
		r.out.Wake = at
	}
}

// stopped tells why a step that has not begun must not begin, or "".
func (r *round) stopped(s Step) string {
	if by := r.TakenBy[s.Instance]; by != "" && s.Instance != "" {
		return "operation " + by + " has taken " + s.Instance + " over"
	}
	if r.Operation.State == Cancelling && !s.OnFailure {
		return "the operation was cancelled"
	}
	return ""
}

func (r *round) waiting(i int, s Step) {
	if why := r.stopped(s); why != "" {
		s.State, s.Note = step.Cancelled, why
		r.move(i, s, Nothing)
		return
	}
	switch verdict, about := r.needs(s); verdict {
	case pending:
	case skip:
		s.State, s.Note = step.Skipped, about
		r.move(i, s, Nothing)
	case broken:
		s.State, s.Note = step.Cancelled, about
		r.move(i, s, Nothing)
	case met:
		r.begin(i, s)
	}
}

type verdict int

const (
	pending verdict = iota
	met
	broken
	skip
)

// needs looks at what s waits for, and says in words why it will never begin.
func (r *round) needs(s Step) (verdict, string) {
	if s.OnFailure {
		return r.needsOfClearing(s)
	}
	open := false
	for _, id := range s.Needs {
		need := r.steps[r.at[id]]
		switch {
		case need.State == step.Done || need.State == step.Skipped:
		case need.OnFailure && need.Settled():
		case need.Settled():
			return broken, fmt.Sprintf("needs %s, which is %s", need.ID, need.State)
		default:
			open = true
		}
	}
	if open {
		return pending, ""
	}
	return met, ""
}

func (r *round) needsOfClearing(s Step) (verdict, string) {
	bad, tried := false, false
	for _, id := range s.Needs {
		need := r.steps[r.at[id]]
		if !need.Settled() {
			return pending, ""
		}
		if need.Kind == step.Switch && need.State == step.Unknown {
			return skip, "whether " + need.ID + " came to be is not known"
		}
		bad = bad || need.State != step.Done && need.State != step.Skipped
		tried = tried || need.Attempt > 0
	}
	if bad && tried {
		return met, ""
	}
	return skip, "not needed"
}

// begin starts an attempt of a step that waits for nothing but its turn.
func (r *round) begin(i int, s Step) {
	if s.NotBefore.After(r.now) {
		r.wake(s.NotBefore)
		return
	}
	node, err := r.place(s)
	switch {
	case err != nil:
		s.State, s.Error, s.ErrorKind = step.Failed, err.Error(), problem.Internal
		r.move(i, s, Nothing)
	case s.Node == "":
		s.State, s.Attempt, s.SentAt, s.Note = step.Running, s.Attempt+1, r.now, ""
		s.StartedAt = first(s.StartedAt, r.now)
		r.move(i, s, Serve)
	case !r.Nodes[node].Reachable:
		r.awaitNode(i, s, node)
	case r.full(s, node):
		r.out.Held = true
	default:
		r.send(i, s, node)
	}
}

func (r *round) place(s Step) (string, error) {
	claim, ok := strings.CutPrefix(s.Node, "@claim:")
	if !ok {
		return s.Node, nil
	}
	at, ok := r.at[claim]
	if !ok || r.steps[at].Placed == "" {
		return "", fmt.Errorf("step %s goes where %s was placed, and that has not placed it", s.ID, claim)
	}
	return r.steps[at].Placed, nil
}

// awaitNode lets a step wait for a node that is out of reach, but not for ever: nothing was sent, so failing is true.
func (r *round) awaitNode(i int, s Step, node string) {
	until := r.readySince(s).Add(r.Operation.Patience)
	if r.now.Before(until) {
		r.wake(until)
		return
	}
	s.State, s.Placed, s.ErrorKind = step.Failed, node, problem.Unreachable
	s.Error = fmt.Sprintf("node %s was out of reach for %s", node, r.Operation.Patience)
	s.Hint = "holdfast node show " + node
	r.move(i, s, Nothing)
}

func (r *round) readySince(s Step) time.Time {
	since := r.Operation.CreatedAt
	for _, id := range s.Needs {
		if need := r.steps[r.at[id]]; need.EndedAt.After(since) {
			since = need.EndedAt
		}
	}
	if s.NotBefore.After(since) {
		since = s.NotBefore
	}
	return since
}

func (r *round) full(s Step, node string) bool {
	if policyOf(s.Kind).light {
		return false
	}
	site := r.Nodes[node].Site
	return r.onNode[node]+r.OnNode[node] >= r.Limits.PerNode || r.inSite[site]+r.InSite[site] >= r.Limits.PerSite
}

func (r *round) send(i int, s Step, node string) {
	s.State, s.Attempt, s.Placed, s.SentAt, s.Note = step.Sent, s.Attempt+1, node, r.now, ""
	s.DoneBytes, s.TotalBytes, s.CancelAt, s.CancelWhy, s.UnknownAt = 0, 0, time.Time{}, "", time.Time{}
	s.StartedAt = first(s.StartedAt, r.now)
	if !policyOf(s.Kind).light {
		r.count(node)
	}
	r.move(i, s, Send)
	r.wake(r.now.Add(resendAfter))
}

// inFlight watches an attempt: its node going out of reach, its end, and whoever wants it stopped.
func (r *round) inFlight(i int, s Step) {
	if s.Node == "" {
		r.served(i, s)
		return
	}
	if !r.Nodes[s.Placed].Reachable {
		s.State, s.UnknownAt, s.Note = step.Unknown, r.now, "node "+s.Placed+" is out of reach"
		r.move(i, s, Nothing)
		r.wake(r.now.Add(r.patience(s)))
		return
	}
	if why := r.stopCause(s); why != "" || !s.CancelAt.IsZero() {
		r.stop(i, s, why)
		return
	}
	r.wake(s.SentAt.Add(policyOf(s.Kind).within))
	if s.State == step.Sent {
		r.again(i, s, Send)
	}
}

// The causes for which a step in flight is stopped, as kept in its row.
const (
	causeOverdue = "overdue"
	causeAsked   = "asked"
	causeTaken   = "taken"
)

func (r *round) stopCause(s Step) string {
	switch {
	case r.TakenBy[s.Instance] != "" && s.Instance != "":
		return causeTaken
	case r.Operation.State == Cancelling && !s.OnFailure:
		return causeAsked
	case !r.now.Before(s.SentAt.Add(policyOf(s.Kind).within)):
		return causeOverdue
	}
	return ""
}

// stop asks for the end of an attempt, and gives up on knowing it when the node does not answer in time.
func (r *round) stop(i int, s Step, why string) {
	if s.CancelAt.IsZero() {
		s.CancelAt, s.CancelWhy = r.now, why
		r.move(i, s, Ask)
		r.wake(r.now.Add(resendAfter))
		return
	}
	if end := s.CancelAt.Add(cancelGrace); r.now.Before(end) {
		r.wake(end)
		r.again(i, s, Ask)
		return
	}
	s.State, s.EndedAt, s.UnknownAt = step.Unknown, r.now, r.now
	s.Note = fmt.Sprintf("node %s was asked to stop it and did not answer within %s", s.Placed, cancelGrace)
	r.move(i, s, Nothing)
}

// again repeats a deed that the other side has not answered for a while.
func (r *round) again(i int, s Step, deed Deed) {
	handed, ok := r.Handed[s.OrderID(r.Operation.ID)]
	if due := handed.Add(resendAfter); ok && r.now.Before(due) {
		r.wake(due)
		return
	}
	r.repeat(i, deed)
	r.wake(r.now.Add(resendAfter))
}

// served watches a step that the server does itself. One that nobody does any more was cut short by a restart.
func (r *round) served(i int, s Step) {
	serving := r.Serving[s.OrderID(r.Operation.ID)]
	why := r.stopCause(s)
	switch {
	case why == "" && !serving:
		r.repeat(i, Serve)
	case why == "" || why == causeOverdue && serving:
	case serving && s.CancelAt.IsZero():
		s.CancelAt, s.CancelWhy = r.now, why
		r.move(i, s, Ask)
	case !serving:
		s.State, s.Note = step.Cancelled, "stopped"
		r.move(i, s, Nothing)
	}
}

// unknown waits for a node to come back, and then sends the same order again: the node's journal knows the answer.
func (r *round) unknown(i int, s Step) {
	if s.Settled() {
		return
	}
	if r.Nodes[s.Placed].Reachable {
		r.back(i, s)
		return
	}
	if end := s.UnknownAt.Add(r.patience(s)); r.now.Before(end) {
		r.wake(end)
		return
	}
	s.EndedAt = r.now
	s.Note = fmt.Sprintf("node %s went out of reach; what it did is not known", s.Placed)
	s.Hint = "holdfast node show " + s.Placed
	r.move(i, s, Nothing)
}

func (r *round) back(i int, s Step) {
	deed := Send
	s.State, s.UnknownAt, s.Note = step.Sent, time.Time{}, "node "+s.Placed+" is back"
	if why := r.stopCause(s); why != "" {
		deed, s.CancelAt, s.CancelWhy = Ask, r.now, why
	}
	r.move(i, s, deed)
	r.wake(r.now.Add(resendAfter))
}

// patience is how long a silent node is waited for; less when the step is not wanted any more.
func (r *round) patience(s Step) time.Duration {
	if cause := r.stopCause(s); cause == causeAsked || cause == causeTaken {
		return min(r.Operation.Patience, cancelGrace)
	}
	return r.Operation.Patience
}

// close ends the operation when every step is settled, and else frees the instances that are through.
func (r *round) close() {
	open, seen := map[string]bool{}, map[string]bool{}
	all := true
	for _, s := range r.steps {
		seen[s.Instance] = true
		if !s.Settled() {
			open[s.Instance], all = true, false
		}
	}
	if all {
		r.out.Finish = outcome(r.Operation, r.steps)
		return
	}
	for _, s := range r.steps {
		if s.Instance != "" && seen[s.Instance] && !open[s.Instance] {
			r.out.Free = append(r.out.Free, s.Instance)
			delete(seen, s.Instance)
		}
	}
}

func first(at, or time.Time) time.Time {
	if at.IsZero() {
		return or
	}
	return at
}
