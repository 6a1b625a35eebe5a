//go:build !slim

package cli

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/op"
	"holdfast/internal/step"
)

var update = flag.Bool("update", false, "write the golden files anew")

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", "op", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// restoreOf is a restore of some instances: the first has failed, the second is done, the third runs, the rest waits.
func restoreOf(names ...string) op.Shown {
	o := op.Shown{Operation: op.Operation{ID: "7f3c2a9k", Title: "restore", State: op.Running, CreatedAt: began}}
	for n, name := range names {
		kinds := []step.Kind{step.Fetch, step.Load, step.Checks, step.Discard, step.Switch}
		states := [][]step.State{
			{step.Done, step.Done, step.Failed, step.Done, step.Cancelled},
			{step.Done, step.Done, step.Done, step.Skipped, step.Done},
			{step.Done, step.Running, step.Waiting, step.Waiting, step.Waiting},
			{step.Waiting, step.Waiting, step.Waiting, step.Waiting, step.Waiting},
		}[min(n, 3)]
		for i, kind := range kinds {
			s := op.Step{ID: name + "/" + string(kind), Kind: kind, Instance: name, State: states[i], OnFailure: kind == step.Discard}
			if s.State != step.Waiting && s.State != step.Cancelled {
				s.Attempt, s.Placed, s.StartedAt = 1, "b1", began.Add(time.Duration(i)*time.Second)
			}
			if s.State.Final() && s.Attempt > 0 {
				s.EndedAt = s.StartedAt.Add(time.Second)
			}
			switch s.State {
			case step.Failed:
				s.Error, s.Hint = "2 of 5 checks did not hold: documents 12, want 14", "holdfast op show 7f3c2a9k"
			case step.Running:
				s.DoneBytes, s.TotalBytes, s.Note = 5<<20, 20<<20, "3 of 9 files"
			case step.Cancelled:
				s.Note = "needs acme/checks, which is failed"
			default: // nothing to say
			}
			o.Steps = append(o.Steps, s)
		}
	}
	return o
}

func TestTreeOfAFewInstancesShowsEveryStep(t *testing.T) {
	golden(t, "few.txt", drawTree(restoreOf("acme", "bolt", "corp"), began.Add(83*time.Second), canvas{}))
}

func TestTreeOfManyInstancesShowsFirstWhatMatters(t *testing.T) {
	names := strings.Split("acme bolt corp dune echo fern gale", " ")
	golden(t, "many.txt", drawTree(restoreOf(names...), began.Add(83*time.Second), canvas{width: 100, height: 7}))
}

func TestTreeNeverIsWiderThanTheTerminal(t *testing.T) {
	for _, width := range []int{1, 20, 40, 79} {
		for line := range strings.Lines(drawTree(restoreOf("acme", "bolt", "corp", "dune"), began.Add(time.Hour), canvas{width: width, palette: colours()})) {
			plain := stripANSI(line)
			if n := len([]rune(strings.TrimSuffix(plain, "\n"))); n > width {
				t.Errorf("width %d: %d wide: %q", width, n, plain)
			}
		}
	}
}

func stripANSI(text string) string {
	var out strings.Builder
	inside := false
	for _, r := range text {
		switch {
		case r == '\x1b':
			inside = true
		case inside:
			inside = r != 'm'
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}

func TestFollowingEventsGivesWhatTheServerShows(t *testing.T) {
	o := restoreOf("acme", "bolt", "corp")
	for n, e := range []op.Event{
		{Step: "corp/load", State: "done", Node: "b1", Attempt: 1},
		{Step: "corp/load", State: "done", Node: "b1", Attempt: 1}, // again: seen already
		{Step: "corp/checks", State: "running", Node: "b1", Attempt: 1, Note: "begun"},
		{State: "partly", Error: "acme/checks on b1: it failed"},
	} {
		e.Seq, e.At = int64(max(1, n)), began.Add(time.Duration(n)*time.Minute)
		o = caughtUp(o, e)
	}
	load, checks := o.Steps[11], o.Steps[12]
	if load.State != step.Done || !load.EndedAt.Equal(began) || checks.State != step.Running || !checks.StartedAt.Equal(began.Add(2*time.Minute)) {
		t.Errorf("load %+v, checks %+v", load, checks)
	}
	if o.Operation.State != op.Partly || o.Operation.Counts.InstancesDone != 1 || o.Operation.Counts.Instances != 3 || o.Operation.Seq != 3 {
		t.Errorf("operation %+v", o.Operation)
	}
}

func TestEventTextIsOneLine(t *testing.T) {
	e := op.Event{At: began, Operation: "7f3c2a9k", Step: "acme/fetch", State: "running", Node: "b1", DoneBytes: 1 << 20, TotalBytes: 4 << 20, Note: "3 of 9 files"}
	want := began.Local().Format("15:04:05") + "  acme/fetch  running  on b1  1.0 MiB of 4.0 MiB  3 of 9 files"
	if got := eventText(e); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
