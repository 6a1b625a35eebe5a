//go:build !slim

package cli

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// A plan that the nodes have overtaken is made anew by the command that made it: asked again only where it would do
// something else, refused where it was shown before, and given up in the end.
func TestApplyMakesAnOvertakenPlanAnew(t *testing.T) {
	moves := []plan.Item{{Instance: "acme", Action: plan.Move}}
	more := append(slices.Clone(moves), plan.Item{Instance: "globex", Action: plan.Retire})
	stale := problem.New(problem.Stale, "holdfast plan -f DIR", "the inventory has changed since it was made")
	for name, c := range map[string]struct {
		refusals int
		next     []plan.Item
		shown    bool // the plan was shown before: --plan ID
		answer   error
		want     string
	}{
		"taken at once":              {want: "p0"},
		"the same again":             {refusals: 2, next: moves, want: "p0 p1 p2"},
		"something else, agreed":     {refusals: 1, next: more, want: "p0 agree:p1 p1"},
		"something else, not agreed": {refusals: 1, next: more, answer: errors.New("no"), want: "p0 agree:p1 no"},
		"shown before":               {refusals: 1, shown: true, want: "p0 the inventory has changed since it was made"},
		"never still":                {refusals: 100, next: moves, want: "p0 p1 p2 p3 p4 p5 the inventory has changed since it was made"},
	} {
		t.Run(name, func(t *testing.T) {
			var did []string
			made := 0
			a := asks{
				apply: func(id string) (plan.Applied, error) {
					did = append(did, id)
					if len(did) <= c.refusals {
						return plan.Applied{}, stale
					}
					return plan.Applied{Operation: "op1"}, nil
				},
				agree: func(p plan.Plan) error { did = append(did, "agree:"+p.ID); return c.answer },
			}
			if !c.shown {
				a.plan = func() (plan.Plan, error) {
					made++
					return plan.Plan{ID: "p" + string(rune('0'+made)), Inventory: "later", Items: c.next}, nil
				}
			}
			_, applied, err := begin(plan.Plan{ID: "p0", Items: moves}, a)
			if err != nil {
				did = append(did, err.Error())
			} else if applied.Operation != "op1" {
				t.Errorf("applied as %+v", applied)
			}
			if got := strings.Join(did, " "); got != c.want {
				t.Errorf("did %s, want %s", got, c.want)
			}
		})
	}
}
