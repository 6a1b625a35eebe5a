//go:build !slim

package cli

import (
	"fmt"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/dustin/go-humanize"

	"holdfast/internal/op"
	"holdfast/internal/step"
)

// palette colours what is drawn. The zero palette draws plain text.
type palette struct{ good, bad, busy, faint, bold lipgloss.Style }

func colours() palette {
	return palette{
		good: lipgloss.NewStyle().Foreground(lipgloss.Color("2")), bad: lipgloss.NewStyle().Foreground(lipgloss.Color("1")).Bold(true),
		busy: lipgloss.NewStyle().Foreground(lipgloss.Color("4")), faint: lipgloss.NewStyle().Faint(true), bold: lipgloss.NewStyle().Bold(true),
	}
}

// canvas is where a tree is drawn: how much fits, and with what colours. Height 0 = no limit.
type canvas struct {
	width, height int
	palette       palette
}

// drawTree draws an operation as it stands: a head, then each instance with its steps. Where not everything fits,
// what failed and what runs comes first, and the rest is counted.
func drawTree(o op.Shown, now time.Time, c canvas) string {
	lines := []string{c.cut(head(o, now, c.palette))}
	branches := branchesOf(o.Steps)
	if len(branches) <= 3 {
		for _, b := range branches {
			lines = append(lines, b.full(now, c)...)
		}
		return strings.Join(lines, "\n") + "\n"
	}
	return strings.Join(append(lines, folded(branches, now, c)...), "\n") + "\n"
}

func head(o op.Shown, now time.Time, p palette) string {
	counts, end := op.Count(o.Steps), now
	if o.Operation.State.Ended() {
		end = o.Operation.EndedAt
	}
	text := fmt.Sprintf("%s  %s  %d of %d steps", p.bold.Render(o.Operation.Title), stateWord(o.Operation.State, p), counts.Done, counts.Steps)
	if counts.Instances > 1 {
		text += fmt.Sprintf(", %d of %d instances", counts.InstancesDone, counts.Instances)
	}
	return text + "  " + p.faint.Render(took(o.Operation.CreatedAt, end))
}

func stateWord(s op.State, p palette) string {
	switch s {
	case op.Done:
		return p.good.Render(string(s))
	case op.Failed, op.Partly, op.Unknown, op.Cancelled:
		return p.bad.Render(string(s))
	case op.Running, op.Cancelling:
		return p.busy.Render(string(s))
	}
	return string(s)
}

// branch is the steps of one instance, or those of none.
type branch struct {
	name  string
	steps []op.Step
}

func branchesOf(steps []op.Step) []branch {
	var all []branch
	at := map[string]int{}
	for _, s := range steps {
		i, known := at[s.Instance]
		if !known {
			i, at[s.Instance] = len(all), len(all)
			all = append(all, branch{name: s.Instance})
		}
		all[i].steps = append(all[i].steps, s)
	}
	return all
}

func (b branch) full(now time.Time, c canvas) []string {
	var lines []string
	if b.name != "" {
		lines = append(lines, c.cut("  "+c.palette.bold.Render(b.name)))
	}
	for _, s := range b.steps {
		if s.State == step.Skipped || s.OnFailure && s.State == step.Waiting {
			continue
		}
		lines = append(lines, c.cut("    "+stepLine(s, now, c.palette)))
		if s.Error != "" && s.State != step.Done {
			lines = append(lines, c.cut("      "+c.palette.bad.Render(s.Error)))
		}
		if s.Hint != "" && s.State.Final() && s.State != step.Done {
			lines = append(lines, c.cut("      next: "+s.Hint))
		}
	}
	return lines
}

func stepLine(s op.Step, now time.Time, p palette) string {
	parts := []string{mark(s.State, p) + " " + fmt.Sprintf("%-8s", s.Kind)}
	if s.Placed != "" {
		parts = append(parts, "on "+s.Placed)
	}
	if s.DoneBytes > 0 {
		parts = append(parts, amount(s))
	}
	if s.Attempt > 1 {
		parts = append(parts, fmt.Sprintf("attempt %d", s.Attempt))
	}
	if s.Note != "" {
		parts = append(parts, s.Note)
	}
	if !s.StartedAt.IsZero() {
		end := now
		if !s.EndedAt.IsZero() {
			end = s.EndedAt
		}
		parts = append(parts, p.faint.Render(took(s.StartedAt, end)))
	}
	return strings.TrimRight(strings.Join(parts, "  "), " ")
}

func amount(s op.Step) string {
	done := humanize.IBytes(uint64(s.DoneBytes))
	if s.TotalBytes <= s.DoneBytes || s.State == step.Done {
		return done
	}
	return done + " of " + humanize.IBytes(uint64(s.TotalBytes))
}

func mark(s step.State, p palette) string {
	switch s {
	case step.Done:
		return p.good.Render("✓")
	case step.Failed, step.Refused:
		return p.bad.Render("✗")
	case step.Unknown:
		return p.bad.Render("?")
	case step.Sent, step.Running:
		return p.busy.Render("●")
	case step.Cancelled, step.Skipped:
		return p.faint.Render("–")
	case step.Waiting:
		return p.faint.Render("·")
	}
	return " "
}

// standing sorts instances: what failed, what runs, what waits, what is done.
func (b branch) standing() int {
	done, begun, bad := true, false, false
	for _, s := range b.steps {
		if s.OnFailure {
			continue
		}
		switch s.State {
		case step.Failed, step.Refused, step.Unknown, step.Cancelled:
			bad = true
		case step.Sent, step.Running, step.Done:
			begun = true
		case step.Waiting, step.Skipped:
		}
		done = done && s.State == step.Done
	}
	switch {
	case bad:
		return 0
	case done:
		return 3
	case begun:
		return 1
	}
	return 2
}

// folded draws an instance a line, as many as fit.
func folded(branches []branch, now time.Time, c canvas) []string {
	room := len(branches)
	if c.height > 0 {
		room = max(1, c.height-3)
	}
	var lines []string
	left := [4]int{}
	for rank := range 4 {
		for _, b := range branches {
			if b.standing() != rank {
				continue
			}
			if len(lines) < room {
				lines = append(lines, c.cut("  "+b.line(now, c.palette)))
			} else {
				left[rank]++
			}
		}
	}
	if rest := remaining(left); rest != "" {
		lines = append(lines, c.cut("  "+c.palette.faint.Render(rest)))
	}
	return lines
}

func remaining(left [4]int) string {
	var parts []string
	for rank, word := range []string{"not done", "running", "waiting", "done"} {
		if left[rank] > 0 {
			parts = append(parts, fmt.Sprintf("%d more %s", left[rank], word))
		}
	}
	return strings.Join(parts, ", ")
}

// line shows one instance: a mark for each step, and the words of the one that matters now.
func (b branch) line(now time.Time, p palette) string {
	marks := ""
	var at op.Step
	for _, s := range b.steps {
		if s.OnFailure {
			continue
		}
		marks += mark(s.State, p)
		if weight(s.State) > weight(at.State) {
			at = s
		}
	}
	name := b.name
	if name == "" {
		name = "(all)"
	}
	text := fmt.Sprintf("%-24s %s", name, marks)
	if at.ID == "" || at.State == step.Done {
		return text
	}
	text += "  " + stepLine(at, now, p)
	if at.Error != "" {
		text += "  " + p.bad.Render(at.Error)
	}
	return text
}

// weight says which step of an instance is worth a person's eye.
func weight(s step.State) int {
	switch s {
	case step.Failed, step.Refused:
		return 4
	case step.Unknown:
		return 3
	case step.Sent, step.Running:
		return 2
	case step.Waiting, step.Done, step.Cancelled, step.Skipped:
	}
	return 0
}

func (c canvas) cut(line string) string {
	if c.width <= 0 {
		return line
	}
	return lipgloss.NewStyle().MaxWidth(c.width).Render(line)
}

// took is a length of time as a person reads it: "0.4s", "12s", "3m04s".
func took(from, to time.Time) string {
	d := max(0, to.Sub(from))
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// eventText is one event for a log or a pipe.
func eventText(e op.Event) string {
	parts := []string{e.At.Local().Format("15:04:05")}
	if e.Step == "" {
		parts = append(parts, "operation", e.Operation, e.State)
	} else {
		parts = append(parts, e.Step, e.State)
	}
	if e.Node != "" {
		parts = append(parts, "on "+e.Node)
	}
	if e.DoneBytes > 0 {
		parts = append(parts, amount(op.Step{DoneBytes: e.DoneBytes, TotalBytes: e.TotalBytes, State: step.State(e.State)}))
	}
	for _, text := range []string{e.Note, e.Error} {
		if text != "" {
			parts = append(parts, text)
		}
	}
	return strings.Join(parts, "  ")
}

// caughtUp brings an operation up to an event; events must come in order and each once.
func caughtUp(o op.Shown, e op.Event) op.Shown {
	if e.Seq <= o.Operation.Seq {
		return o
	}
	o.Operation.Seq = e.Seq
	if e.Step == "" {
		o.Operation.State = op.State(e.State)
		if o.Operation.State.Ended() {
			o.Operation.EndedAt, o.Operation.Why = e.At, e.Error
			o.Operation.Counts = op.Count(o.Steps)
		}
		return o
	}
	for i, s := range o.Steps {
		if s.ID == e.Step {
			o.Steps[i] = moved(s, e)
		}
	}
	return o
}

func moved(s op.Step, e op.Event) op.Step {
	s.State, s.Placed, s.Attempt, s.Note, s.DoneBytes, s.TotalBytes = step.State(e.State), e.Node, e.Attempt, e.Note, e.DoneBytes, e.TotalBytes
	s.Error, s.Hint = e.Error, e.Hint
	if s.StartedAt.IsZero() && s.Attempt > 0 {
		s.StartedAt = e.At
	}
	if s.State.Final() {
		s.EndedAt = e.At
	}
	return s
}
