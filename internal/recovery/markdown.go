package recovery

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// WriteJSON writes scorecard.json.
func WriteJSON(w io.Writer, c Scorecard) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(c)
}

// WriteMarkdown writes the scorecard for a logbook or a ticket.
func WriteMarkdown(w io.Writer, c Scorecard) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s: %s\n\n", cell(c.Plan), c.Verdict)
	fmt.Fprintf(&b, "%s %s, %s. Computed %s from events alone; what was not measured says unknown.\n\n", titled(c.Kind), cell(c.ID), cell(c.Scenario), moment(c.ScoredAt))
	bullets(&b, "Why it did not pass", c.Reasons)
	b.WriteString("| measured | |\n|---|---|\n")
	for _, r := range Rows(c) {
		fmt.Fprintf(&b, "| %s | %s |\n", r[0], cell(r[1]))
	}
	b.WriteString("\n| instance | tier | from | to | snapshot | down | restore | lost | checks | steps |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, i := range c.Instances {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %d/%d | %s |\n", cell(i.Name), cell(i.Tier), cell(i.FromNode), cell(i.ToNode), cell(i.Snapshot),
			Seconds(i.DowntimeSeconds), Seconds(i.RestoreSeconds), Seconds(i.DataLossSeconds), i.ChecksPassed, i.ChecksRequired, stepsLine(i.Steps))
	}
	b.WriteString("\n")
	bullets(&b, "Not measured", c.Unknown)
	_, err := io.WriteString(w, b.String())
	return err
}

// Rows are the numbers of the whole run with their names, in the order in which they are shown.
func Rows(c Scorecard) [][2]string {
	three := func(s Summary) string {
		text := fmt.Sprintf("p50 %s, p95 %s, max %s", Seconds(s.P50), Seconds(s.P95), Seconds(s.Max))
		if s.Unknown > 0 {
			text += fmt.Sprintf(" (%d unknown)", s.Unknown)
		}
		return text
	}
	return [][2]string{
		{"detect", Seconds(c.DetectSeconds)},
		{"declare", Seconds(c.DeclareSeconds)},
		{"recover", Seconds(c.RecoverSeconds)},
		{"downtime", three(c.DowntimeSeconds)},
		{"restore", three(c.RestoreSeconds)},
		{"data loss", three(c.DataLossSeconds)},
		{"two writers", Seconds(c.TwoWriterSeconds)},
		{"manual commands", Count(c.ManualCommands)},
		{"checks passed", fmt.Sprintf("%d of %d", c.ChecksPassed, c.ChecksRequired)},
		{"documents found", Count(c.DocumentsFound) + " of " + Count(c.DocumentsExpected)},
		{"files found", Count(c.FilesFound) + " of " + Count(c.FilesExpected)},
		{"fenced after return", YesNo(c.FencedAfterReturn)},
	}
}

func titled(k Kind) string {
	if k == Drill {
		return "Drill"
	}
	return "Recovery"
}

func bullets(b *strings.Builder, title string, list []string) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(b, "## %s\n\n", title)
	for _, l := range list {
		fmt.Fprintf(b, "- %s\n", cell(l))
	}
	b.WriteString("\n")
}

func stepsLine(steps []StepCard) string {
	var parts []string
	for _, s := range steps {
		parts = append(parts, s.Name+" "+Seconds(s.Seconds))
	}
	return strings.Join(parts, ", ")
}

// cell keeps text inside its table cell and line.
func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;").Replace(s)
}
