package recovery

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/step"
)

// Phase is where a run stands.
type Phase string

// The phases of a drill, in their order. A recovery goes from Recovering over Validating to its end.
const (
	Arming     Phase = "arming"     // every node of the scope is given the fault's end
	Firing     Phase = "firing"     // all have acknowledged; the fault is injected
	Detecting  Phase = "detecting"  // outside probes have yet to see it
	Recovering Phase = "recovering" // the recovery's operation runs
	Validating Phase = "validating" // outside probes have yet to see every member back
	Undoing    Phase = "undoing"    // the fault is being ended, and its end confirmed
	Cleaning   Phase = "cleaning"   // the nodes' reports have yet to show that nothing is left of it
	Ended      Phase = "done"
	Aborted    Phase = "aborted"
	Failed     Phase = "failed" // a named end: Why says what, and the fault is over or its end is named as unknown
)

// Over tells whether the phase is an end.
func (p Phase) Over() bool { return p == Ended || p == Aborted || p == Failed }

// Run is one drill or one recovery, as its row holds it.
type Run struct {
	ID          string              `json:"id"`
	Kind        Kind                `json:"kind"`
	Plan        fleet.RecoveryPlan  `json:"plan"` // as it was when the run began
	Scenario    string              `json:"scenario"`
	Fault       fleet.RecoveryFault `json:"fault,omitzero"`
	Actor       string              `json:"actor"`
	Members     []Member            `json:"members"`
	Assignments []Assignment        `json:"assignments"`
	Nodes       []string            `json:"nodes,omitempty"`     // on which the fault is injected
	Snapshots   map[string]Snapshot `json:"snapshots,omitempty"` // by instance: what the recovery fetches
	Phase       Phase               `json:"phase"`
	Since       time.Time           `json:"since"`         // of the phase
	End         Phase               `json:"end,omitempty"` // the end it is heading for, once that is clear
	Why         string              `json:"why,omitempty"`
	AbortedBy   string              `json:"aborted_by,omitempty"`
	Operations  Operations          `json:"operations"`
	StartedAt   time.Time           `json:"started_at"`
	EndedAt     time.Time           `json:"ended_at,omitzero"`
}

// Operations are the ids of what a run has ordered; "" = not yet.
type Operations struct {
	Arm     string `json:"arm,omitempty"`
	Fire    string `json:"fire,omitempty"`
	Recover string `json:"recover,omitempty"`
	Undo    string `json:"undo,omitempty"`
}

// Progress is how far one operation of a run has come.
type Progress struct {
	Ended bool
	Steps []StepRecord
}

// Facts is what Next looks at beside the run itself.
type Facts struct {
	Arm, Fire, Recover, Undo Progress
	Results                  []ProbeResult
	NodeEvents               []NodeEvent
	Events                   []Event             // of the run
	Faults                   map[string][]string // by node: the faults that its newest report still names
	Reported                 map[string]time.Time
}

// Move is what a run does next. The zero Move waits.
type Move struct {
	Phase  Phase     // "" = stays
	End    Phase     // "" = as it is
	Why    string    // "" = as it is
	Submit step.Kind // Arm, Fire, Undo, or Claim for the recovery: an operation to order in the same transaction
	Cancel string    // an operation to cancel
	Events []Event
}

// How long a phase may take before the run goes on without it.
const (
	armWithin    = 2 * time.Minute
	fireWithin   = time.Minute
	detectWithin = 5 * time.Minute
	undoMargin   = 2 * time.Minute // after the fault's own end
	cleanWithin  = 2 * time.Minute
)

// Next decides what a run does now. It is pure: after any crash the same rows give the same move.
func Next(r Run, f Facts, now time.Time) Move {
	if r.Phase.Over() {
		return Move{}
	}
	if r.AbortedBy != "" && r.End == "" {
		return abort(r, now)
	}
	switch r.Phase {
	case Arming:
		return arming(r, f, now)
	case Firing:
		return firing(r, f, now)
	case Detecting:
		return detecting(r, f, now)
	case Recovering:
		return recovering(r, f, now)
	case Validating:
		return validating(r, f, now)
	case Undoing:
		return undoing(r, f, now)
	case Cleaning:
		return cleaning(r, f, now)
	case Ended, Aborted, Failed:
		return Move{}
	}
	return Move{}
}

// abort heads for the end. A recovery that has begun is carried through: half of it fenced and half of it restored
// is worse than either side, so only what comes after it is left out.
func abort(r Run, now time.Time) Move {
	m := Move{End: Aborted, Why: "aborted by " + r.AbortedBy, Events: []Event{{At: now, Kind: EventAborted, Note: r.AbortedBy}}}
	switch r.Phase {
	case Arming, Firing, Detecting:
		m.Phase = Undoing
	case Validating:
		m.Phase = afterwards(r, Aborted)
	case Recovering, Undoing, Cleaning, Ended, Aborted, Failed:
	}
	return m
}

// afterwards is the phase that follows the recovery: a drill has a fault to end first.
func afterwards(r Run, end Phase) Phase {
	if r.Kind == Drill {
		return Undoing
	}
	return end
}

// arming waits for the word of every node. One that is missing, and nothing is fired at all.
func arming(r Run, f Facts, now time.Time) Move {
	if r.Operations.Arm == "" {
		return Move{Submit: step.Arm}
	}
	silent := without(r.Nodes, endsOn(f.Arm, step.Arm))
	switch {
	case len(silent) == 0:
		return Move{Phase: Firing, Submit: step.Fire, Events: onEach(EventArmed, endsOn(f.Arm, step.Arm), r.Nodes)}
	case f.Arm.Ended || now.Sub(r.Since) > armWithin:
		return Move{Phase: Undoing, End: Failed, Why: "nothing was fired: " + strings.Join(silent, ", ") + " did not acknowledge the fault's own end", Cancel: unless(f.Arm.Ended, r.Operations.Arm)}
	}
	return Move{}
}

// firing takes a node's own event, or the done step, as the word that it fired. A fault that kills the agent, or cuts
// it off, keeps the node from saying so until it is back: then the probes say it, or the silence after the order does.
// Only when every node has said that it did not fire has nothing happened.
func firing(r Run, f Facts, now time.Time) Move {
	fired := firedOn(r, f)
	_, seen := Detect(r.Members, f.Results, r.Plan.Normal, faultBegan(f.Events))
	settled := len(without(r.Nodes, fired)) == 0 || seen || f.Fire.Ended || now.Sub(r.Since) > fireWithin
	switch {
	case !settled:
		return Move{}
	case len(fired) == 0 && len(without(r.Nodes, didNot(f.Fire))) == 0:
		return Move{Phase: Undoing, End: Failed, Why: "no node fired the fault", Cancel: unless(f.Fire.Ended, r.Operations.Fire)}
	}
	return Move{Phase: Detecting, Events: onEach(EventFired, fired, r.Nodes), Cancel: unless(f.Fire.Ended, r.Operations.Fire)}
}

// firedOn is when each node fired.
func firedOn(r Run, f Facts) map[string]time.Time {
	fired := endsOn(f.Fire, step.Fire)
	for node, at := range saidOn(f.NodeEvents, NodeFaultFired) {
		fired[node] = at
	}
	return fired
}

// didNot are the nodes that said no.
func didNot(p Progress) map[string]time.Time {
	not := map[string]time.Time{}
	for _, s := range p.Steps {
		if s.State == step.Failed || s.State == step.Refused {
			not[s.Node] = s.EndedAt
		}
	}
	return not
}

// faultBegan is when the first node fired, or when it was ordered to as long as none has said.
func faultBegan(events []Event) time.Time {
	if at, ok := first(events, EventFired); ok {
		return at
	}
	at, _ := first(events, EventFiring)
	return at
}

// detecting waits for the outside probes. Only what they see declares the recovery.
func detecting(r Run, f Facts, now time.Time) Move {
	if at, seen := Detect(r.Members, f.Results, r.Plan.Normal, faultBegan(f.Events)); seen {
		return Move{Phase: Recovering, Submit: step.Claim, Events: []Event{{At: at, Kind: EventDetected}}}
	}
	if now.Sub(r.Since) > min(detectWithin, r.Fault.For) {
		return Move{Phase: Undoing, End: Failed, Why: "the outside probes did not see the fault, so nothing was recovered"}
	}
	return Move{}
}

func recovering(r Run, f Facts, now time.Time) Move {
	if r.Operations.Recover == "" {
		return Move{Submit: step.Claim}
	}
	if !f.Recover.Ended {
		return Move{}
	}
	m := Move{Phase: Validating, Events: []Event{{At: now, Kind: EventRecovered}}}
	if r.End == Aborted {
		m.Phase = afterwards(r, Aborted)
	}
	return m
}

// validating waits until every member answers well from outside. What is not back in time is in the score.
func validating(r Run, f Facts, now time.Time) Move {
	normal := rules(r.Plan.Normal)
	away := stillAway(r, f)
	switch {
	case len(away) == 0:
		return Move{Phase: afterwards(r, Ended), Events: []Event{{At: now, Kind: EventNormal}}}
	case now.Sub(r.Since) > normal.Within:
		return Move{Phase: afterwards(r, Failed), End: Failed, Why: fmt.Sprintf("%s after the last step %s not answered well from outside: %s", fleet.FormatDuration(normal.Within), have(len(away)), strings.Join(away, ", "))}
	}
	return Move{}
}

func have(n int) string {
	if n == 1 {
		return "1 instance has"
	}
	return fmt.Sprintf("%d instances have", n)
}

// stillAway lists the members that outside probes have not seen back since the fault.
func stillAway(r Run, f Facts) []string {
	from := faultBegan(f.Events)
	if from.IsZero() {
		from, _ = first(f.Events, EventDeclared)
	}
	var away []string
	for _, m := range r.Members {
		if !isBack(inTime(of(f.Results, m.Instance), from), rules(r.Plan.Normal).Good) {
			away = append(away, m.Instance)
		}
	}
	return away
}

// undoing orders the end and waits for each node's word. A node out of reach ends its fault by itself, and is heard
// when it is back; after the fault's own end and a margin the run names it and goes on.
func undoing(r Run, f Facts, now time.Time) Move {
	if r.Operations.Arm == "" {
		return Move{Phase: Cleaning}
	}
	if r.Operations.Undo == "" {
		return Move{Submit: step.Undo}
	}
	undone := undoneOn(r, f)
	open := without(r.Nodes, undone)
	if len(open) == 0 {
		return Move{Phase: Cleaning, Events: onEach(EventUndone, undone, r.Nodes)}
	}
	if r.Operations.Fire == "" && f.Undo.Ended {
		return Move{Phase: Cleaning}
	}
	if f.Undo.Ended && now.Sub(r.Since) > r.Fault.For+undoMargin {
		return Move{Phase: Cleaning, End: Failed, Why: "the end of the fault is not confirmed on " + strings.Join(open, ", ") + ": look at these nodes"}
	}
	return Move{}
}

func undoneOn(r Run, f Facts) map[string]time.Time {
	undone := endsOn(f.Undo, step.Undo)
	for node, at := range saidOn(f.NodeEvents, NodeUndoFired) {
		undone[node] = at
	}
	return undone
}

// cleaning looks at the nodes' own reports, taken after the end: is any of the fault left, and are those that came
// back fenced?
func cleaning(r Run, f Facts, now time.Time) Move {
	late := now.Sub(r.Since) > cleanWithin
	left, heard := residue(r, f)
	if !late && (!heard || len(left) > 0 || !returnIsKnown(r, f)) {
		return Move{}
	}
	end := r.End
	if end == "" {
		end = Ended
	}
	m := Move{Phase: end, Why: r.Why}
	if heard || len(left) > 0 {
		m.Events = []Event{{At: now, Kind: EventResidue, Note: strings.Join(left, "; ")}}
	}
	if len(left) > 0 {
		m.Phase, m.Why = Failed, "the fault left something behind: "+strings.Join(left, "; ")
	}
	return m
}

// residue lists what the nodes still report of faults, or said of their ends; heard is false until every node has reported since.
func residue(r Run, f Facts) (left []string, heard bool) {
	heard = true
	for _, node := range r.Nodes {
		heard = heard && f.Reported[node].After(r.Since)
		for _, fault := range f.Faults[node] {
			left = append(left, node+": "+fault)
		}
	}
	for _, e := range f.NodeEvents {
		if e.Kind == NodeUndoFired && e.Note != "" {
			left = append(left, e.Node+": "+e.Note)
		}
	}
	return left, heard
}

// returnIsKnown tells whether the lost nodes have said how they came back; nothing was moved without a recovery.
func returnIsKnown(r Run, f Facts) bool {
	if r.Operations.Recover == "" {
		return true
	}
	return fencedAfterReturn(Input{Members: r.Members, Events: f.Events, NodeEvents: f.NodeEvents}) != nil
}

// endsOn is when the done step of a kind ended, by node.
func endsOn(p Progress, kind step.Kind) map[string]time.Time {
	ends := map[string]time.Time{}
	for _, s := range p.Steps {
		if s.Kind == kind && s.State == step.Done {
			ends[s.Node] = s.EndedAt
		}
	}
	return ends
}

// saidOn is when each node last said that something happened to it.
func saidOn(events []NodeEvent, kind string) map[string]time.Time {
	said := map[string]time.Time{}
	for _, e := range events {
		if e.Kind == kind {
			said[e.Node] = e.At
		}
	}
	return said
}

func without(nodes []string, have map[string]time.Time) []string {
	return slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { _, ok := have[n]; return ok })
}

// onEach is one event for each of the nodes that is in at.
func onEach(kind EventKind, at map[string]time.Time, nodes []string) []Event {
	var all []Event
	for _, node := range nodes {
		if when, ok := at[node]; ok {
			all = append(all, Event{At: when, Kind: kind, Node: node})
		}
	}
	return all
}

func unless(ended bool, operation string) string {
	if ended {
		return ""
	}
	return operation
}
