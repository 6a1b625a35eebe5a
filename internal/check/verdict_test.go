package check

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/fleet"
	"holdfast/internal/link"
)

var start = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func at(second float64) time.Time { return start.Add(time.Duration(second * float64(time.Second))) }

func seen(prober string, second float64, ok bool) Seen {
	return Seen{Prober: prober, Result: link.Result{Check: "edge", Instance: "acme", OK: ok, At: at(second)}}
}

// line writes results of one prober: each letter is one second, + good, - bad, ? inconclusive, space not asked.
func line(prober, letters string) []Seen {
	var all []Seen
	for i, letter := range letters {
		r := seen(prober, float64(i), letter == '+')
		r.Inconclusive = letter == '?'
		if letter != ' ' {
			all = append(all, r)
		}
	}
	return all
}

func lines(rows ...string) []Seen {
	var all []Seen
	for i, letters := range rows {
		all = append(all, line(fmt.Sprintf("p%d", i+1), letters)...)
	}
	return all
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name  string
		rows  []string
		k, n  int
		state State
	}{
		{"all good", []string{"+++", "+++", "+++"}, 2, 3, StateUp},
		{"one bad answer is no outage", []string{"++-", "++-", "++-"}, 2, 3, StateUp},
		{"one prober alone is no outage", []string{"----", "++++", "++++"}, 2, 3, StateUp},
		{"two of three agree", []string{"+---", "+---", "++++"}, 2, 3, StateDown},
		{"two good answers do not bring it back", []string{"+--++", "+--++", "+--++"}, 2, 3, StateDown},
		{"three do", []string{"+--+++", "+--+++", "+--+++"}, 2, 3, StateUp},
		{"a prober in trouble says nothing", []string{"++?????", "++?????", "++----"}, 2, 3, StateUp},
		{"nobody says anything", []string{"???", "???", ""}, 2, 3, StateInconclusive},
		{"one voice of three is too few", []string{"+++", "", ""}, 2, 3, StateInconclusive},
		{"trouble does not break a row", []string{"+-?-", "+-?-", ""}, 2, 3, StateDown},
		{"a single prober", []string{"+--"}, 0, 0, StateDown},
		{"never seen good", []string{"--", "--"}, 2, 2, StateDown},
		{"first answer good", []string{"+"}, 1, 1, StateUp},
		{"first answer bad", []string{"-"}, 1, 1, StateInconclusive},
	} {
		got := Verdict(lines(c.rows...), Rule{K: c.k, N: c.n}, at(10))
		if got.State != c.state {
			t.Errorf("%s: %s, want %s (%+v)", c.name, got.State, c.state, got)
		}
	}
}

func TestSilentProbersLoseTheirVote(t *testing.T) {
	results := lines("+--", "+--", "+++")
	rule := Rule{K: 2, N: 3, Fresh: 30 * time.Second}
	if got := Verdict(results, rule, at(20)).State; got != StateDown {
		t.Errorf("fresh: %s", got)
	}
	if got := Verdict(results, rule, at(60)); got.State != StateInconclusive || got.Silent != 3 {
		t.Errorf("silent: %+v", got)
	}
}

func TestAnInstanceIsDownWhenOneOfItsChecksIs(t *testing.T) {
	results := line("p1", "+++++")
	for _, r := range line("p1", "+----") {
		r.Check = "login"
		results = append(results, r)
	}
	if got := Verdict(results, Rule{K: 1, N: 1}, at(5)); got.State != StateDown || !got.FirstBad.Equal(at(1)) {
		t.Errorf("%+v", got)
	}
}

func TestDownFindsTheIntervals(t *testing.T) {
	got := Down(lines(
		"++---+-+++++--++++",
		" ++---++++++ -----",
		"++++++++++++++++++",
	), Rule{K: 2, N: 3})
	want := []Outage{
		{Instance: "acme", LastGood: at(2), FirstBad: at(3), DeclaredAt: at(4), LastBad: at(5), FirstGood: at(6), Probers: []string{"p1", "p2"}},
		{Instance: "acme", LastGood: at(12), FirstBad: at(13), DeclaredAt: at(14), LastBad: at(13), FirstGood: at(14), Probers: []string{"p1", "p2"}},
	}
	if diff := cmp.Diff(want[:1], got[:min(1, len(got))]); diff != "" {
		t.Errorf("first outage (-want +got):\n%s", diff)
	}
	if len(got) != 2 {
		t.Fatalf("%d outages: %+v", len(got), got)
	}
}

func TestSiteSuspect(t *testing.T) {
	inventory := fleet.Inventory{Placements: map[string]fleet.Placement{}}
	findings := map[string]Finding{}
	place := func(site string, number int, state State) {
		name := fmt.Sprintf("%s%d", site, number)
		inventory.Placements[name] = fleet.Placement{Instance: name, Site: site}
		if state != "" {
			findings[name] = Finding{Instance: name, State: state, LastGood: at(float64(number)), FirstBad: at(float64(10 + number))}
		}
	}
	for i := range 5 {
		place("fsn", i, StateDown)
		place("gra", i, StateUp)
		place("hel", i, []State{StateInconclusive, StateInconclusive, StateInconclusive, StateDown, StateDown}[i])
	}
	place("gra", 5, StateDown)
	inventory.Placements["old"] = fleet.Placement{Instance: "old", Site: "fsn", Retired: true}
	want := []Suspect{{
		Site: "fsn", Down: []string{"fsn0", "fsn1", "fsn2", "fsn3", "fsn4"}, Judged: 5, Placed: 5, LastGood: at(4), FirstBad: at(10),
	}}
	if diff := cmp.Diff(want, SiteSuspect(findings, inventory)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for i := range 6 {
		place("gra", i, StateDown)
		place("hel", i, StateDown)
	}
	for _, s := range SiteSuspect(findings, inventory) {
		if !s.Everywhere {
			t.Errorf("all sites are down at once, but %s is suspected alone", s.Site)
		}
	}
}

func anyResults(t *rapid.T) []Seen {
	rows := rapid.SliceOfN(rapid.StringOfN(rapid.RuneFrom([]rune("+-? ")), 0, 30, -1), 1, 4).Draw(t, "rows")
	return lines(rows...)
}

func anyRule(t *rapid.T) Rule {
	n := rapid.IntRange(1, 4).Draw(t, "n")
	return Rule{N: n, K: rapid.IntRange(1, n).Draw(t, "k"), Fail: rapid.IntRange(1, 3).Draw(t, "fail"), Recover: rapid.IntRange(1, 4).Draw(t, "recover")}
}

func TestVerdictIsPure(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		results, rule := anyResults(t), anyRule(t)
		now := at(rapid.Float64Range(0, 40).Draw(t, "now"))
		want := Verdict(results, rule, now)
		if diff := cmp.Diff(want, Verdict(rapid.Permutation(results).Draw(t, "shuffled"), rule, now)); diff != "" {
			t.Fatalf("the order in which results came changed the verdict:\n%s", diff)
		}
		sure := slices.DeleteFunc(slices.Clone(results), func(r Seen) bool { return r.Inconclusive })
		got := Verdict(sure, rule, now)
		got.Instance = want.Instance
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("inconclusive results changed the verdict:\n%s", diff)
		}
	})
}

// TestVerdictAgreesWithCounting compares with the rule's words, read backwards from the newest results.
func TestVerdictAgreesWithCounting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		results, rule := anyResults(t), anyRule(t)
		rule.Recover = 1 // then a prober's belief is decided by its newest results alone
		down, up := 0, 0
		for p := 1; p <= 4; p++ {
			switch lastWord(results, fmt.Sprintf("p%d", p), rule.Fail) {
			case StateDown:
				down++
			case StateUp:
				up++
			default: // says neither
			}
		}
		want := StateInconclusive
		if down >= rule.K {
			want = StateDown
		} else if up > rule.N-rule.K {
			want = StateUp
		}
		if got := Verdict(results, rule, at(40)); got.State != want {
			t.Fatalf("%s, want %s", got.State, want)
		}
	})
}

// lastWord is down when a row of Fail bad results came after the last good one, up when a good one came at all.
func lastWord(results []Seen, prober string, fail int) State {
	bad, state := 0, State("")
	for _, r := range results {
		switch {
		case r.Prober != prober || r.Inconclusive:
		case r.OK:
			bad, state = 0, StateUp
		default:
			if bad++; bad >= fail {
				state = StateDown
			}
		}
	}
	return state
}

func TestOutagesAreWellFormed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.SliceOfN(rapid.StringOfN(rapid.RuneFrom([]rune("+-? ")), 0, 30, -1), 1, 4).Draw(t, "rows")
		rule := anyRule(t)
		rule.N = len(rows) // as many as are asked; a rule that counts fewer lets two majorities stand at once
		rule.K = min(rule.K, rule.N)
		outages := Down(lines(rows...), rule)
		for i, o := range outages {
			if o.FirstBad.IsZero() || o.FirstBad.After(o.DeclaredAt) || !o.LastGood.Before(o.FirstBad) {
				t.Fatalf("beginning is out of order: %+v", o)
			}
			if i > 0 && (!outages[i-1].Over() || outages[i-1].FirstGood.After(o.DeclaredAt)) {
				t.Fatalf("outages overlap: %+v %+v", outages[i-1], o)
			}
		}
	})
}

// TestOutageEnclosesTheTruth simulates an instance that is really down for a while, asked by probers out of step.
func TestOutageEnclosesTheTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from := rapid.Float64Range(5, 20).Draw(t, "from")
		to := from + rapid.Float64Range(6, 20).Draw(t, "length")
		var results []Seen
		for p := range 3 {
			phase := rapid.Float64Range(0, 0.99).Draw(t, "phase")
			for second := range 60 {
				moment := float64(second) + phase
				results = append(results, seen(fmt.Sprintf("p%d", p), moment, moment < from || moment >= to))
			}
		}
		outages := Down(results, Rule{K: 2, N: 3})
		if len(outages) != 1 || !outages[0].Over() {
			t.Fatalf("one real outage gave %+v", outages)
		}
		o := outages[0]
		if o.LastGood.After(at(from)) || o.FirstBad.Before(at(from)) || o.FirstGood.Before(at(to)) || o.LastBad.After(at(to)) {
			t.Fatalf("really [%v, %v), seen %+v", at(from), at(to), o)
		}
		const beat = time.Second + time.Microsecond // phases are floating point numbers
		if o.FirstBad.Sub(o.LastGood) > beat || o.FirstGood.Sub(at(to)) > beat {
			t.Fatalf("intervals are wider than one beat: %+v", o)
		}
	})
}

func TestChecksAreAskedAtAFlatRate(t *testing.T) {
	perSecond := map[int64]int{}
	for i := range 1500 {
		c := link.Check{Name: "edge", Instance: fmt.Sprintf("customer-%d", i), Interval: time.Minute}
		first := next(c, start)
		if first.Before(start) || first.Sub(start) > time.Minute {
			t.Fatalf("first question at %v", first)
		}
		if again := next(c, first); again.Sub(first) != time.Minute {
			t.Fatalf("%v after %v", again, first)
		}
		perSecond[first.Unix()]++
	}
	for second, n := range perSecond {
		if n > 50 {
			t.Errorf("%d questions in second %d, about 25 are due", n, second)
		}
	}
}

func TestFirstBadAnswersAreFollowedQuickly(t *testing.T) {
	c := link.Check{Name: "edge", Instance: "acme", Interval: 10 * time.Second}
	for bad, longest := range []time.Duration{10 * time.Second, 2 * time.Second, 2 * time.Second, 10 * time.Second} {
		if got := pause(c, bad, start); got > longest || got <= 0 {
			t.Errorf("after %d bad answers: %v, want at most %v", bad, got, longest)
		}
	}
}

func TestOwnTrouble(t *testing.T) {
	for err, own := range map[error]bool{
		fmt.Errorf("dial: %w", syscall.ENETUNREACH): true, fmt.Errorf("dial: %w", syscall.EMFILE): true,
		fmt.Errorf("dial: %w", syscall.ECONNREFUSED): false, fmt.Errorf("dial: %w", syscall.EHOSTUNREACH): false,
	} {
		if ownTrouble(err) != own {
			t.Errorf("%v: own trouble = %v", err, !own)
		}
	}
}
