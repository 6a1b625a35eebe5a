package recovery

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/fleet"
	"holdfast/internal/step"
)

var update = flag.Bool("update", false, "write the golden files anew")

// t0 is the moment of the fault in every story here.
var t0 = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func sec(s float64) time.Time { return t0.Add(time.Duration(s * float64(time.Second))) }

// restored is the steps of one instance, one after the other from begin, each as long as told.
func restored(instance, node string, begin float64, lengths ...float64) []StepRecord {
	kinds := []step.Kind{step.Claim, step.Release, step.Fetch, step.Load, step.Boot, step.Ready, step.Checks, step.Switch, step.Route}
	var all []StepRecord
	for i, kind := range kinds {
		length := 0.5
		if i < len(lengths) {
			length = lengths[i]
		}
		r := StepRecord{ID: instance + "/" + string(kind), Kind: kind, Instance: instance, State: step.Done, StartedAt: sec(begin), EndedAt: sec(begin + length)}
		switch kind {
		case step.Fetch:
			r.Node, r.Result = node, encode(step.FetchResult{CanarySeq: 95, CanaryAt: sec(-25), Release: "notes/v1"})
		case step.Checks:
			r.Node, r.Result = node, encode(step.ChecksResult{Passed: 3, Required: 3})
		case step.Claim, step.Release, step.Route:
		default:
			r.Node = node
		}
		all = append(all, r)
		begin += length
	}
	return all
}

func encode(v any) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

// asked is what two probes saw of an instance, one result a second in turns, bad between the two moments.
func asked(instance string, badFrom, badTo, until float64) []ProbeResult {
	var all []ProbeResult
	for i := 0; ; i++ {
		at := -5 + float64(i)
		if at > until {
			return all
		}
		all = append(all, ProbeResult{Instance: instance, Probe: fmt.Sprintf("p%d", i%2+1), OK: at < badFrom || at >= badTo, At: sec(at), Interval: 2 * time.Second})
	}
}

func served(node, instance string, epoch int64, kind string, at float64) NodeEvent {
	return NodeEvent{Node: node, Kind: kind, Instance: instance, Epoch: epoch, At: sec(at)}
}

// story is a drill that kills the two nodes of paris and rebuilds two instances in lyon.
func story() Input {
	in := Input{
		ID: "d7", Kind: Drill, Scenario: "site_lost paris", Fault: "kill", Now: sec(60),
		Plan: fleet.RecoveryPlan{Name: "lose-paris", Scenario: fleet.SiteLost, Lost: "paris"},
		Members: []Member{
			{Instance: "acme", Tier: "gold", RTO: 30 * time.Second, RPO: time.Minute, FromNode: "paris1", FromSite: "paris", Epoch: 4},
			{Instance: "globex", Tier: "silver", Rank: 1, RTO: time.Minute, RPO: time.Minute, FromNode: "paris2", FromSite: "paris", Epoch: 1},
		},
		Events: []Event{
			{At: sec(-9), Kind: EventStarted}, {At: sec(-2), Kind: EventArmed, Node: "paris1"}, {At: sec(-2), Kind: EventArmed, Node: "paris2"},
			{At: sec(0), Kind: EventFired, Node: "paris1"}, {At: sec(0.2), Kind: EventFired, Node: "paris2"},
			{At: sec(4), Kind: EventDeclared, Note: "op9"}, {At: sec(50), Kind: EventUndone, Node: "paris1"}, {At: sec(50.5), Kind: EventUndone, Node: "paris2"},
			{At: sec(52), Kind: EventResidue},
			{At: sec(55), Kind: EventCounted, Counts: &Counts{DocumentsExpected: new(int64(240)), DocumentsFound: new(int64(240)), FilesExpected: new(int64(24)), FilesFound: new(int64(24))}},
		},
		Steps:    append(restored("acme", "lyon1", 4, 0.2, 0.3, 6, 2, 1, 2, 0.5, 0.2, 1), restored("globex", "lyon2", 4.2, 0.2, 0.3, 9, 3, 1, 2, 0.5, 0.2, 1)...),
		Results:  append(asked("acme", 1, 17, 60), asked("globex", 2, 21, 60)...),
		Commands: []Command{},
		Snapshots: map[string]Snapshot{
			"acme":   {ID: "7f3c", Instance: "acme", TakenAt: sec(-25), CanaryFrom: 94, CanaryTo: 96},
			"globex": {ID: "11aa", Instance: "globex", TakenAt: sec(-25), CanaryFrom: 95, CanaryTo: 95},
		},
	}
	for _, m := range in.Members {
		in.NodeEvents = append(in.NodeEvents,
			served(m.FromNode, m.Instance, m.Epoch, NodeServingStarted, -3600),
			NodeEvent{Node: m.FromNode, Kind: NodeFaultFired, At: sec(0.2)},
			served(strings.Replace(m.FromNode, "paris", "lyon", 1), m.Instance, m.Epoch+1, NodeServingStarted, 15),
			NodeEvent{Node: m.FromNode, Kind: NodeUndoFired, At: sec(50)},
			served(m.FromNode, m.Instance, m.Epoch, NodeFenced, 51))
	}
	return in
}

func TestScoreOfAGoodDrill(t *testing.T) {
	card := Score(story())
	if card.Verdict != Pass {
		t.Errorf("verdict %s because %q", card.Verdict, card.Reasons)
	}
	if len(card.Unknown) > 0 {
		t.Errorf("unknown: %q", card.Unknown)
	}
	acme := card.Instances[0]
	for name, pair := range map[string][2]*float64{
		"detect":       {card.DetectSeconds, new(2.0)}, // acme is bad at 1 and 2, and one of two is 50 %
		"acme down":    {acme.DowntimeSeconds, new(16.0)},
		"acme restore": {acme.RestoreSeconds, new(13.2)},
		"acme lost":    {acme.DataLossSeconds, new(25.0)},
		"two writers":  {card.TwoWriterSeconds, new(0.0)},
		"down p50":     {card.DowntimeSeconds.P50, new(16.0)},
		"down max":     {card.DowntimeSeconds.Max, new(19.0)},
	} {
		if d := cmp.Diff(pair[1], pair[0]); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	var bars []string
	for _, s := range acme.Steps {
		bars = append(bars, s.Name)
	}
	if d := cmp.Diff(phases(), bars); d != "" {
		t.Error(d)
	}
}

// Every way in which a drill can be worse than it looks must turn the card red with its own reason.
func TestScoreFailsWith(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Input)
		want   string
	}{
		"a command by hand":      {func(in *Input) { in.Commands = []Command{{Actor: "ann", What: "restore acme"}} }, "people gave 1 commands by hand"},
		"nobody looked for them": {func(in *Input) { in.Commands = nil }, "it is not known how many commands people gave by hand"},
		"a document missing": {func(in *Input) {
			in.Events = append(in.Events, Event{Kind: EventCounted, Counts: &Counts{DocumentsFound: new(int64(239))}})
		}, "239 of 240 documents were found"},
		"a late instance": {func(in *Input) { in.Members[0].RTO = 10 * time.Second }, "acme: it was down for 16.0 s, the plan allows 10.0 s"},
		"an old backup":   {func(in *Input) { in.Members[1].RPO = 20 * time.Second }, "globex: it lost 25.0 s of data, the plan allows 20.0 s"},
		"a stale restore": {func(in *Input) {
			in.Snapshots["acme"] = Snapshot{ID: "7f3c", CanaryFrom: 97, CanaryTo: 98}
		}, "acme: check canary passed 0 of 1: the restored tick 95 is older than the snapshot's 97"},
		"a restore from the living": {func(in *Input) {
			in.Snapshots["acme"] = Snapshot{ID: "7f3c", CanaryFrom: 90, CanaryTo: 94}
		}, "acme: check canary passed 0 of 1: the restored tick 95 is newer than the snapshot's 94"},
		"a failed invariant": {func(in *Input) {
			for i, s := range in.Steps {
				if s.ID == "acme/checks" {
					in.Steps[i].Result = encode(step.ChecksResult{Passed: 2, Required: 3, Failures: []string{"notes-count: 0 rows"}})
				}
			}
		}, "acme: check invariants passed 2 of 3: notes-count: 0 rows"},
		"the old site served on": {func(in *Input) {
			in.NodeEvents = slices.DeleteFunc(in.NodeEvents, func(e NodeEvent) bool { return e.Kind == NodeFaultFired })
			in.NodeEvents = append(in.NodeEvents, served("paris1", "acme", 4, NodeServingStopped, 18), served("paris2", "globex", 1, NodeServingStopped, 0))
		}, "two sites could have taken writes for 3.0 s"},
		"nobody knows when the old site ended": {func(in *Input) {
			in.NodeEvents = slices.DeleteFunc(in.NodeEvents, func(e NodeEvent) bool { return e.Kind == NodeFaultFired || e.Kind == NodeFenced })
		}, "it is not known whether two sites could have taken writes"},
		"an old node serves again": {func(in *Input) {
			in.NodeEvents = append(in.NodeEvents, served("paris1", "acme", 4, NodeServingStarted, 51), served("paris1", "acme", 4, NodeServingStopped, 51))
		}, "a node that came back served an instance that lives elsewhere"},
		"a node that stayed away": {func(in *Input) {
			in.NodeEvents = slices.DeleteFunc(in.NodeEvents, func(e NodeEvent) bool { return e.Node == "paris2" && e.At.After(sec(5)) })
		}, "it is not known whether the lost nodes stay fenced"},
		"a fault that stays": {func(in *Input) {
			in.Events = append(in.Events, Event{Kind: EventResidue, Note: "paris1: rule drop-all"})
		}, "the fault left something behind: paris1: rule drop-all"},
		"an end nobody confirmed": {func(in *Input) {
			in.Events = slices.DeleteFunc(in.Events, func(e Event) bool { return e.Kind == EventUndone })
		}, "the end of the fault was not confirmed"},
		"blind probes": {func(in *Input) { in.Results = nil }, "acme: its downtime is not known"},
		"down to the end": {func(in *Input) {
			in.Results = append(asked("acme", 1, 999, 60), asked("globex", 2, 21, 60)...)
		}, "acme: check outside passed 0 of 1: outside probes have not seen it back"},
		"a step that failed": {func(in *Input) {
			in.Steps = slices.DeleteFunc(in.Steps, func(s StepRecord) bool { return s.ID == "acme/route" || s.ID == "acme/switch" })
		}, "acme: it was not restored to the end"},
		"nothing in scope": {func(in *Input) { in.Members = nil }, "no instance was in scope"},
	} {
		t.Run(name, func(t *testing.T) {
			in := story()
			c.change(&in)
			card := Score(in)
			if card.Verdict != Fail || !slices.Contains(card.Reasons, c.want) {
				t.Errorf("verdict %s, reasons %q, want %q", card.Verdict, card.Reasons, c.want)
			}
		})
	}
}

// After a real loss there is no fired event: the fault lies between the last good answer and the first bad one.
func TestScoreOfARealLoss(t *testing.T) {
	in := story()
	in.Kind, in.Fault = Real, ""
	in.Events = []Event{{At: sec(4), Kind: EventDeclared}}
	in.NodeEvents = slices.DeleteFunc(in.NodeEvents, func(e NodeEvent) bool { return strings.HasPrefix(e.Node, "paris") })
	card := Score(in)
	if card.Verdict != Pass {
		t.Errorf("verdict %s because %q", card.Verdict, card.Reasons)
	}
	if from, to := *card.Fault.From, *card.Fault.To; !from.Equal(sec(0)) || !to.Equal(sec(1)) {
		t.Errorf("fault between %s and %s", from, to)
	}
	if card.FencedAfterReturn != nil {
		t.Errorf("fenced is %v although nobody came back", *card.FencedAfterReturn)
	}
	if d := cmp.Diff(new(26.0), card.Instances[0].DataLossSeconds); d != "" {
		t.Errorf("the loss counts to the end of the span: %s", d)
	}
}

func TestScorecardHoldsTheFieldsOfItsContract(t *testing.T) {
	text, err := json.Marshal(Score(story()))
	if err != nil {
		t.Fatal(err)
	}
	var card map[string]any
	if err := json.Unmarshal(text, &card); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"plan", "scenario", "verdict", "instances", "detect_seconds", "declare_seconds", "downtime_seconds", "data_loss_seconds",
		"manual_commands", "two_writer_seconds", "documents_expected", "documents_found", "files_expected", "files_found", "fenced_after_return"} {
		if _, ok := card[field]; !ok {
			t.Errorf("scorecard.json has no %s", field)
		}
	}
	instance := card["instances"].([]any)[0].(map[string]any)
	for _, field := range []string{"name", "downtime_seconds", "restore_seconds", "data_loss_seconds", "snapshot", "from_node", "to_node", "checks_passed", "checks_required", "steps"} {
		if _, ok := instance[field]; !ok {
			t.Errorf("an instance of scorecard.json has no %s", field)
		}
	}
}

func TestForms(t *testing.T) {
	good := Score(story())
	bad := story()
	bad.Results, bad.Commands = nil, []Command{{At: sec(9), Actor: "<ann>", What: "restore | acme"}}
	for name, write := range map[string]func(*bytes.Buffer) error{
		"good.json": func(b *bytes.Buffer) error { return writeJSON(b, good) },
		"good.md":   func(b *bytes.Buffer) error { return WriteMarkdown(b, good) },
		"good.html": func(b *bytes.Buffer) error { return WriteHTML(b, good) },
		"bad.md":    func(b *bytes.Buffer) error { return WriteMarkdown(b, Score(bad)) },
		"bad.html":  func(b *bytes.Buffer) error { return WriteHTML(b, Score(bad)) },
		"none.html": func(b *bytes.Buffer) error { return WriteHTML(b, Score(Input{Kind: Real, Now: t0})) },
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := write(&got); err != nil {
				t.Fatal(err)
			}
			golden(t, name, got.Bytes())
		})
	}
}

func writeJSON(b *bytes.Buffer, v any) error {
	enc := json.NewEncoder(b)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Error(d)
	}
}

func TestReportNeedsNothingElse(t *testing.T) {
	var b bytes.Buffer
	if err := WriteHTML(&b, Score(story())); err != nil {
		t.Fatal(err)
	}
	for _, outside := range []string{"http://", "https://", "src=", "<script", "<link", "@import", "url("} {
		if strings.Contains(b.String(), outside) {
			t.Errorf("the report reaches outside: %s", outside)
		}
	}
}

// Bars of an instance stand one after the other, so together they fit into its restore time; p50 <= p95 <= max; and
// a number is known exactly when every part of it is.
func TestScoreAddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := story()
		in.Steps, in.Results = nil, nil
		length := rapid.Float64Range(0, 20)
		for _, m := range in.Members {
			in.Steps = append(in.Steps, restored(m.Instance, "lyon1", rapid.Float64Range(3, 9).Draw(t, "begin"), rapid.SliceOfN(length, 9, 9).Draw(t, "lengths")...)...)
			in.Results = append(in.Results, asked(m.Instance, rapid.Float64Range(0, 3).Draw(t, "bad from"), rapid.Float64Range(4, 70).Draw(t, "bad to"), 60)...)
		}
		card := Score(in)
		for _, i := range card.Instances {
			total := 0.0
			for _, s := range i.Steps {
				total += *s.Seconds
			}
			if total > *i.RestoreSeconds+0.01 {
				t.Fatalf("%s: bars %.3f s, restore %.3f s", i.Name, total, *i.RestoreSeconds)
			}
		}
		for _, s := range []Summary{card.DowntimeSeconds, card.RestoreSeconds, card.DataLossSeconds} {
			if s.Measured > 0 && (*s.P50 > *s.P95 || *s.P95 > *s.Max) {
				t.Fatalf("p50 %v p95 %v max %v", *s.P50, *s.P95, *s.Max)
			}
			if s.Measured+s.Unknown != len(in.Members) {
				t.Fatalf("%d measured and %d unknown", s.Measured, s.Unknown)
			}
		}
	})
}

// What the bars cover and what was waited make the restore, however the steps lie: looked at every tenth of a second.
func TestBarsAndWaitingMakeTheRestore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		steps := restored("acme", "lyon1", 0)
		var covered [2000]bool
		last := 0
		for i := range steps {
			from := rapid.IntRange(0, 900).Draw(t, "from")
			to := from + rapid.IntRange(1, 300).Draw(t, "length")
			steps[i].StartedAt, steps[i].EndedAt = sec(float64(from)/10), sec(float64(to)/10)
		}
		bars := waterfall(steps)
		tenths := func(at time.Time) int { return int(at.Sub(t0).Round(100*time.Millisecond) / (100 * time.Millisecond)) }
		begin := tenths(bars[0].Start)
		sum := 0.0
		for _, b := range bars {
			sum += *b.Seconds
			from, to := tenths(b.Start), tenths(b.End)
			for i := from; i < to; i++ {
				covered[i] = true
			}
			last = max(last, to)
		}
		busy := 0
		for _, c := range covered {
			if c {
				busy++
			}
		}
		restore := restoreTime(bars)
		waiting := waitingTime(bars, restore)
		if near := float64(busy)/10 + *waiting; math.Abs(near-*restore) > 0.01 || math.Abs(*restore-float64(last-begin)/10) > 0.01 {
			t.Fatalf("bars cover %d tenths, waited %.1f s, restore %.1f s of %d tenths", busy, *waiting, *restore, last-begin)
		}
		if sum+*waiting < *restore-0.01 {
			t.Fatalf("bars of %.1f s and %.1f s of waiting leave a gap in %.1f s", sum, *waiting, *restore)
		}
	})
}

// With one good answer to be back, an instance is down from every bad answer to the next question, and at no other time.
func TestDowntimeIsTheTimeOfBadAnswers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := story()
		in.Plan.Normal.Good = 1
		in.Results = nil
		want, at, ok := 0.0, 0.0, true
		for range rapid.IntRange(1, 40).Draw(t, "questions") {
			gap := float64(rapid.IntRange(1, 10).Draw(t, "gap")) / 10
			if !ok {
				want += gap
			}
			at, ok = at+gap, rapid.Bool().Draw(t, "ok")
			in.Results = append(in.Results, ProbeResult{Instance: "acme", Probe: "p1", OK: ok, At: sec(at), Interval: time.Second})
		}
		got := Score(in).Instances[0].DowntimeSeconds
		switch {
		case !ok && got != nil:
			t.Fatalf("it is still down, and its downtime is said to be %v s", *got)
		case ok && want > 0 && (got == nil || math.Abs(*got-want) > 0.01):
			t.Fatalf("down for %v s, bad answers for %.1f s", got, want)
		}
	})
}

// A percentile is the smallest measured value that so many values do not exceed.
func TestSummaryAgainstItsDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(0, 100), 1, 30).Draw(t, "values")
		var all []*float64
		for _, v := range values {
			all = append(all, new(v))
		}
		s := summary(append(all, nil))
		atMost := func(percent float64) float64 {
			best := math.Inf(1)
			for _, v := range values {
				n := 0
				for _, other := range values {
					if other <= v {
						n++
					}
				}
				if float64(n) >= percent/100*float64(len(values)) {
					best = min(best, v)
				}
			}
			return best
		}
		if *s.P50 != atMost(50) || *s.P95 != atMost(95) || *s.Max != atMost(100) || s.Measured != len(values) || s.Unknown != 1 {
			t.Fatalf("%v: p50 %v p95 %v max %v of %d and %d", values, *s.P50, *s.P95, *s.Max, s.Measured, s.Unknown)
		}
	})
}

// The overlap of writers is checked against looking at every tenth of a second.
func TestTwoWritersAgainstLooking(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := Input{Now: sec(100)}
		want := 0
		serving := make([]map[string]bool, 1000)
		for i := range serving {
			serving[i] = map[string]bool{}
		}
		for n := range rapid.IntRange(1, 4).Draw(t, "writers") {
			from := rapid.IntRange(0, 900).Draw(t, "from")
			to := rapid.IntRange(from+1, 999).Draw(t, "to")
			node := fmt.Sprint("n", n)
			in.NodeEvents = append(in.NodeEvents, served(node, "acme", 1, NodeServingStarted, float64(from)/10), served(node, "acme", 1, NodeServingStopped, float64(to)/10))
			for i := from; i < to; i++ {
				serving[i][node] = true
			}
		}
		for _, s := range serving {
			if len(s) > 1 {
				want++
			}
		}
		got, ok := twoWriters(in, "acme")
		if !ok || got.Round(time.Millisecond) != time.Duration(want)*100*time.Millisecond {
			t.Fatalf("%s, looked: %d tenths", got, want)
		}
	})
}

func TestPausedNodeServesOnAfterThePause(t *testing.T) {
	in := Input{Fault: "stop", Now: sec(100), NodeEvents: []NodeEvent{
		served("a", "acme", 1, NodeServingStarted, -100), {Node: "a", Kind: NodeFaultFired, At: sec(0)},
		served("b", "acme", 2, NodeServingStarted, 20), {Node: "a", Kind: NodeUndoFired, At: sec(30)}, served("a", "acme", 2, NodeFenced, 30.5),
	}}
	if got, ok := twoWriters(in, "acme"); !ok || got != 500*time.Millisecond {
		t.Errorf("%s, %v", got, ok)
	}
}

// What was fenced while it was paused does not go on when the pause is over: the account ended where the pause began.
func TestWhatWasFencedInItsPauseServesNoMore(t *testing.T) {
	in := Input{Fault: "stop", Now: sec(100), NodeEvents: []NodeEvent{
		served("a", "acme", 1, NodeServingStarted, -100), {Node: "a", Kind: NodeFaultFired, At: sec(0)}, served("a", "acme", 1, NodeServingStopped, 0.1),
		served("b", "acme", 2, NodeServingStarted, 20), served("a", "acme", 1, NodeFenced, 30), {Node: "a", Kind: NodeUndoFired, At: sec(30.5)},
	}}
	if got, ok := twoWriters(in, "acme"); !ok || got != 0 {
		t.Errorf("%s, %v", got, ok)
	}
}

func TestOutages(t *testing.T) {
	results := func(pattern string) []ProbeResult {
		var all []ProbeResult
		for i, c := range pattern {
			all = append(all, ProbeResult{Instance: "acme", Probe: fmt.Sprint(i % 2), OK: c == '.', At: sec(float64(i)), Interval: time.Second})
		}
		return all
	}
	for pattern, want := range map[string]string{
		".....":            "",
		"..xx...":          "2-4",
		"..xx.x...":        "2-6",     // a single good answer is not back
		"x...x...":         "0-1 4-5", // two outages
		"..xx..":           "2-",      // two good ones are not enough
		"xxxx":             "0-",
		"xx..x..xxx..x...": "0-13",
	} {
		var got []string
		for _, o := range outages(results(pattern), 3) {
			text := fmt.Sprint(o.From.Sub(t0).Seconds(), "-")
			if !o.To.IsZero() {
				text += fmt.Sprint(o.To.Sub(t0).Seconds())
			}
			got = append(got, strings.ReplaceAll(text, " ", ""))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", pattern, got, want)
		}
	}
}

// One network's word is not enough: three good answers of one probe do not end an outage that two probes saw.
func TestBackNeedsTwoProbes(t *testing.T) {
	results := []ProbeResult{{Probe: "p1", At: sec(0)}, {Probe: "p2", At: sec(1)}}
	for i := range 3 {
		results = append(results, ProbeResult{Probe: "p1", OK: true, At: sec(float64(2 + i))})
	}
	if got := outages(results, 3); len(got) != 1 || !got[0].To.IsZero() {
		t.Errorf("one probe alone ended it: %+v", got)
	}
	results = append(results, ProbeResult{Probe: "p2", OK: true, At: sec(5)})
	if got := outages(results, 3); len(got) != 1 || !got[0].To.Equal(sec(2)) {
		t.Errorf("with the second probe: %+v", got)
	}
}

func TestNeverBadIsOnlyKnownWhenSomebodyLooked(t *testing.T) {
	in := story()
	in.Results = append(asked("acme", 999, 999, 60), asked("globex", 2, 21, 60)...)
	if d := cmp.Diff(new(0.0), Score(in).Instances[0].DowntimeSeconds); d != "" {
		t.Errorf("watched all the time: %s", d)
	}
	in.Results = slices.DeleteFunc(in.Results, func(r ProbeResult) bool {
		return r.Instance == "acme" && r.At.After(sec(10)) && r.At.Before(sec(30))
	})
	if got := Score(in).Instances[0].DowntimeSeconds; got != nil {
		t.Errorf("nobody looked for 20 s, and it says %v s", *got)
	}
}

// BenchmarkScore200 scores 200 instances that two probes have watched for ten minutes.
func BenchmarkScore200(b *testing.B) {
	in := story()
	in.Members, in.Steps, in.Results, in.Now = nil, nil, nil, sec(600)
	for i := range 200 {
		name := fmt.Sprintf("i%03d", i)
		in.Members = append(in.Members, Member{Instance: name, FromNode: "paris1", Epoch: 1})
		in.Steps = append(in.Steps, restored(name, "lyon1", float64(5+i))...)
		in.Results = append(in.Results, asked(name, 1, float64(20+i), 600)...)
	}
	for b.Loop() {
		Score(in)
	}
}

// A silence is known to be bad only when the probe gives up on it.
func TestDetectCountsWhenTheAnswerWasThere(t *testing.T) {
	members := []Member{{Instance: "acme"}}
	results := []ProbeResult{
		{Instance: "acme", Probe: "p1", OK: true, At: sec(-1)},
		{Instance: "acme", Probe: "p1", At: sec(1), Took: 5 * time.Second},
		{Instance: "acme", Probe: "p2", At: sec(2), Took: time.Second},
	}
	at, ok := Detect(members, results, fleet.RecoveryNormal{}, sec(0))
	if !ok || !at.Equal(sec(6)) {
		t.Errorf("detected at %s, %v", at, ok)
	}
}
