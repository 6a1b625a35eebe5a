package vault

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/vault/internal/index"
	"holdfast/internal/vault/internal/seal"
)

var noon = time.Date(2026, 3, 29, 12, 0, 0, 0, time.UTC)

// history is one snapshot every step, the newest at noon; each needs a pack of its own and one of all.
func history(count int, step time.Duration) *pruneState {
	s := &pruneState{proven: map[string]Proof{}, condemned: map[string]time.Time{}, indexes: map[string]index.Head{}}
	shared := seal.Name([]byte("shared"))
	s.packs = append(s.packs, Object{Name: packFolder + "/" + shared, Size: 10, Time: noon.Add(-1000 * time.Hour)})
	for i := range count {
		at := noon.Add(-time.Duration(count-1-i) * step)
		own := seal.Name(fmt.Append(nil, "pack", i))
		info := SnapshotInfo{ID: seal.Name(fmt.Append(nil, i)), Time: at, Packs: []string{shared, own}, Manifest: manifestFolder + "/" + own}
		s.snapshots = append(s.snapshots, info)
		s.packs = append(s.packs, Object{Name: packFolder + "/" + own, Size: 5, Time: at})
		s.manifests = append(s.manifests, Object{Name: info.Manifest, Time: at})
	}
	return s
}

func kept(p PrunePlan) (out []string) {
	for _, d := range p.Keep {
		out = append(out, d.Time.UTC().Format("01-02T15"))
	}
	return out
}

func TestKeepRules(t *testing.T) {
	cases := map[string]struct {
		keep Keep
		step time.Duration
		want []string
	}{
		"two days":            {Keep{Daily: 2}, 12 * time.Hour, []string{"03-28T12", "03-29T12"}},
		"last three":          {Keep{Last: 3}, time.Hour, []string{"03-29T10", "03-29T11", "03-29T12"}},
		"hours":               {Keep{Hourly: 2}, 30 * time.Minute, []string{"03-29T11", "03-29T12"}},
		"weeks end on Sunday": {Keep{Weekly: 2}, 24 * time.Hour, []string{"03-22T12", "03-29T12"}},
		"months":              {Keep{Monthly: 2}, 24 * time.Hour, []string{"02-28T12", "03-29T12"}},
		"rules add up":        {Keep{Daily: 1, Monthly: 2}, 24 * time.Hour, []string{"02-28T12", "03-29T12"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p := planPrune(history(40, c.step), PruneOptions{Keep: c.keep, Now: noon, Location: time.UTC, MaxShare: 1})
			if got := kept(p); !slices.Equal(got, c.want) {
				t.Fatalf("kept %v, want %v", got, c.want)
			}
		})
	}
}

// TestDaysAreLocal has two snapshots of one day in UTC that are two days in the east.
func TestDaysAreLocal(t *testing.T) {
	s := history(2, 4*time.Hour)
	for i := range s.snapshots {
		s.snapshots[i].Time = s.snapshots[i].Time.Add(6 * time.Hour)
	}
	east := time.FixedZone("east", 8*3600)
	if p := planPrune(s, PruneOptions{Keep: Keep{Daily: 2}, Now: noon.Add(7 * time.Hour), Location: east, MaxShare: 1}); len(p.Keep) != 2 {
		t.Errorf("kept %v, want both days", kept(p))
	}
	if p := planPrune(s, PruneOptions{Keep: Keep{Daily: 2}, Now: noon.Add(7 * time.Hour), Location: time.UTC, MaxShare: 1}); len(p.Keep) != 1 {
		t.Errorf("kept %v, want one of one day", kept(p))
	}
}

func TestIncompleteDoesNotReplaceComplete(t *testing.T) {
	s := history(2, time.Hour)
	s.snapshots[1].Incomplete = true
	s.proven[s.snapshots[0].ID] = Proof{}
	p := planPrune(s, PruneOptions{Keep: Keep{Daily: 1}, Now: noon, Location: time.UTC, MaxShare: 1})
	if len(p.Keep) != 1 || !strings.Contains(p.Keep[0].Object, s.snapshots[0].ID) {
		t.Fatalf("kept %+v", p.Keep)
	}
}

func TestHoldingPeriod(t *testing.T) {
	s := history(3, 24*time.Hour)
	o := PruneOptions{Keep: Keep{Last: 1}, Now: noon, Location: time.UTC, MaxShare: 1, Hold: 24 * time.Hour}
	p := planPrune(s, o)
	if len(p.Condemn) != 2 || slices.ContainsFunc(p.Delete, isPack) {
		t.Fatalf("condemned %d, deleted %+v", len(p.Condemn), p.Delete)
	}
	s.snapshots = s.snapshots[2:]
	for _, d := range p.Condemn {
		s.condemned[path.Base(d.Object)] = noon
	}
	o.Now = noon.Add(23 * time.Hour)
	if p = planPrune(s, o); slices.ContainsFunc(p.Delete, isPack) || len(p.Waiting) != 2 {
		t.Fatalf("within the holding period: %+v", p)
	}
	o.Now, s.oldest = noon.Add(25*time.Hour), noon.Add(-time.Minute)
	if p = planPrune(s, o); slices.ContainsFunc(p.Delete, isPack) {
		t.Fatalf("a backup that began before runs: %+v", p.Delete)
	}
	s.oldest = noon.Add(time.Minute)
	if p = planPrune(s, o); !slices.ContainsFunc(p.Delete, isPack) {
		t.Fatalf("after the holding period: %+v", p)
	}
}

func TestBrokenUploadsGo(t *testing.T) {
	s := history(1, time.Hour)
	s.uploads = []Object{{Name: "tmp/OLD", Time: noon.Add(-25 * time.Hour)}, {Name: "tmp/NEW", Time: noon.Add(-time.Hour)}}
	p := planPrune(s, PruneOptions{Keep: Keep{Last: 1}, Now: noon})
	if len(p.Delete) != 1 || p.Delete[0].Object != "tmp/OLD" {
		t.Fatalf("deleted %+v", p.Delete)
	}
}

func isPack(d Decision) bool { return strings.HasPrefix(d.Object, packFolder+"/") }

// TestNothingNeededGoes tries any rules on any history.
func TestNothingNeededGoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := history(rapid.IntRange(0, 30).Draw(t, "snapshots"), time.Duration(rapid.IntRange(1, 5000).Draw(t, "minutes"))*time.Minute)
		lastProven := ""
		for _, info := range s.snapshots {
			if rapid.IntRange(0, 4).Draw(t, "proven") == 0 {
				s.proven[info.ID] = Proof{}
				lastProven = info.ID
			}
		}
		for _, p := range s.packs {
			if rapid.Bool().Draw(t, "condemned") {
				s.condemned[path.Base(p.Name)] = noon.Add(-time.Duration(rapid.IntRange(0, 90).Draw(t, "since")) * time.Hour)
			}
		}
		n := rapid.IntRange(0, 4)
		o := PruneOptions{Now: noon, Location: time.UTC, Hold: time.Duration(rapid.IntRange(0, 48).Draw(t, "hold")) * time.Hour,
			MaxShare: rapid.Float64Range(0.01, 1).Draw(t, "share"),
			Keep:     Keep{Last: n.Draw(t, "last"), Daily: n.Draw(t, "daily"), Weekly: n.Draw(t, "weekly"), Monthly: n.Draw(t, "monthly")}}
		p := planPrune(s, o)
		if len(p.Keep)+len(p.Forget) != len(s.snapshots) {
			t.Fatalf("%d kept and %d forgotten of %d", len(p.Keep), len(p.Forget), len(s.snapshots))
		}
		if float64(len(p.Forget)) > o.MaxShare*float64(len(s.snapshots))+0.5 {
			t.Fatalf("forgot %d of %d with a share of %f", len(p.Forget), len(s.snapshots), o.MaxShare)
		}
		if len(s.snapshots) > 0 && len(p.Keep) == 0 {
			t.Fatal("nothing is left")
		}
		needed := map[string]bool{}
		for _, d := range p.Keep {
			i := slices.IndexFunc(s.snapshots, func(i SnapshotInfo) bool { return strings.Contains(d.Object, i.ID) })
			for _, name := range s.snapshots[i].Packs {
				needed[packFolder+"/"+name] = true
			}
			needed[s.snapshots[i].Manifest] = true
		}
		for _, d := range append(p.Delete, p.Condemn...) {
			if needed[d.Object] {
				t.Fatalf("%s goes and is needed", d.Object)
			}
		}
		for _, d := range p.Forget {
			if lastProven != "" && strings.Contains(d.Object, lastProven) {
				t.Fatal("the last proven snapshot goes")
			}
		}
	})
}
