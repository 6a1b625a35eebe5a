package web

import (
	"net/http"
	"strings"
	"time"
)

// Drill is one drill or recovery as the list shows it. A nil number was not measured.
type Drill struct {
	ID, Plan, Scenario, Phase, Verdict string
	Instances                          int
	DowntimeP95, LossMax               *float64 // seconds
	Started                            time.Time
}

type drillsView struct{ Drills []drillRow }

type drillRow struct {
	ID, Plan, Scenario, Phase, Verdict, Downtime, Loss, Started string
	Tone                                                        tone
	Instances                                                   int
}

func (w *Web) drills(rw http.ResponseWriter, r *http.Request) {
	list, err := w.Drills(r.Context())
	if err != nil {
		w.fail(rw, r, err)
		return
	}
	var view drillsView
	for _, d := range list {
		view.Drills = append(view.Drills, drawDrill(d, w.now()))
	}
	w.draw(rw, r, "drills", "Drills", view)
}

func drawDrill(d Drill, now time.Time) drillRow {
	row := drillRow{ID: d.ID, Plan: d.Plan, Scenario: d.Scenario, Phase: d.Phase, Verdict: d.Verdict, Instances: d.Instances,
		Downtime: seconds(d.DowntimeP95), Loss: seconds(d.LossMax), Started: age(d.Started, now)}
	switch d.Verdict {
	case "pass":
		row.Tone = good
	case "fail":
		row.Tone = bad
	default:
		row.Tone, row.Verdict = busy, "under way"
	}
	return row
}

func seconds(s *float64) string {
	if s == nil {
		return "unknown"
	}
	return span(time.Duration(*s * float64(time.Second)))
}

func (w *Web) drill(rw http.ResponseWriter, r *http.Request) {
	list, err := w.Drills(r.Context())
	if err != nil {
		w.fail(rw, r, err)
		return
	}
	for _, d := range list {
		if d.ID == r.PathValue("id") {
			w.draw(rw, r, "drill", d.Plan, drawDrill(d, w.now()))
			return
		}
	}
	http.NotFound(rw, r)
}

// report serves a scorecard by itself, in the form that its name's ending asks for.
func (w *Web) report(rw http.ResponseWriter, r *http.Request) {
	types := map[string]string{"report.html": "text/html; charset=utf-8", "scorecard.json": "application/json", "scorecard.md": "text/markdown; charset=utf-8"}
	file := r.PathValue("file")
	kind, ok := types[file]
	if !ok {
		http.NotFound(rw, r)
		return
	}
	_, format, _ := strings.Cut(file, ".")
	body, err := w.Report(r.Context(), r.PathValue("id"), format)
	if err != nil {
		w.fail(rw, r, err)
		return
	}
	rw.Header().Set("Content-Type", kind)
	_, _ = rw.Write(body) // the browser went away: nobody is left to tell
}
