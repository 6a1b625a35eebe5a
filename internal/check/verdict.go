package check

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"holdfast/internal/link"
)

// Seen is one result and the node that asked.
type Seen struct {
	Prober string `json:"prober"`
	link.Result
}

// Rule says when results become a verdict. Down needs K of the N probers; up needs so many that K can no longer say
// down. The zero value of a field means its default.
type Rule struct {
	K       int           `json:"k"`       // probers that must say down; default: more than half of N
	N       int           `json:"n"`       // probers that are asked
	Fail    int           `json:"fail"`    // bad results in a row until a prober votes down; default 2
	Recover int           `json:"recover"` // good results in a row until it votes up again; default 3
	Fresh   time.Duration `json:"fresh"`   // a prober that was silent for longer has no vote; default 2 minutes
}

func (r Rule) withDefaults() Rule {
	r.N = max(r.N, 1)
	r.K = min(cmp.Or(r.K, r.N/2+1), r.N)
	r.Fail = cmp.Or(r.Fail, 2)
	r.Recover = cmp.Or(r.Recover, 3)
	r.Fresh = cmp.Or(r.Fresh, 2*time.Minute)
	return r
}

// State is what a verdict says.
type State string

// The states of a verdict.
const (
	StateUp           State = "up"
	StateDown         State = "down"
	StateInconclusive State = "inconclusive" // too few probers can say anything
)

// Finding is the verdict on one instance at a moment, and the votes behind it. While it is down, the outage really
// began between LastGood and FirstBad.
type Finding struct {
	Instance string    `json:"instance"`
	State    State     `json:"state"`
	Up       []string  `json:"up"`     // probers that vote up
	Down     []string  `json:"down"`   // that vote down
	Silent   int       `json:"silent"` // that have no vote
	LastGood time.Time `json:"last_good,omitzero"`
	FirstBad time.Time `json:"first_bad,omitzero"`
	Why      string    `json:"why,omitempty"` // the newest bad answer's words
}

// vote is what one prober believes of one check, folded over its results in the order they were asked.
type vote struct {
	state  State     // "" until it has an opinion
	since  time.Time // the first of the results in a row that made it so
	row    int       // equal results in a row
	run    time.Time // when that row began
	runOK  bool
	seenAt time.Time
	why    string
}

// after folds one conclusive result in. A bad answer must repeat before it counts, and so must a good one after that;
// only the very first good answer is believed at once, because nothing speaks against it.
func (v vote) after(r link.Result, rule Rule) vote {
	if v.run.IsZero() || v.runOK != r.OK {
		v.run, v.runOK, v.row = r.At, r.OK, 0
	}
	v.row++
	v.seenAt = r.At
	switch {
	case r.OK && (v.state == "" || v.state == StateDown && v.row >= rule.Recover):
		v.state, v.since = StateUp, v.run
	case !r.OK && v.state != StateDown && v.row >= rule.Fail:
		v.state, v.since = StateDown, v.run
	}
	if !r.OK {
		v.why = r.Error
	}
	return v
}

// Verdict says what is known at now of the one instance that the results are about. Results may come in any order;
// those asked after now are not seen.
func Verdict(results []Seen, rule Rule, now time.Time) Finding {
	rule = rule.withDefaults()
	court := newCourt(rule)
	for _, r := range inOrder(results) {
		if !r.At.After(now) {
			court.hear(r)
		}
	}
	return court.find(now)
}

// Verdicts gives the verdict on every instance that a result is about.
func Verdicts(results []Seen, rule Rule, now time.Time) map[string]Finding {
	all := map[string]Finding{}
	for instance, own := range byInstance(results) {
		all[instance] = Verdict(own, rule, now)
	}
	return all
}

// voter is one prober asking one check.
type voter struct{ prober, check string }

// court holds the votes on one instance.
type court struct {
	rule     Rule
	instance string
	votes    map[voter]vote
	heard    []Seen // conclusive results, in order
}

func byName(a, b voter) int {
	return cmp.Or(cmp.Compare(a.prober, b.prober), cmp.Compare(a.check, b.check))
}

func newCourt(rule Rule) *court { return &court{rule: rule, votes: map[voter]vote{}} }

// hear folds one result in; an inconclusive one says nothing.
func (c *court) hear(r Seen) {
	c.instance = r.Instance
	if r.Inconclusive {
		return
	}
	by := voter{r.Prober, r.Check}
	c.votes[by] = c.votes[by].after(r.Result, c.rule)
	c.heard = append(c.heard, r)
}

// opinion is what one prober says over all its checks: down when one of them is, up when all are.
type opinion struct {
	state State
	since time.Time // down: the earliest of its checks; up: the latest
	why   string
}

func (c *court) opinions(now time.Time) map[string]opinion {
	all := map[string]opinion{}
	for _, by := range slices.SortedFunc(maps.Keys(c.votes), byName) {
		v := c.votes[by]
		if v.state == "" || now.Sub(v.seenAt) > c.rule.Fresh {
			continue
		}
		o, known := all[by.prober]
		switch {
		case v.state == StateDown && (o.state != StateDown || v.since.Before(o.since)):
			o = opinion{StateDown, v.since, v.why}
		case v.state == StateUp && (!known || o.state == StateUp && v.since.After(o.since)):
			o = opinion{StateUp, v.since, ""}
		}
		all[by.prober] = o
	}
	return all
}

// find counts the opinions of probers that are not silent.
func (c *court) find(now time.Time) Finding {
	f := Finding{Instance: c.instance, State: StateInconclusive, Up: []string{}, Down: []string{}}
	opinions := c.opinions(now)
	for _, prober := range slices.Sorted(maps.Keys(opinions)) {
		if opinions[prober].state == StateDown {
			f.Down = append(f.Down, prober)
			f.Why = opinions[prober].why
		} else {
			f.Up = append(f.Up, prober)
		}
	}
	f.Silent = max(0, c.rule.N-len(opinions))
	switch {
	case len(f.Down) >= c.rule.K:
		f.State = StateDown
		f.LastGood, f.FirstBad = c.began(f.Down, opinions)
	case len(f.Up) > c.rule.N-c.rule.K:
		f.State, f.Why = StateUp, ""
	}
	return f
}

// began finds the interval in which an outage began: the newest good answer that anybody had before every prober that
// now says down had begun to see it, and the first bad answer of those probers after it.
func (c *court) began(down []string, opinions map[string]opinion) (lastGood, firstBad time.Time) {
	var all time.Time
	for _, prober := range down {
		if since := opinions[prober].since; since.After(all) {
			all = since
		}
	}
	for _, r := range c.heard {
		if r.OK && r.At.Before(all) && r.At.After(lastGood) {
			lastGood = r.At
		}
	}
	for _, r := range c.heard {
		if !r.OK && r.At.After(lastGood) && slices.Contains(down, r.Prober) {
			return lastGood, r.At
		}
	}
	return lastGood, all
}

// inOrder sorts by time, then by prober, so that the order is total.
func inOrder(results []Seen) []Seen {
	sorted := slices.Clone(results)
	slices.SortStableFunc(sorted, func(a, b Seen) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Prober, b.Prober), cmp.Compare(a.Check, b.Check))
	})
	return sorted
}

func byInstance(results []Seen) map[string][]Seen {
	all := map[string][]Seen{}
	for _, r := range results {
		if r.Instance != "" {
			all[r.Instance] = append(all[r.Instance], r)
		}
	}
	return all
}
