package e2e_test

import (
	"encoding/json"
	"strings"
	"testing"

	"holdfast/lab"
)

// TestDrillEndsByItself rehearses the loss of a site with a fault that ends on the nodes: the instance is rebuilt in
// the other site, the fault is over when the drill is, nothing of it is left, and at no moment could two copies have
// taken a write.
func TestDrillEndsByItself(t *testing.T) {
	w := begin(t, 2)
	c := w.In(lab.SiteA)[0]
	for _, fault := range []string{"kill", "stop"} {
		w.holdfast("backup", "run", "instance/"+c.Instance)
		out, err := w.Notes.Run(w.ctx, "drill", "run", "lose-"+lab.SiteA, "--fault", fault, "--for", "15s", "--yes", "-o", "json")
		var card struct {
			Verdict          string   `json:"verdict"`
			Reasons          []string `json:"reasons"`
			TwoWriterSeconds *float64 `json:"two_writer_seconds"`
			ManualCommands   *int     `json:"manual_commands"`
			Fault            struct {
				UndoneAt *string `json:"undone_at"`
				Residue  *string `json:"residue"`
			} `json:"fault"`
		}
		if json.Unmarshal([]byte(out), &card) != nil {
			t.Fatalf("drill with %s: %v\n%s", fault, err, out)
		}
		if err != nil || card.Verdict != "pass" {
			t.Fatalf("drill with %s: %s: %s (%v)", fault, card.Verdict, strings.Join(card.Reasons, "; "), err)
		}
		if card.Fault.UndoneAt == nil || card.Fault.Residue == nil || *card.Fault.Residue != "" {
			t.Errorf("drill with %s: the fault is not known to be over: %+v", fault, card.Fault)
		}
		if card.TwoWriterSeconds == nil || *card.TwoWriterSeconds != 0 {
			t.Errorf("drill with %s: two sites could have taken writes: %v", fault, card.TwoWriterSeconds)
		}
		w.whole("after the drill with "+fault, c)
		w.must(w.AllSeen(w.ctx))
		w.holdfast("apply", "-f", w.Fleet, "--yes")
		w.whole("moved home", c)
	}
}
