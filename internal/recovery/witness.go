package recovery

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"holdfast/internal/fleet"
	"holdfast/internal/observe"
)

// witnesses reads what probes outside the lost place saw of the run's members. A probe that is lost itself says
// nothing, and what was asked through a lost edge says only that the edge is lost.
func witnesses(ctx context.Context, in bun.IDB, run Run, since, until time.Time) ([]ProbeResult, error) {
	sites, err := observe.Sites(ctx, in)
	if err != nil {
		return nil, err
	}
	seen, err := observe.ResultsOf(ctx, in, names(run.Members), since, until)
	if err != nil {
		return nil, err
	}
	outside := func(node string) bool {
		return !gone(run.Plan, fleet.NodeFacts{Node: node, Site: sites[node]})
	}
	var kept []ProbeResult
	for _, r := range seen {
		edge, viaEdge := strings.CutPrefix(r.Check, "edge/")
		if outside(r.Node) && (!viaEdge || outside(edge)) {
			kept = append(kept, ProbeResult{Instance: r.Instance, Probe: r.Node, OK: r.OK, At: r.At, Took: r.Took})
		}
	}
	return paced(kept), nil
}

// paced fills in how far apart the questions are: the middle one of the gaps between two answers that one probe got
// for one instance. It is measured, because a probe under load asks less often than it was told.
func paced(results []ProbeResult) []ProbeResult {
	type asking struct{ probe, instance string }
	last, gaps := map[asking]time.Time{}, map[asking][]time.Duration{}
	for _, r := range results {
		who := asking{r.Probe, r.Instance}
		if at, ok := last[who]; ok && r.At.After(at) {
			gaps[who] = append(gaps[who], r.At.Sub(at))
		}
		last[who] = r.At
	}
	for i, r := range results {
		results[i].Interval = middle(gaps[asking{r.Probe, r.Instance}])
	}
	return results
}

// middle is the median, or a second where there is only one answer.
func middle(gaps []time.Duration) time.Duration {
	if len(gaps) == 0 {
		return time.Second
	}
	slices.Sort(gaps)
	return gaps[len(gaps)/2]
}

// told reads what nodes said of the run's members, and what happened on its nodes; the faults of other drills are
// left out.
func told(ctx context.Context, in bun.IDB, run Run, since time.Time) ([]NodeEvent, error) {
	seen, err := observe.EventsOf(ctx, in, names(run.Members), nodesOf(run), since)
	if err != nil {
		return nil, err
	}
	var events []NodeEvent
	for _, e := range seen {
		if drill := e.Labels["drill"]; drill == "" || drill == run.ID {
			events = append(events, NodeEvent{Node: e.Node, Kind: e.Kind, Instance: e.Instance, Epoch: e.Epoch, Note: e.Note, At: e.At})
		}
	}
	slices.SortStableFunc(events, func(a, b NodeEvent) int { return cmp.Compare(a.At.UnixNano(), b.At.UnixNano()) })
	return events, nil
}
