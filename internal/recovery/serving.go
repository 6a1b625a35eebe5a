package recovery

import (
	"cmp"
	"slices"
	"time"
)

// writer is one place and epoch under which an instance can take writes.
type writer struct {
	node  string
	epoch int64
}

// stretch is a time in which a writer could take writes. Open means that nobody has said when it ended, paused that
// a fault ended it and its end may let it go on.
type stretch struct {
	writer
	Span
	open   bool
	paused bool
}

// twoWriters adds up the time in which more than one writer of the instance could take writes. It knows nothing
// when no node said anything, or when nobody ended a stretch although a higher epoch has begun elsewhere.
func twoWriters(in Input, instance string) (time.Duration, bool) {
	all := stretches(in, instance)
	if len(all) == 0 {
		return 0, false
	}
	for _, s := range all {
		if s.open && slices.ContainsFunc(all, func(o stretch) bool { return o.epoch > s.epoch }) {
			return 0, false
		}
	}
	return overlap(all), true
}

// stretches folds the nodes' serving events into stretches, in order of their start. A fault that kills or pauses
// the processes ends what its node served there and then; a pause that is over lets it go on.
func stretches(in Input, instance string) []stretch {
	var all []stretch
	for _, e := range servingEvents(in, instance) {
		switch e.Kind {
		case NodeServingStarted:
			all = append(closeStretches(all, e, sameWriter), stretch{writer: writer{e.Node, e.Epoch}, Span: Span{e.At, in.Now}, open: true})
		case NodeServingStopped, NodeFenced, NodeFaultFired:
			all = closeStretches(all, e, sameNode)
		case NodeUndoFired:
			all = reopen(all, e, in.Now)
		}
	}
	slices.SortStableFunc(all, func(a, b stretch) int {
		return cmp.Or(a.From.Compare(b.From), cmp.Compare(a.node, b.node))
	})
	return all
}

// servingEvents are the events of the instance and those of faults that stop processes, in time order. At the same
// moment an end comes before a start.
func servingEvents(in Input, instance string) []NodeEvent {
	var kept []NodeEvent
	for _, e := range in.NodeEvents {
		switch e.Kind {
		case NodeServingStarted, NodeServingStopped, NodeFenced:
			if e.Instance == instance {
				kept = append(kept, e)
			}
		case NodeFaultFired:
			if in.Fault == "kill" || in.Fault == "stop" {
				kept = append(kept, e)
			}
		case NodeUndoFired:
			if in.Fault == "stop" {
				kept = append(kept, e)
			}
		}
	}
	slices.SortStableFunc(kept, func(a, b NodeEvent) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(startsLast(a), startsLast(b)), cmp.Compare(a.Node, b.Node))
	})
	return kept
}

func startsLast(e NodeEvent) int {
	if e.Kind == NodeServingStarted {
		return 1
	}
	return 0
}

func sameWriter(s stretch, e NodeEvent) bool { return s.node == e.Node && s.epoch == e.Epoch }

// sameNode matches what the event ends: everything its node served of the instance at or below the event's epoch
// (a fault has no epoch and ends all; a fence names the epoch that it ends).
func sameNode(s stretch, e NodeEvent) bool {
	return s.node == e.Node && (e.Epoch == 0 || s.epoch <= e.Epoch)
}

// closeStretches ends what the event ends. What a pause has ended is only held up until its node says that it stopped
// or is fenced: then it does not go on when the pause is over.
func closeStretches(all []stretch, e NodeEvent, matches func(stretch, NodeEvent) bool) []stretch {
	for i, s := range all {
		if s.paused && matches(s, e) {
			all[i].paused = false
		}
		if s.open && matches(s, e) {
			all[i].To, all[i].open, all[i].paused = e.At, false, e.Kind == NodeFaultFired
		}
	}
	return all
}

// reopen lets what the node's pause had stopped go on.
func reopen(all []stretch, e NodeEvent, now time.Time) []stretch {
	for i, s := range all {
		if s.node == e.Node && s.paused {
			all[i].paused = false
			all = append(all, stretch{writer: s.writer, Span: Span{e.At, now}, open: true})
		}
	}
	return all
}

// overlap sums the time in which two or more different writers stand side by side.
func overlap(all []stretch) time.Duration {
	var edges []time.Time
	for _, s := range all {
		edges = append(edges, s.From, s.To)
	}
	slices.SortFunc(edges, time.Time.Compare)
	var total time.Duration
	for i := 1; i < len(edges); i++ {
		if writersAt(all, edges[i-1], edges[i]) > 1 {
			total += edges[i].Sub(edges[i-1])
		}
	}
	return total
}

// writersAt counts the writers that cover the whole piece between two neighbouring edges.
func writersAt(all []stretch, from, to time.Time) int {
	cover := map[writer]bool{}
	for _, s := range all {
		if !s.From.After(from) && !s.To.Before(to) {
			cover[s.writer] = true
		}
	}
	return len(cover)
}

// fencedAfterReturn tells whether every node of the lost scope that came back found itself fenced for each member
// it had served, and served none of them. It is nil while a node has not come back.
func fencedAfterReturn(in Input) *bool {
	declared, ok := first(in.Events, EventDeclared)
	if !ok {
		return nil
	}
	known := true
	for _, m := range in.Members {
		returned, fenced, served := afterReturn(in, m, declared)
		if served {
			return new(false)
		}
		known = known && returned && fenced
	}
	if !known || len(in.Members) == 0 {
		return nil
	}
	return new(true)
}

// afterReturn reads what the member's old node said of it after the declaration. A node that came back and has said
// neither fenced nor served is not known to be fenced.
func afterReturn(in Input, m Member, declared time.Time) (returned, fenced, served bool) {
	for _, e := range in.NodeEvents {
		if e.Node != m.FromNode || e.At.Before(declared) {
			continue
		}
		switch {
		case e.Kind == NodeBoot || e.Kind == NodeUndoFired:
			returned = true
		case e.Instance != m.Instance:
		case e.Kind == NodeFenced:
			returned, fenced = true, true
		case e.Kind == NodeServingStarted && e.Epoch <= m.Epoch:
			served = true
		}
	}
	return returned, fenced, served
}
