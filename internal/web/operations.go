package web

import (
	"fmt"
	"net/http"
	"time"

	"holdfast/internal/op"
	"holdfast/internal/step"
)

// Operation and Step are what the pages show of an operation.
type (
	Operation = op.Operation
	Step      = op.Step
)

type operationRow struct {
	ID, Title, State, Steps, Actor, Started, Took, Outcome string
	Tone                                                   tone
	Percent                                                int
}

type operationsView struct{ Operations []operationRow }

func (w *Web) operations(rw http.ResponseWriter, r *http.Request) {
	list, err := w.Operations(r.Context())
	if err != nil {
		w.fail(rw, r, err)
		return
	}
	w.draw(rw, r, "operations", "Operations", operationsView{drawOperations(list, w.now())})
}

func drawOperations(list []Operation, now time.Time) []operationRow {
	rows := make([]operationRow, len(list))
	for i, o := range list {
		rows[i] = drawOperation(o, now)
	}
	return rows
}

func drawOperation(o Operation, now time.Time) operationRow {
	end := o.EndedAt
	if end.IsZero() {
		end = now
	}
	return operationRow{
		ID: o.ID, Title: o.Title, State: string(o.State), Tone: toneOfOperation(o.State), Actor: o.Actor, Outcome: o.Why,
		Steps:   fmt.Sprintf("%d of %d steps", o.Counts.Done, o.Counts.Steps),
		Percent: percent(int64(o.Counts.Done), int64(o.Counts.Steps)),
		Started: age(o.CreatedAt, now), Took: span(end.Sub(o.CreatedAt)),
	}
}

func toneOfOperation(s op.State) tone {
	switch s {
	case op.Running, op.Cancelling:
		return busy
	case op.Done:
		return good
	case op.Failed:
		return bad
	case op.Partly:
		return warn
	case op.Unknown:
		return unknown
	case op.Cancelled:
		return off
	}
	return unknown
}

type operationView struct {
	Operation operationRow
	Groups    []stepGroup
}

// stepGroup is the steps of one instance, in their order.
type stepGroup struct {
	Name     string
	Instance bool // Name is an instance's
	Steps    []stepRow
}

type stepRow struct {
	ID, Kind, State, Node, Note, Error, Took string
	Tone                                     tone
	Moving                                   bool // bytes are on their way; Percent of them are there
	Percent                                  int
}

func (w *Web) operation(rw http.ResponseWriter, r *http.Request) {
	o, steps, err := w.Operation(r.Context(), r.PathValue("id"))
	if err != nil {
		w.fail(rw, r, err)
		return
	}
	view := operationView{Operation: drawOperation(o, w.now()), Groups: drawSteps(steps, w.now())}
	w.draw(rw, r, "operation", o.Title, view)
}

func drawSteps(steps []Step, now time.Time) []stepGroup {
	var groups []stepGroup
	at := map[string]int{}
	for _, s := range steps {
		name := s.Instance
		if name == "" {
			name = "for all"
		}
		i, ok := at[name]
		if !ok {
			i = len(groups)
			at[name] = i
			groups = append(groups, stepGroup{Name: name, Instance: s.Instance != ""})
		}
		groups[i].Steps = append(groups[i].Steps, drawStep(s, now))
	}
	return groups
}

func drawStep(s Step, now time.Time) stepRow {
	row := stepRow{ID: s.ID, Kind: string(s.Kind), State: string(s.State), Tone: toneOfStep(s.State), Node: s.Placed, Note: s.Note, Error: s.Error}
	if row.Node == "" {
		row.Node = s.Node
	}
	if row.Note == "" {
		row.Note = s.Title
	}
	if s.TotalBytes > 0 {
		row.Moving, row.Percent = s.State == step.Running, percent(s.DoneBytes, s.TotalBytes)
		row.Note += fmt.Sprintf(" (%s of %s)", size(s.DoneBytes), size(s.TotalBytes))
	}
	if !s.StartedAt.IsZero() {
		end := s.EndedAt
		if end.IsZero() {
			end = now
		}
		row.Took = span(end.Sub(s.StartedAt))
	}
	return row
}

func toneOfStep(s step.State) tone {
	switch s {
	case step.Waiting, step.Cancelled, step.Skipped:
		return off
	case step.Sent, step.Running:
		return busy
	case step.Done:
		return good
	case step.Failed, step.Refused:
		return bad
	case step.Unknown:
		return unknown
	}
	return unknown
}
