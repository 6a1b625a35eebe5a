//go:build !slim

package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/recovery"
)

// drawDraft draws who would go where and what would fail.
func drawDraft(out io.Writer, d recovery.Draft) error {
	fmt.Fprintf(out, "plan %s: %d instances, %d of them have a place\n", d.Plan, len(d.Members), len(d.Assignments))
	from := map[string]string{}
	tier := map[string]string{}
	for _, m := range d.Members {
		from[m.Instance], tier[m.Instance] = m.FromNode, m.Tier
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, a := range d.Assignments {
		fmt.Fprintf(w, "  %s\t%s\t%s -> %s\testimated done after %s\n", a.Instance, orDash(tier[a.Instance]), from[a.Instance], a.Node, fleet.FormatDuration(a.Ends.Round(time.Second)))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, f := range d.Findings {
		fmt.Fprintf(out, "%s: %s: %s\n", f.Severity, f.Object, f.Message)
		if f.Hint != "" {
			fmt.Fprintf(out, "  next: %s\n", f.Hint)
		}
	}
	if len(d.Findings) == 0 {
		fmt.Fprintln(out, "nothing is found that would fail today")
	}
	return nil
}

// drawScorecard draws the numbers, a line for each instance, and the waterfall.
func drawScorecard(out io.Writer, c recovery.Scorecard) error {
	fmt.Fprintf(out, "%s: %s\n", c.Plan, strings.ToUpper(c.Verdict))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range recovery.Rows(c) {
		fmt.Fprintf(w, "  %s\t%s\n", row[0], row[1])
	}
	fmt.Fprintln(w, "\nINSTANCE\tTIER\tFROM\tTO\tSNAPSHOT\tDOWN\tRESTORE\tLOST\tCHECKS")
	for _, i := range c.Instances {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d/%d\n", i.Name, orDash(i.Tier), orDash(i.FromNode), orDash(i.ToNode), orDash(i.Snapshot[:min(12, len(i.Snapshot))]),
			recovery.Seconds(i.DowntimeSeconds), recovery.Seconds(i.RestoreSeconds), recovery.Seconds(i.DataLossSeconds), i.ChecksPassed, i.ChecksRequired)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	drawWaterfall(out, c)
	for _, reason := range c.Reasons {
		fmt.Fprintf(out, "did not pass: %s\n", reason)
	}
	for _, unknown := range c.Unknown {
		fmt.Fprintf(out, "not measured: %s\n", unknown)
	}
	return nil
}

// waterfallWidth is the columns of the picture.
const waterfallWidth = 64

// letters stand for the phases; the legend names them.
const letters = "PFLBRCE"

// drawWaterfall draws each restore over time, one letter for each phase.
func drawWaterfall(out io.Writer, c recovery.Scorecard) {
	from, to := extentOf(c)
	if !to.After(from) {
		return
	}
	fmt.Fprintf(out, "\n%-16s 0%*s   (. down, Place Fetch Load Boot Ready Checks Edge)\n", "", waterfallWidth-1, fmt.Sprintf("%.1f s", to.Sub(from).Seconds()))
	for _, i := range c.Instances {
		line := []rune(strings.Repeat(" ", waterfallWidth))
		fill(line, from, to, i.DownFrom, i.DownTo, '.')
		for _, s := range i.Steps {
			fill(line, from, to, s.Start, s.End, letterOf(s))
		}
		fmt.Fprintf(out, "%-16.16s %s\n", i.Name, string(line))
	}
	fmt.Fprintln(out)
}

func letterOf(s recovery.StepCard) rune {
	if s.State != "done" {
		return '!'
	}
	for _, letter := range letters {
		if strings.EqualFold(s.Name[:1], string(letter)) {
			return letter
		}
	}
	return '?'
}

// fill marks the columns of a stretch; every stretch has one at least, and a later one lies over an earlier.
func fill(line []rune, from, to, start, end time.Time, mark rune) {
	if start.IsZero() || end.IsZero() {
		return
	}
	column := func(t time.Time) int {
		return int(float64(len(line)) * float64(t.Sub(from)) / float64(to.Sub(from)))
	}
	first := min(column(start), len(line)-1)
	for i := first; i <= max(first, column(end)-1); i++ {
		line[i] = mark
	}
}

// extentOf is from the first moment of the picture to its last.
func extentOf(c recovery.Scorecard) (from, to time.Time) {
	see := func(t time.Time) {
		if t.IsZero() {
			return
		}
		if from.IsZero() || t.Before(from) {
			from = t
		}
		if t.After(to) {
			to = t
		}
	}
	for _, i := range c.Instances {
		see(i.DownFrom)
		see(i.DownTo)
		for _, s := range i.Steps {
			see(s.Start)
			see(s.End)
		}
	}
	return from, to
}
