package servers_test

import (
	"testing"
	"time"

	"holdfast/lab"
	"holdfast/test/e2e/dashtest"
)

// TestBackupUnderSteadyWrites backs a database and its files up while a customer writes, and restores the snapshot: every
// document acknowledged before the dump began is there, with the file that it refers to, and none is there in part.
func TestBackupUnderSteadyWrites(t *testing.T) {
	w := shared.World(t)
	w.Home()
	c := w.In(dashtest.SiteB)[0]
	stop := w.StartWriting(c, "steady", 20)
	awaitWrites(w, c, 60)
	snapshot := w.BackUp(c)[c.Name]
	awaitWrites(w, c, len(w.Ledger(c))+20)
	stop()
	before, after := 0, 0
	for _, e := range w.Ledger(c) {
		if e.Acked.Before(snapshot.TakenAt) {
			before++
		} else {
			after++
		}
	}
	if before < 60 || after < 20 {
		t.Fatalf("%d writes before the dump began and %d after: they do not surround it", before, after)
	}
	w.Holdfast("restore", "instance/"+c.Name, "--snapshot", snapshot.ID)
	w.Must(w.Serves(c, time.Minute))
	v, err := w.Verify(c, snapshot.TakenAt)
	w.Must(err)
	w.Keep("writes.json", map[string]any{"customer": c.Name, "snapshot": snapshot, "verdict": v})
	if !v.Whole() || v.Asked != before || v.Asked+v.Later != before+after {
		t.Errorf("of %d writes before the dump and %d after it: %+v", before, after, v)
	}
	if v.Kept == v.Later {
		t.Errorf("all %d writes after the dump are there: the snapshot was not restored", v.Later)
	}
	w.Forget(c, snapshot.TakenAt)
}

func awaitWrites(w *dashtest.World, c dashtest.Customer, n int) {
	w.Helper()
	w.Must(lab.Until(w.Ctx, time.Minute, 200*time.Millisecond, "write as "+c.Name, func() (bool, string) {
		return len(w.Ledger(c)) >= n, "too few"
	}))
}
