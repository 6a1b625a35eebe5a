package recovery

import (
	"cmp"
	"slices"
	"time"

	"holdfast/internal/fleet"
)

// Span is a stretch of time; From equals To where a moment is known exactly.
type Span struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// Outage is one stretch in which an instance did not answer from outside. To is zero while it lasts.
type Outage struct {
	From time.Time
	To   time.Time
}

// rules are a plan's numbers for "lost" and "back to normal", with the defaults filled in.
func rules(n fleet.RecoveryNormal) fleet.RecoveryNormal {
	n.Good = cmp.Or(n.Good, 3)
	n.Bad = cmp.Or(n.Bad, 2)
	n.Share = cmp.Or(n.Share, 50)
	n.Within = cmp.Or(n.Within, 2*time.Minute)
	return n
}

// Detect tells when the results first said that the scope is lost: when Share percent of the members had answered
// badly Bad times in a row. Results asked before from count for nothing. An answer counts when it was there, not when
// it was asked for: a question that nobody answers is known to be bad only after its timeout.
func Detect(members []Member, results []ProbeResult, normal fleet.RecoveryNormal, from time.Time) (time.Time, bool) {
	normal = rules(normal)
	row, bad := map[string]int{}, map[string]bool{}
	for _, m := range members {
		row[m.Instance] = 0
	}
	for _, r := range asKnown(inTime(results, from)) {
		if _, member := row[r.Instance]; !member {
			continue
		}
		row[r.Instance]++
		if r.OK {
			row[r.Instance] = 0
		}
		bad[r.Instance] = row[r.Instance] >= normal.Bad
		if 100*count(bad) >= normal.Share*len(members) && count(bad) > 0 {
			return r.known(), true
		}
	}
	return time.Time{}, false
}

// known is when the answer was there.
func (r ProbeResult) known() time.Time { return r.At.Add(r.Took) }

// asKnown sorts by when the answers were there.
func asKnown(results []ProbeResult) []ProbeResult {
	slices.SortStableFunc(results, func(a, b ProbeResult) int { return a.known().Compare(b.known()) })
	return results
}

func count(set map[string]bool) int {
	n := 0
	for _, in := range set {
		if in {
			n++
		}
	}
	return n
}

// inTime sorts by time (then by probe, so that the order is total) and leaves out what was asked before from.
func inTime(results []ProbeResult, from time.Time) []ProbeResult {
	var kept []ProbeResult
	for _, r := range results {
		if !r.At.Before(from) {
			kept = append(kept, r)
		}
	}
	slices.SortStableFunc(kept, func(a, b ProbeResult) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Probe, b.Probe))
	})
	return kept
}

// of keeps the results of one instance.
func of(results []ProbeResult, instance string) []ProbeResult {
	var kept []ProbeResult
	for _, r := range results {
		if r.Instance == instance {
			kept = append(kept, r)
		}
	}
	return kept
}

// outages finds every stretch from a bad result to the first of Good good ones in a row. Where two probes or more
// ask, the good ones must come from two of them: one network's word is not enough. Results must be in time order and
// of one instance.
func outages(results []ProbeResult, good int) []Outage {
	var all []Outage
	for i := 0; i < len(results); i++ {
		if results[i].OK {
			continue
		}
		back, ok := backAt(results[i:], good)
		if !ok {
			return append(all, Outage{From: results[i].At})
		}
		all = append(all, Outage{From: results[i].At, To: results[i+back].At})
		i += back
	}
	return all
}

// backAt finds the first of good good results in a row.
func backAt(results []ProbeResult, good int) (int, bool) {
	start := 0
	for i, r := range results {
		if !r.OK {
			start = i + 1
			continue
		}
		if i-start+1 >= good && len(probesOf(results[start:i+1])) >= min(2, len(probesOf(asking(results, start)))) {
			return start, true
		}
	}
	return 0, false
}

// asking are the results from shortly before the one at start: a probe that has none among them has been told to
// stop asking, or is lost, and its word is not waited for.
func asking(results []ProbeResult, start int) []ProbeResult {
	from := results[start].At.Add(-3 * max(results[start].Interval, time.Second))
	for start > 0 && !results[start-1].At.Before(from) {
		start--
	}
	return results[start:]
}

func probesOf(results []ProbeResult) map[string]bool {
	all := map[string]bool{}
	for _, r := range results {
		all[r.Probe] = true
	}
	return all
}

// isBack tells whether the instance answers well again: it has been asked since and its last outage is over.
func isBack(results []ProbeResult, good int) bool {
	stretches := outages(results, good)
	if len(stretches) == 0 {
		_, ok := backAt(results, good)
		return ok
	}
	return !stretches[len(stretches)-1].To.IsZero()
}

// watched tells whether the probes looked all the time from the first moment to the last: no gap of more than three
// intervals, so that "never bad" is a measurement and not a silence.
func watched(results []ProbeResult, from, to time.Time) bool {
	last := from
	for _, r := range results {
		if r.At.Sub(last) > 3*max(r.Interval, time.Second) {
			return false
		}
		last = r.At
	}
	return len(results) > 0 && to.Sub(last) <= 3*max(results[len(results)-1].Interval, time.Second)
}

// faultSpan finds when the fault happened: exactly, from the nodes that fired it. A drill whose nodes have not come
// back to say so has it between the order and the first bad answer; a real loss between the last good and the first
// bad answer of the outage that had begun when the recovery was declared.
func faultSpan(in Input) (Span, bool) {
	if at, ok := firedAt(in); ok {
		return Span{at, at}, true
	}
	if in.Kind == Drill {
		return betweenOrderAndAnswer(in)
	}
	declared, ok := first(in.Events, EventDeclared)
	if !ok {
		declared = in.Now
	}
	var span Span
	for _, m := range in.Members {
		s, ok := turned(inTime(in.byInstance[m.Instance], time.Time{}), declared)
		if ok && (span.To.IsZero() || s.To.Before(span.To)) {
			span = s
		}
	}
	return span, !span.To.IsZero()
}

// firedAt is the earliest moment at which a node says that it fired.
func firedAt(in Input) (time.Time, bool) {
	at, ok := first(in.Events, EventFired)
	for _, e := range in.NodeEvents {
		if in.Kind == Drill && e.Kind == NodeFaultFired && (!ok || e.At.Before(at)) {
			at, ok = e.At, true
		}
	}
	return at, ok
}

func betweenOrderAndAnswer(in Input) (Span, bool) {
	ordered, ok := first(in.Events, EventFiring)
	if !ok {
		return Span{}, false
	}
	for _, r := range inTime(in.Results, ordered) {
		if !r.OK {
			return Span{ordered, r.At}, true
		}
	}
	return Span{}, false
}

// turned finds the last good result before the outage that lasted at the moment at, and its first bad one.
func turned(results []ProbeResult, at time.Time) (Span, bool) {
	var span Span
	for _, r := range results {
		switch {
		case r.OK && (span.To.IsZero() || !r.At.After(at)):
			span = Span{From: r.At}
		case !r.OK && span.To.IsZero():
			span.To = r.At
		}
	}
	if span.From.IsZero() {
		span.From = span.To
	}
	return span, !span.To.IsZero()
}

// first finds the earliest event of a kind.
func first(events []Event, kind EventKind) (time.Time, bool) {
	var at time.Time
	for _, e := range events {
		if e.Kind == kind && (at.IsZero() || e.At.Before(at)) {
			at = e.At
		}
	}
	return at, !at.IsZero()
}

// last finds the latest event of a kind.
func last(events []Event, kind EventKind) (time.Time, bool) {
	var at time.Time
	for _, e := range events {
		if e.Kind == kind && e.At.After(at) {
			at = e.At
		}
	}
	return at, !at.IsZero()
}
