package recovery

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/step"
)

// Score computes the scorecard from events. It changes nothing and asks no clock but in.Now, so an auditor can run
// it again over the same rows and must get the same card.
func Score(in Input) Scorecard {
	in = bounded(in)
	card := Scorecard{
		ID: in.ID, Kind: in.Kind, Plan: in.Plan.Name, Scenario: in.Scenario, ScoredAt: in.Now,
		Reasons: []string{}, Unknown: []string{}, Commands: in.Commands, Counts: counted(in.Events),
	}
	span, known := faultSpan(in)
	card.Fault = faultCard(in, span, known)
	card.DeclaredAt, _ = first(in.Events, EventDeclared)
	for _, m := range in.Members {
		card.Instances = append(card.Instances, scoreInstance(in, m, span, known))
	}
	card.DetectSeconds, card.DeclareSeconds, card.RecoverSeconds = clocks(in, card, span, known)
	summarise(&card)
	card.FencedAfterReturn = fencedAfterReturn(in)
	if in.Commands != nil {
		card.ManualCommands = new(len(in.Commands))
	}
	card.Unknown = unknowns(card)
	card.Reasons = reasons(card)
	card.Verdict = Fail
	if len(card.Reasons) == 0 {
		card.Verdict = Pass
	}
	return card
}

// bounded leaves out what probes saw after the run, and sorts the rest by instance.
func bounded(in Input) Input {
	if in.Until.IsZero() {
		in.Until = in.Now
	}
	in.Results = slices.DeleteFunc(slices.Clone(in.Results), func(r ProbeResult) bool { return r.At.After(in.Until) })
	in.byInstance = map[string][]ProbeResult{}
	for _, r := range in.Results {
		in.byInstance[r.Instance] = append(in.byInstance[r.Instance], r)
	}
	return in
}

// counted takes the newest word of each count.
func counted(events []Event) Counts {
	var c Counts
	for _, e := range events {
		if e.Counts == nil {
			continue
		}
		c.DocumentsExpected = cmp.Or(e.Counts.DocumentsExpected, c.DocumentsExpected)
		c.DocumentsFound = cmp.Or(e.Counts.DocumentsFound, c.DocumentsFound)
		c.FilesExpected = cmp.Or(e.Counts.FilesExpected, c.FilesExpected)
		c.FilesFound = cmp.Or(e.Counts.FilesFound, c.FilesFound)
	}
	return c
}

func faultCard(in Input, span Span, known bool) FaultCard {
	card := FaultCard{Kind: in.Fault}
	if known {
		card.From, card.To = new(span.From), new(span.To)
	}
	if at, ok := last(in.Events, EventUndone); ok {
		card.UndoneAt = &at
	}
	for _, e := range in.Events {
		if e.Kind == EventResidue {
			card.Residue = new(e.Note)
		}
	}
	return card
}

// clocks are the three times of the whole run. Where the fault is only known as a span, detect counts from its
// begin: the longest it can have been.
func clocks(in Input, card Scorecard, span Span, known bool) (detect, declare, recover *float64) {
	if !known {
		return nil, nil, nil
	}
	seen, detected := first(in.Events, EventDetected)
	if !detected {
		seen, detected = Detect(in.Members, in.Results, in.Plan.Normal, span.From)
	}
	if detected {
		detect = since(span.From, seen)
	}
	if detected && !card.DeclaredAt.IsZero() {
		declare = since(seen, card.DeclaredAt)
	}
	if back, ok := allBack(card); ok && !card.DeclaredAt.IsZero() {
		recover = since(card.DeclaredAt, back)
	}
	return detect, declare, recover
}

// allBack finds when the last instance was back, if all were down and are back.
func allBack(card Scorecard) (time.Time, bool) {
	var at time.Time
	for _, i := range card.Instances {
		if i.DownTo.IsZero() {
			return at, false
		}
		if i.DownTo.After(at) {
			at = i.DownTo
		}
	}
	return at, !at.IsZero()
}

// since is a duration in seconds, never below 0: what was declared before the probes saw it took no time.
func since(from, to time.Time) *float64 { return seconds(max(0, to.Sub(from))) }

// seconds rounds to a millisecond.
func seconds(d time.Duration) *float64 { return new(math.Round(d.Seconds()*1000) / 1000) }

func scoreInstance(in Input, m Member, span Span, known bool) InstanceCard {
	steps := stepsOf(in.Steps, m.Instance)
	snapshot := in.Snapshots[m.Instance]
	card := InstanceCard{
		Name: m.Instance, Tier: m.Tier, FromNode: m.FromNode, ToNode: target(steps), Snapshot: snapshot.ID,
		RTOSeconds: m.RTO.Seconds(), RPOSeconds: m.RPO.Seconds(), Steps: waterfall(steps), Notes: []string{},
	}
	card.RestoreSeconds = restoreTime(card.Steps)
	card.WaitingSeconds = waitingTime(card.Steps, card.RestoreSeconds)
	if both, ok := twoWriters(in, m.Instance); ok {
		card.TwoWriterSeconds = seconds(both)
	}
	if known {
		measureDowntime(&card, in, in.byInstance[m.Instance], span)
		card.DataLossSeconds = dataLoss(&card, steps, span)
	}
	card.Checks = checks(in, steps, snapshot, card)
	for _, c := range card.Checks {
		card.ChecksPassed += c.Passed
		card.ChecksRequired += c.Required
	}
	noteFailures(&card, steps)
	return card
}

func stepsOf(all []StepRecord, instance string) []StepRecord {
	var kept []StepRecord
	for _, s := range all {
		if s.Instance == instance {
			kept = append(kept, s)
		}
	}
	return kept
}

// target is the node that the data was brought to.
func target(steps []StepRecord) string {
	for _, s := range steps {
		if s.Node != "" {
			return s.Node
		}
	}
	return ""
}

// phase names the bar of the waterfall that a step belongs to; "" for steps that are not part of a restore.
func phase(k step.Kind) string {
	switch k {
	case step.Claim, step.Release, step.Stage:
		return "place"
	case step.Fetch:
		return "fetch"
	case step.Load:
		return "load"
	case step.Boot:
		return "boot"
	case step.Ready:
		return "ready"
	case step.Checks:
		return "checks"
	case step.Switch, step.Route:
		return "edge"
	default:
		return ""
	}
}

// waterfall folds the steps into bars, in order of their start.
func waterfall(steps []StepRecord) []StepCard {
	bars := []StepCard{}
	for _, s := range steps {
		name := phase(s.Kind)
		if name == "" || s.StartedAt.IsZero() {
			continue
		}
		i := slices.IndexFunc(bars, func(b StepCard) bool { return b.Name == name })
		if i < 0 {
			bars, i = append(bars, StepCard{Name: name, Start: s.StartedAt, End: s.StartedAt, State: string(step.Done)}), len(bars)
		}
		widen(&bars[i], s)
	}
	for i, b := range bars {
		if !b.End.IsZero() {
			bars[i].Seconds = since(b.Start, b.End)
		}
	}
	slices.SortStableFunc(bars, func(a, b StepCard) int { return a.Start.Compare(b.Start) })
	return bars
}

// widen lets a bar cover one more step. A bar with a step that has not ended has not ended.
func widen(bar *StepCard, s StepRecord) {
	if s.StartedAt.Before(bar.Start) {
		bar.Start = s.StartedAt
	}
	switch {
	case s.EndedAt.IsZero():
		bar.End = time.Time{}
	case !bar.End.IsZero() && s.EndedAt.After(bar.End):
		bar.End = s.EndedAt
	}
	if s.State != step.Done && bar.State == string(step.Done) {
		bar.State = string(s.State)
	}
}

// restoreTime is from the first bar's start to the last one's end, when every phase was done.
func restoreTime(bars []StepCard) *float64 {
	if len(bars) == 0 || !reached(bars, "edge") {
		return nil
	}
	from, to := bars[0].Start, bars[0].End
	for _, b := range bars {
		if b.State != string(step.Done) || b.End.IsZero() {
			return nil
		}
		if b.End.After(to) {
			to = b.End
		}
	}
	return since(from, to)
}

// waitingTime is what of the restore no bar covers: it waited for its turn on a node, or for a server that was away.
// The bars are in order of their start.
func waitingTime(bars []StepCard, restore *float64) *float64 {
	if restore == nil {
		return nil
	}
	var waited time.Duration
	end := bars[0].Start
	for _, b := range bars {
		waited += max(0, b.Start.Sub(end))
		if b.End.After(end) {
			end = b.End
		}
	}
	return seconds(waited)
}

func reached(bars []StepCard, name string) bool {
	return slices.ContainsFunc(bars, func(b StepCard) bool { return b.Name == name && b.State == string(step.Done) })
}

// measureDowntime fills in what the outside probes saw of one instance.
func measureDowntime(card *InstanceCard, in Input, results []ProbeResult, span Span) {
	results = inTime(results, span.From)
	if len(results) == 0 {
		return
	}
	card.DowntimeError = seconds(results[0].Interval)
	stretches := outages(results, rules(in.Plan.Normal).Good)
	if len(stretches) == 0 {
		if watched(results, span.To, in.Until) {
			card.DowntimeSeconds = seconds(0)
		}
		return
	}
	card.DetectSeconds = since(span.From, stretches[0].From)
	card.DownFrom, card.DownTo = stretches[0].From, stretches[len(stretches)-1].To
	if card.DownTo.IsZero() {
		card.Notes = append(card.Notes, fmt.Sprintf("it is still down, since %s", card.DownFrom.UTC().Format(time.RFC3339)))
		return
	}
	var down time.Duration
	for _, o := range stretches {
		down += o.To.Sub(o.From)
	}
	card.DowntimeSeconds = seconds(down)
	if len(stretches) > 1 {
		card.Notes = append(card.Notes, fmt.Sprintf("it was down %d times; the downtime is their sum", len(stretches)))
	}
}

// dataLoss is from the newest canary tick in the restored data to the fault, at its latest.
func dataLoss(card *InstanceCard, steps []StepRecord, span Span) *float64 {
	fetched, ok := fetchResult(steps)
	if !ok || fetched.CanaryAt.IsZero() {
		return nil
	}
	if fetched.CanaryAt.After(span.To) {
		card.Notes = append(card.Notes, "its newest canary tick is later than the fault by "+fetched.CanaryAt.Sub(span.To).String()+": clocks differ, or it was not restored from the snapshot alone")
	}
	return since(fetched.CanaryAt, span.To)
}

func fetchResult(steps []StepRecord) (step.FetchResult, bool) {
	var r step.FetchResult
	return r, resultOf(steps, step.Fetch, &r)
}

// resultOf reads the result of the done step of a kind.
func resultOf(steps []StepRecord, kind step.Kind, into any) bool {
	for _, s := range steps {
		if s.Kind == kind && s.State == step.Done && len(s.Result) > 0 {
			return json.Unmarshal(s.Result, into) == nil
		}
	}
	return false
}

// checks asks everything that the plan requires before an instance is back to normal. What was not asked has not
// passed.
func checks(in Input, steps []StepRecord, snapshot Snapshot, card InstanceCard) []CheckCard {
	names := in.Plan.Checks
	if len(names) == 0 {
		names = fleet.RecoveryChecks()
	}
	var all []CheckCard
	for _, name := range names {
		all = append(all, check(name, in, steps, snapshot, card))
	}
	return all
}

func check(name string, in Input, steps []StepRecord, snapshot Snapshot, card InstanceCard) CheckCard {
	switch name {
	case "readiness":
		return passed(name, reached(card.Steps, "ready"), "the stack was not ready")
	case "invariants":
		return invariants(name, steps)
	case "canary":
		return canary(name, steps, snapshot)
	case "outside":
		back := isBack(inTime(in.byInstance[card.Name], card.DownFrom), rules(in.Plan.Normal).Good)
		return passed(name, back && card.DowntimeSeconds != nil, "outside probes have not seen it back")
	}
	return CheckCard{Name: name, Required: 1, Note: "there is no such check"}
}

func passed(name string, ok bool, otherwise string) CheckCard {
	if ok {
		return CheckCard{Name: name, Passed: 1, Required: 1}
	}
	return CheckCard{Name: name, Required: 1, Note: otherwise}
}

func invariants(name string, steps []StepRecord) CheckCard {
	var r step.ChecksResult
	if !resultOf(steps, step.Checks, &r) {
		return CheckCard{Name: name, Required: 1, Note: "the data was not checked"}
	}
	return CheckCard{Name: name, Passed: r.Passed, Required: max(r.Required, 1), Note: strings.Join(r.Failures, "; ")}
}

// canary holds the restored data against the snapshot it should be: an older tick is a stale backup, a newer one
// was read from the living system.
func canary(name string, steps []StepRecord, snapshot Snapshot) CheckCard {
	fetched, ok := fetchResult(steps)
	switch {
	case !ok || fetched.CanarySeq == 0:
		return CheckCard{Name: name, Required: 1, Note: "no canary tick was found in the restored data"}
	case fetched.CanarySeq < snapshot.CanaryFrom:
		return CheckCard{Name: name, Required: 1, Note: fmt.Sprintf("the restored tick %d is older than the snapshot's %d", fetched.CanarySeq, snapshot.CanaryFrom)}
	case snapshot.CanaryTo > 0 && fetched.CanarySeq > snapshot.CanaryTo:
		return CheckCard{Name: name, Required: 1, Note: fmt.Sprintf("the restored tick %d is newer than the snapshot's %d", fetched.CanarySeq, snapshot.CanaryTo)}
	}
	return CheckCard{Name: name, Passed: 1, Required: 1}
}

func noteFailures(card *InstanceCard, steps []StepRecord) {
	for _, s := range steps {
		if s.Error != "" && s.State != step.Done {
			card.Notes = append(card.Notes, fmt.Sprintf("%s: %s", s.ID, s.Error))
		}
	}
}

// summarise fills the numbers over all instances.
func summarise(card *Scorecard) {
	var down, restore, loss, both []*float64
	for _, i := range card.Instances {
		down = append(down, i.DowntimeSeconds)
		restore = append(restore, i.RestoreSeconds)
		loss = append(loss, i.DataLossSeconds)
		both = append(both, i.TwoWriterSeconds)
		card.ChecksPassed += i.ChecksPassed
		card.ChecksRequired += i.ChecksRequired
	}
	card.DowntimeSeconds, card.RestoreSeconds, card.DataLossSeconds = summary(down), summary(restore), summary(loss)
	card.TwoWriterSeconds = sum(both)
}

// sum is nil as soon as one part is: a total over what happened to be measured would be too good.
func sum(values []*float64) *float64 {
	total := 0.0
	for _, v := range values {
		if v == nil {
			return nil
		}
		total += *v
	}
	if len(values) == 0 {
		return nil
	}
	return new(math.Round(total*1000) / 1000)
}

func summary(values []*float64) Summary {
	var known []float64
	for _, v := range values {
		if v != nil {
			known = append(known, *v)
		}
	}
	s := Summary{Measured: len(known), Unknown: len(values) - len(known)}
	if len(known) == 0 {
		return s
	}
	slices.Sort(known)
	s.P50, s.P95, s.Max = rank(known, 50), rank(known, 95), new(known[len(known)-1])
	return s
}

// rank is the nearest-rank percentile of sorted values.
func rank(sorted []float64, percent int) *float64 {
	n := (percent*len(sorted) + 99) / 100
	return &sorted[max(n, 1)-1]
}
