package adopt

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"holdfast/internal/fleet"
	"holdfast/internal/step"
)

func spec(fingerprint string) fleet.Spec {
	return fleet.Spec{Instance: "acme", Fingerprint: fingerprint, Release: "notes/" + fingerprint}
}

func lease(epoch int64, node string) step.FenceArgs { return step.FenceArgs{Epoch: epoch, Node: node} }

func TestDecide(t *testing.T) {
	serving := step.SurveyedInstance{Instance: "acme", Slot: "s3", Epoch: 4, Lease: lease(4, "b1"), Slots: []string{"s2", "s3"}, Spec: spec("new")}
	fenced := step.SurveyedInstance{Instance: "acme", Slot: "s1", Epoch: 1, Lease: lease(4, "b1"), Fenced: true, Slots: []string{"s1", "s9"}, Spec: spec("old")}
	unheard := step.SurveyedInstance{Instance: "acme", Slot: "s1", Epoch: 1, Lease: lease(1, "a1"), Slots: []string{"s1"}, Spec: spec("old")}
	retired := step.SurveyedInstance{Instance: "acme", Slot: "s1", Epoch: 2, Lease: lease(2, ""), Fenced: true, Retired: true, Slots: []string{"s1"}, Spec: spec("old")}
	beside := step.SurveyedInstance{Instance: "acme", Slots: []string{"s5"}}
	for name, c := range map[string]struct {
		copies map[string]step.SurveyedInstance
		want   string // node slot epoch spec retired last former
	}{
		"where it serves":                {map[string]step.SurveyedInstance{"b1": serving}, "b1 s3 4 new false 3 []"},
		"with a fenced copy elsewhere":   {map[string]step.SurveyedInstance{"a1": fenced, "b1": serving}, "b1 s3 4 new false 9 [a1]"},
		"with a copy that heard nothing": {map[string]step.SurveyedInstance{"a1": unheard, "b1": serving}, "b1 s3 4 new false 3 [a1]"},
		"its writer is not seen":         {map[string]step.SurveyedInstance{"a1": fenced}, "b1  4 old false 9 [a1]"},
		"only an old copy speaks":        {map[string]step.SurveyedInstance{"a1": unheard}, "a1 s1 1 old false 1 []"},
		"retired":                        {map[string]step.SurveyedInstance{"a1": retired}, "a1 s1 2 old true 1 []"},
		"a copy beside is no writer":     {map[string]step.SurveyedInstance{"a1": beside}, "none"},
		"a copy beside another's":        {map[string]step.SurveyedInstance{"a1": beside, "b1": serving}, "b1 s3 4 new false 5 [a1]"},
	} {
		told := map[string]step.SurveyResult{}
		for node, held := range c.copies {
			told[node] = step.SurveyResult{Instances: []step.SurveyedInstance{held}}
		}
		got := "none"
		for _, f := range Decide(told, map[string]string{"a1": "a", "b1": "b"}) {
			got = fmt.Sprint(f.Node, " ", f.Slot, " ", f.Epoch, " ", f.Spec, " ", f.Retired, " ", f.LastNo, " ", f.Former)
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

// Whatever was claimed in which order, and whoever heard of it: when the last writer is among the nodes that tell, it is
// adopted, and never is a node adopted as a writer that has heard of a later one.
func TestDecideNeverMakesASecondWriter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := []string{"a", "b", "c"}
		held := map[string]step.SurveyedInstance{}
		var last step.FenceArgs
		for epoch := int64(1); epoch <= int64(rapid.IntRange(1, 6).Draw(t, "claims")); epoch++ {
			last = lease(epoch, rapid.SampledFrom(nodes).Draw(t, "writer"))
			for _, node := range nodes {
				copied := held[node]
				switch {
				case node == last.Node:
					copied = step.SurveyedInstance{Instance: "acme", Slot: fmt.Sprint("s", epoch), Epoch: epoch, Lease: last, Slots: append(slices.Clone(copied.Slots), fmt.Sprint("s", epoch)), Spec: spec("x")}
				case rapid.Bool().Draw(t, "hears"):
					copied.Instance, copied.Lease, copied.Fenced = "acme", last, copied.Slot != ""
				}
				held[node] = copied
			}
		}
		told := map[string]step.SurveyResult{}
		for _, node := range nodes {
			if len(held[node].Slots) > 0 && rapid.Bool().Draw(t, "tells") {
				told[node] = step.SurveyResult{Instances: []step.SurveyedInstance{held[node]}}
			}
		}
		for _, f := range Decide(told, nil) {
			if _, speaks := told[last.Node]; speaks && (f.Node != last.Node || f.Epoch != last.Epoch || f.Slot != held[last.Node].Slot) {
				t.Fatalf("adopted %+v, and %+v is the writer", f.Adopted, last)
			}
			if f.Slot != "" && held[f.Node].Fenced {
				t.Fatalf("adopted the fenced copy on %s", f.Node)
			}
			for node, result := range told {
				if f.Slot != "" && result.Instances[0].Lease.Epoch > f.Epoch {
					t.Fatalf("adopted epoch %d, and %s has heard of %d", f.Epoch, node, result.Instances[0].Lease.Epoch)
				}
			}
		}
	})
}
