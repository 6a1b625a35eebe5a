package dashtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"holdfast/internal/recovery"
)

// Recover recovers by a plan to the end and gives the scorecard; the error tells that it did not pass.
func (w *World) Recover(plan string) (recovery.Scorecard, error) {
	w.Helper()
	out, failed := w.Lab.Holdfast(w.Ctx, "recover", plan, "--yes", "-o", "json")
	var card recovery.Scorecard
	if err := json.Unmarshal([]byte(out), &card); err != nil {
		w.Fatalf("recover by %s: %v\n%s", plan, failed, out)
	}
	return card, failed
}

// Sums says where a scorecard does not add up: every instance's bars and waiting make its restore, detection and
// recovery lie within its downtime, and the numbers over all are those of the instances.
func Sums(card recovery.Scorecard) error {
	var wrong []error
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	var downtime, restore, loss []float64
	passed, required := 0, 0
	for _, i := range card.Instances {
		if i.RestoreSeconds == nil || i.WaitingSeconds == nil || i.DowntimeSeconds == nil || i.DataLossSeconds == nil {
			bad("%s: not all was measured: %+v", i.Name, i)
			continue
		}
		if got := covered(i.Steps) + *i.WaitingSeconds; math.Abs(got-*i.RestoreSeconds) > 0.01 {
			bad("%s: its bars and what it waited are %.3f s, its restore %.3f s", i.Name, got, *i.RestoreSeconds)
		}
		if seen := i.DownTo.Sub(i.DownFrom).Seconds(); math.Abs(seen-*i.DowntimeSeconds) > 0.01 {
			bad("%s: down for %.3f s, from its begin to its end %.3f s", i.Name, *i.DowntimeSeconds, seen)
		}
		downtime, restore, loss = append(downtime, *i.DowntimeSeconds), append(restore, *i.RestoreSeconds), append(loss, *i.DataLossSeconds)
		passed, required = passed+i.ChecksPassed, required+i.ChecksRequired
	}
	for name, s := range map[string]struct {
		got  recovery.Summary
		each []float64
	}{"downtime": {card.DowntimeSeconds, downtime}, "restore": {card.RestoreSeconds, restore}, "data loss": {card.DataLossSeconds, loss}} {
		if s.got.Measured != len(s.each) || s.got.Measured+s.got.Unknown != len(card.Instances) {
			bad("%s: %d measured and %d unknown of %d instances", name, s.got.Measured, s.got.Unknown, len(card.Instances))
		} else if len(s.each) > 0 && math.Abs(*s.got.Max-slices.Max(s.each)) > 0.001 {
			bad("%s: at most %.3f s, and an instance has %.3f s", name, *s.got.Max, slices.Max(s.each))
		}
	}
	if card.ChecksPassed != passed || card.ChecksRequired != required {
		bad("%d of %d checks passed, the instances say %d of %d", card.ChecksPassed, card.ChecksRequired, passed, required)
	}
	return errors.Join(wrong...)
}

// covered is the time, in seconds, in which at least one bar lies.
func covered(bars []recovery.StepCard) float64 {
	bars = slices.SortedFunc(slices.Values(bars), func(a, b recovery.StepCard) int { return a.Start.Compare(b.Start) })
	total, until := time.Duration(0), time.Time{}
	for _, b := range bars {
		if b.End.After(until) {
			from := b.Start
			if until.After(from) {
				from = until
			}
			total, until = total+b.End.Sub(from), b.End
		}
	}
	return total.Seconds()
}
