package servers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/internal/recovery"
	"holdfast/lab"
	"holdfast/test/e2e/dashtest"
)

// loss is a site that was cut off and whose instances were recovered in the other.
type loss struct {
	before    map[string]dashtest.Placement
	snapshots map[string]dashtest.Snapshot
	card      recovery.Scorecard
	verdicts  map[string]dashtest.Verdict
}

// lost is the loss of site A that one story made and the next goes on from.
var lost *loss

// TestSiteLost cuts site A off while it serves. The probes outside notice, its instances are rebuilt in site B from the
// vault, and each customer finds, under the same name, the documents and files of the snapshot and nothing else.
func TestSiteLost(t *testing.T) {
	w := shared.World(t)
	l := loseSite(w)
	w.Keep("scorecard.json", l.card)
	w.Keep("verdicts.json", l.verdicts)
	if l.card.Verdict != recovery.Pass || len(l.card.Instances) != len(w.In(dashtest.SiteA)) {
		t.Errorf("the recovery of %d instances: %s: %s", len(l.card.Instances), l.card.Verdict, strings.Join(l.card.Reasons, "; "))
	}
	if err := dashtest.Sums(l.card); err != nil {
		t.Errorf("the scorecard does not add up: %v", err)
	}
	if l.card.DetectSeconds == nil || l.card.ManualCommands == nil || *l.card.ManualCommands != 0 {
		t.Errorf("detected after %v, manual commands %v", l.card.DetectSeconds, l.card.ManualCommands)
	}
	at := w.Placements()
	for _, c := range w.In(dashtest.SiteA) {
		p := at[c.Name]
		if p.Site != dashtest.SiteB || p.Epoch <= l.before[c.Name].Epoch {
			t.Errorf("%s is in %s with epoch %d, was in %s with %d", c.Name, p.Site, p.Epoch, l.before[c.Name].Site, l.before[c.Name].Epoch)
		}
		if v := l.verdicts[c.Name]; !v.Whole() || v.Asked == 0 || v.Later == 0 || v.Kept != 0 {
			t.Errorf("%s is not its snapshot: %+v", c.Name, v)
		}
		if epoch := servedEpoch(w, c); epoch != fmt.Sprint(p.Epoch) {
			t.Errorf("the edge serves %s of epoch %q, want %d", c.Name, epoch, p.Epoch)
		}
	}
}

// loseSite cuts site A off and recovers it. Every customer writes after the backup: the snapshot does not hold that.
func loseSite(w *dashtest.World) *loss {
	w.Helper()
	w.Home()
	customers := w.In(dashtest.SiteA)
	l := &loss{before: w.Placements(), snapshots: w.BackUp(customers...), verdicts: map[string]dashtest.Verdict{}}
	w.Each(customers, func(c dashtest.Customer) error {
		return w.Write(c, fmt.Sprintf("late%d", time.Now().Unix()), 5, 2*time.Second)
	})
	w.Must(w.Cut(w.Ctx, dashtest.SiteA))
	w.Cleanup(func() { heal(w) })
	w.WaitSuspected(dashtest.SiteA, time.Minute)
	l.card, _ = w.Recover(dashtest.Plan(dashtest.SiteA)) // how it ended stands in the scorecard
	for _, c := range customers {
		w.Must(w.Serves(c, time.Minute))
		v, err := w.Verify(c, l.snapshots[c.Name].TakenAt)
		w.Must(err)
		l.verdicts[c.Name] = v
	}
	count(w, l)
	lost = l
	return l
}

// TestSiteReturns heals the cut after the failover. The old copies are fenced: they serve nothing, their data is all
// there, and each names what it has that the restored one has not.
func TestSiteReturns(t *testing.T) {
	w := shared.World(t)
	if lost == nil {
		loseSite(w)
	}
	l := lost
	w.Must(w.Heal(w.Ctx, dashtest.SiteA))
	w.Must(w.WaitSeen(w.Ctx))
	salvage := map[string]dashtest.Copy{}
	for _, c := range w.In(dashtest.SiteA) {
		old := l.before[c.Name].Node
		w.Must(lab.Until(w.Ctx, time.Minute, 200*time.Millisecond, "fence the old copy of "+c.Name, func() (bool, string) {
			salvage[c.Name] = w.Copies(c.Name)[old]
			return salvage[c.Name].State == "fenced", salvage[c.Name].State
		}))
		offered := salvage[c.Name]
		if len(offered.Endpoints) != 0 || offered.Salvage == nil || !offered.Salvage.CanaryAt.After(l.snapshots[c.Name].EndedAt) {
			t.Errorf("%s on %s: %+v, want no endpoint, and newer data than the snapshot of %s to salvage", c.Name, old, offered, l.snapshots[c.Name].EndedAt)
		}
		keptFiles(w, c, old, l.snapshots[c.Name].TakenAt)
	}
	for _, s := range w.Lab.In(dashtest.SiteA) {
		w.Must(lab.Until(w.Ctx, time.Minute, time.Second, "stop what "+s.Name+" ran", func() (bool, string) {
			out, err := s.Run(w.Ctx, "docker", "ps", "--quiet")
			return err == nil && strings.TrimSpace(out) == "", fmt.Sprint(out, err)
		}))
	}
	var card recovery.Scorecard
	w.Must(lab.Until(w.Ctx, time.Minute, 500*time.Millisecond, "know that the lost nodes are fenced", func() (bool, string) {
		err := w.JSON(w.Ctx, &card, "drill", "score", l.card.ID)
		return card.FencedAfterReturn != nil && *card.FencedAfterReturn, fmt.Sprint(err)
	}))
	w.Keep("scorecard.json", card)
	w.Keep("salvage.json", salvage)
	w.Each(w.In(dashtest.SiteA), func(c dashtest.Customer) error {
		v, err := w.Verify(c, l.snapshots[c.Name].TakenAt)
		if err == nil && (!v.Whole() || v.Kept != 0) {
			t.Errorf("%s after the return: %+v", c.Name, v)
		}
		return err
	})
	for _, c := range w.In(dashtest.SiteA) {
		w.Forget(c, l.snapshots[c.Name].TakenAt)
	}
	lost = nil
}

// keptFiles looks for every file of a customer in its old copy, also those written after the snapshot.
func keptFiles(w *dashtest.World, c dashtest.Customer, node string, snapshot time.Time) {
	w.Helper()
	s, err := w.Server(node)
	w.Must(err)
	out, err := s.Run(w.Ctx, "find", "/var/lib/holdfast/instances/"+c.Name, "-type", "f", "-printf", "%f\n")
	w.Must(err)
	newer := 0
	for _, e := range w.Ledger(c) {
		if !strings.Contains(out, e.Picture+"\n") {
			w.Errorf("%s on %s: the file of %s is gone", c.Name, node, e.ID)
		}
		if e.Acked.After(snapshot) {
			newer++
		}
	}
	if newer == 0 {
		w.Errorf("%s wrote nothing after its snapshot: there is nothing to salvage", c.Name)
	}
}

// servedEpoch is the epoch of the copy that the edge passes a customer's requests to.
func servedEpoch(w *dashtest.World, c dashtest.Customer) string {
	w.Helper()
	out, err := w.Outside("curl", "-sS", "--max-time", "5", "-o", "/dev/null", "-H", "X-Holdfast-Probe: route", "-w", "%header{x-holdfast-epoch}", "https://"+c.Host()+"/readiness")
	w.Must(err)
	return out
}

// count adds to the scorecard what was looked for in the restored data: a document and a file for each entry.
func count(w *dashtest.World, l *loss) {
	w.Helper()
	asked, found := 0, 0
	for _, v := range l.verdicts {
		asked, found = asked+v.Asked, found+v.Found
	}
	w.Holdfast("drill", "count", l.card.ID, "--documents-expected", fmt.Sprint(asked), "--documents-found", fmt.Sprint(found),
		"--files-expected", fmt.Sprint(asked), "--files-found", fmt.Sprint(found))
	w.Must(w.JSON(w.Ctx, &l.card, "drill", "score", l.card.ID))
}

// heal is for a story that failed in the middle: the next one begins with a whole lab.
func heal(w *dashtest.World) {
	if w.Failed() {
		lost = nil
		_ = w.Heal(context.WithoutCancel(w.Ctx), dashtest.SiteA) // the story has failed already
	}
}
