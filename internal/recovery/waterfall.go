package recovery

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strconv"
	"time"
)

// Sizes of the picture, in SVG user units.
const (
	labelWidth = 150.0
	chartWidth = 720.0
	rowHeight  = 22.0
	axisHeight = 26.0
)

// picture is the waterfall, ready to draw: one row an instance, time to the right.
type picture struct {
	Width, Height, Foot float64
	Left, Right         float64
	Rows                []pictureRow
	Ticks               []tick
	Marks               []mark
	Legend              []string
}

type pictureRow struct {
	Name          string
	Text          string // what a reader who cannot see it is told
	TextY         float64
	Y             float64
	Down          *bar
	Bars          []bar
	Right, Middle float64 // where the number stands
	Number        string
}

type bar struct {
	Class      string
	Title      string
	X, Y, W, H float64
}

type tick struct {
	X     float64
	Label string
}

type mark struct {
	X, Y  float64
	Label string
}

// phases in the order of a restore; they name the colours too.
func phases() []string { return []string{"place", "fetch", "load", "boot", "ready", "checks", "edge"} }

// draw lays the scorecard out. Without a single time there is nothing to draw.
func draw(card Scorecard) (picture, bool) {
	span, ok := extent(card)
	if !ok {
		return picture{}, false
	}
	p := picture{
		Left: labelWidth, Right: labelWidth + chartWidth, Width: labelWidth + chartWidth + 90,
		Foot: rowHeight*float64(len(card.Instances)) + axisHeight, Legend: phases(),
	}
	p.Height = p.Foot + 40
	at := func(t time.Time) float64 {
		return labelWidth + chartWidth*float64(t.Sub(span.From))/float64(span.To.Sub(span.From))
	}
	for i, instance := range card.Instances {
		p.Rows = append(p.Rows, drawRow(instance, axisHeight+rowHeight*float64(i), at))
	}
	p.Ticks = ticks(span, at)
	p.Marks = marks(card, at, p.Foot)
	return p, true
}

// extent is from the fault (or the first thing that happened) to the last.
func extent(card Scorecard) (Span, bool) {
	var span Span
	see := func(t time.Time) {
		if t.IsZero() {
			return
		}
		if span.From.IsZero() || t.Before(span.From) {
			span.From = t
		}
		if t.After(span.To) {
			span.To = t
		}
	}
	see(value(card.Fault.To))
	for _, i := range card.Instances {
		see(i.DownFrom)
		see(i.DownTo)
		for _, s := range i.Steps {
			see(s.Start)
			see(s.End)
		}
	}
	return span, span.To.After(span.From)
}

func drawRow(i InstanceCard, y float64, at func(time.Time) float64) pictureRow {
	row := pictureRow{Name: i.Name, Y: y, TextY: y + rowHeight*0.68, Number: Seconds(i.DowntimeSeconds), Text: describe(i)}
	row.Right = labelWidth + chartWidth + 6
	if !i.DownFrom.IsZero() && !i.DownTo.IsZero() {
		row.Down = &bar{Class: "down", Title: i.Name + " down " + Seconds(i.DowntimeSeconds), X: at(i.DownFrom), Y: y + 2, W: max(1, at(i.DownTo)-at(i.DownFrom)), H: rowHeight - 4}
	}
	for _, s := range i.Steps {
		if s.End.IsZero() {
			continue
		}
		class := s.Name
		if s.State != "done" {
			class = "broken"
		}
		row.Bars = append(row.Bars, bar{Class: class, Title: fmt.Sprintf("%s %s %s", i.Name, s.Name, Seconds(s.Seconds)), X: at(s.Start), Y: y + 6, W: max(0.8, at(s.End)-at(s.Start)), H: rowHeight - 12})
	}
	return row
}

func describe(i InstanceCard) string {
	text := i.Name + ": down " + Seconds(i.DowntimeSeconds) + ", restored in " + Seconds(i.RestoreSeconds)
	for _, s := range i.Steps {
		text += ", " + s.Name + " " + Seconds(s.Seconds)
	}
	return text
}

// ticks puts about eight round times on the axis.
func ticks(span Span, at func(time.Time) float64) []tick {
	every := roundStep(span.To.Sub(span.From) / 8)
	var all []tick
	for d := time.Duration(0); d <= span.To.Sub(span.From); d += every {
		all = append(all, tick{at(span.From.Add(d)), axisLabel(d)})
	}
	return all
}

// roundStep is the next longer time that a clock has a mark for.
func roundStep(d time.Duration) time.Duration {
	for _, s := range []time.Duration{
		10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond,
		time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second,
		time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour,
	} {
		if d <= s {
			return s
		}
	}
	return d.Truncate(time.Hour) + time.Hour
}

func axisLabel(d time.Duration) string {
	if d < time.Minute {
		return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + " s"
	}
	return fmt.Sprintf("%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

// marks are the moments of the whole run, their words one below the other so that near moments can be read.
func marks(card Scorecard, at func(time.Time) float64, foot float64) []mark {
	var all []mark
	add := func(t time.Time, label string) {
		if !t.IsZero() {
			all = append(all, mark{at(t), foot + 10*float64(len(all)+1), label})
		}
	}
	add(value(card.Fault.To), "fault")
	if card.DetectSeconds != nil {
		add(value(card.Fault.From).Add(time.Duration(*card.DetectSeconds*float64(time.Second))), "detected")
	}
	add(card.DeclaredAt, "declared")
	return all
}

// Seconds shows a measured number of seconds for a person; what was not measured is "unknown".
func Seconds(v *float64) string {
	switch {
	case v == nil:
		return "unknown"
	case *v >= 90:
		return fmt.Sprintf("%dm%02ds", int(*v)/60, int(*v)%60)
	}
	return strconv.FormatFloat(*v, 'f', 1, 64) + " s"
}

//go:embed waterfall.svg.tmpl
var waterfallTemplate string

//go:embed report.html.tmpl
var reportTemplate string

// Waterfall draws the restore of every instance as an inline SVG, for the report and the web. It is empty when
// nothing has a time yet. Its colours are the classes of the report's style sheet: WaterfallStyle.
func Waterfall(card Scorecard) (template.HTML, error) {
	p, ok := draw(card)
	if !ok {
		return "", nil
	}
	t, err := template.New("waterfall").Parse(waterfallTemplate)
	if err != nil {
		return "", fmt.Errorf("read waterfall template: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, p); err != nil {
		return "", fmt.Errorf("draw waterfall: %w", err)
	}
	return template.HTML(out.String()), nil // #nosec G203 -- html/template has escaped every value in it
}

// WriteHTML writes the whole report as one file that needs nothing else: no script, no font, no picture from outside.
func WriteHTML(w io.Writer, card Scorecard) error {
	svg, err := Waterfall(card)
	if err != nil {
		return err
	}
	t, err := template.New("report").Funcs(template.FuncMap{
		"seconds": Seconds, "count": Count[int64], "commands": Count[int], "yes": YesNo, "moment": moment, "percent": percent, "left": left,
	}).Parse(reportTemplate)
	if err != nil {
		return fmt.Errorf("read report template: %w", err)
	}
	return t.Execute(w, map[string]any{"Card": card, "Waterfall": svg, "Style": WaterfallStyle()})
}

// Count shows a counted number; what nobody counted is "unknown".
func Count[T int | int64](v *T) string {
	if v == nil {
		return "unknown"
	}
	return strconv.FormatInt(int64(*v), 10)
}

// YesNo shows a fact; what is not known is "unknown".
func YesNo(v *bool) string {
	switch {
	case v == nil:
		return "unknown"
	case *v:
		return "yes"
	}
	return "no"
}

func moment(t any) string {
	switch at := t.(type) {
	case time.Time:
		if !at.IsZero() {
			return at.UTC().Format("2006-01-02 15:04:05.000 UTC")
		}
	case *time.Time:
		if at != nil {
			return moment(*at)
		}
	}
	return "unknown"
}

// left says what a fault left behind.
func left(residue *string) string {
	switch {
	case residue == nil:
		return "unknown"
	case *residue == "":
		return "nothing"
	}
	return *residue
}

func percent(part, whole int) string {
	if whole == 0 {
		return "unknown"
	}
	return fmt.Sprintf("%d %%", 100*part/whole)
}

//go:embed waterfall.css
var waterfallStyle string

// WaterfallStyle is the style sheet of the waterfall, in light and dark.
func WaterfallStyle() template.CSS { return template.CSS(waterfallStyle) } // #nosec G203 -- a file of ours
