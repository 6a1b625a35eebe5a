package check

import (
	"slices"
	"strings"
	"time"

	"holdfast/internal/fleet"
)

// Outage is one stretch in which an instance was down from outside. It really began between LastGood and FirstBad and
// really ended between LastBad and FirstGood; DeclaredAt is the result that made the verdict. LastBad and FirstGood are
// zero while it lasts.
type Outage struct {
	Instance   string    `json:"instance"`
	LastGood   time.Time `json:"last_good,omitzero"` // zero: nobody saw it up before
	FirstBad   time.Time `json:"first_bad"`
	DeclaredAt time.Time `json:"declared_at"`
	LastBad    time.Time `json:"last_bad,omitzero"`
	FirstGood  time.Time `json:"first_good,omitzero"`
	Probers    []string  `json:"probers"` // that said so when it was declared
	Why        string    `json:"why"`
}

// Over tells whether the instance was seen up again.
func (o Outage) Over() bool { return !o.FirstGood.IsZero() }

// Down lists every outage that the results show, by beginning, then by instance. A stretch that nobody could judge
// neither begins nor ends one.
func Down(results []Seen, rule Rule) []Outage {
	var all []Outage
	for _, own := range byInstance(results) {
		all = append(all, downOf(inOrder(own), rule.withDefaults())...)
	}
	slices.SortFunc(all, func(a, b Outage) int {
		if c := a.FirstBad.Compare(b.FirstBad); c != 0 {
			return c
		}
		return strings.Compare(a.Instance, b.Instance)
	})
	return all
}

func downOf(ordered []Seen, rule Rule) []Outage {
	var all []Outage
	court, open := newCourt(rule), false
	for _, r := range ordered {
		court.hear(r)
		switch f := court.find(r.At); {
		case f.State == StateDown && !open:
			open = true
			all = append(all, Outage{Instance: f.Instance, LastGood: f.LastGood, FirstBad: f.FirstBad, DeclaredAt: r.At, Probers: f.Down, Why: f.Why})
		case f.State == StateUp && open:
			open = false
			last := &all[len(all)-1]
			last.LastBad, last.FirstGood = court.ended(r.At)
		}
	}
	return all
}

// ended finds the interval in which an outage ended: the good answer with which enough probers had begun to see it up,
// and the newest bad answer before that.
func (c *court) ended(now time.Time) (lastBad, firstGood time.Time) {
	var since []time.Time
	for _, o := range c.opinions(now) {
		if o.state == StateUp {
			since = append(since, o.since)
		}
	}
	slices.SortFunc(since, time.Time.Compare)
	firstGood = since[min(c.rule.N-c.rule.K, len(since)-1)]
	for _, r := range c.heard {
		if !r.OK && r.At.Before(firstGood) {
			lastBad = r.At
		}
	}
	return lastBad, firstGood
}

// Suspect is a site that may be lost: most of what it holds is down at once.
type Suspect struct {
	Site       string    `json:"site"`
	Down       []string  `json:"down"`       // instances
	Judged     int       `json:"judged"`     // instances of the site with a verdict up or down
	Placed     int       `json:"placed"`     // instances that the site holds
	LastGood   time.Time `json:"last_good"`  // newest good answer among those that are down
	FirstBad   time.Time `json:"first_bad"`  // first bad one
	Everywhere bool      `json:"everywhere"` // every other site looks the same: the edge, the names or the probers are likelier
}

// Most is the share of a site's judged instances, in percent, that must be down before the site is suspected.
const Most = 80

// SiteSuspect names the sites of which Most percent of the instances that can be judged are down, when at least half
// of what the site holds can be judged. Sites are sorted by name.
func SiteSuspect(findings map[string]Finding, inventory fleet.Inventory) []Suspect {
	bySite := map[string]*Suspect{}
	for _, p := range inventory.Placements {
		if p.Retired {
			continue
		}
		if bySite[p.Site] == nil {
			bySite[p.Site] = &Suspect{Site: p.Site}
		}
		bySite[p.Site].count(p.Instance, findings[p.Instance])
	}
	suspects := []Suspect{}
	for _, s := range bySite {
		if s.looksLost() {
			slices.Sort(s.Down)
			suspects = append(suspects, *s)
		}
	}
	slices.SortFunc(suspects, func(a, b Suspect) int { return strings.Compare(a.Site, b.Site) })
	for i := range suspects {
		suspects[i].Everywhere = len(bySite) > 1 && len(suspects) == len(bySite)
	}
	return suspects
}

func (s *Suspect) count(instance string, f Finding) {
	s.Placed++
	switch f.State {
	case StateUp:
		s.Judged++
	case StateDown:
		s.Judged++
		s.Down = append(s.Down, instance)
		if f.LastGood.After(s.LastGood) {
			s.LastGood = f.LastGood
		}
		if s.FirstBad.IsZero() || f.FirstBad.Before(s.FirstBad) {
			s.FirstBad = f.FirstBad
		}
	case StateInconclusive:
	}
}

func (s *Suspect) looksLost() bool {
	return len(s.Down) > 0 && 2*s.Judged >= s.Placed && 100*len(s.Down) >= Most*s.Judged
}
