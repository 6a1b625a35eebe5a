//go:build !slim

package cli

import (
	"testing"

	"holdfast/internal/fleet"
	"holdfast/internal/plan"
)

func TestDrawPlan(t *testing.T) {
	golden(t, "plan", drawPlan(plan.Plan{
		ID: "0123456789abcdef0123", Fleet: "fedcba9876543210fedcba", Selector: "site=par1",
		Items: []plan.Item{
			{Instance: "acme", Action: plan.Create, To: plan.Where{Site: "par1", Node: "par1-1"}, Spec: fleet.Spec{Release: "notes/v1.0.0"}},
			{Instance: "globex", Action: plan.Change, Ring: "everyone", After: []string{"staging"}, From: plan.Where{Site: "par1", Node: "par1-2"}, To: plan.Where{Site: "par1", Node: "par1-2"},
				Changes: []plan.Difference{
					{Name: "release", From: "notes/v1.0.0", To: "notes/v1.1.0"},
					{Name: "secrets.session_key.version", From: "[sealed]", To: "[sealed]"},
					{Name: "services.api.env.MODE", To: "calm"},
					{Name: "values.colour", From: "red"},
				}},
			{Instance: "hooli", Action: plan.Change, Again: true, To: plan.Where{Node: "par1-1"}, Notes: []string{"it was stopped on order"}},
			{Instance: "initech", Action: plan.Move, From: plan.Where{Site: "ams1", Node: "ams1-1"}, To: plan.Where{Site: "par1", Node: "par1-1"},
				Notes: []string{"it does not serve from the backup to the switch; the old copy stays on ams1-1, fenced"}},
			{Instance: "stark", Action: plan.Move, Home: true, From: plan.Where{Site: "ams1", Node: "ams1-1"}, To: plan.Where{Site: "par1", Node: "par1-1"}},
			{Instance: "umbrella", Action: plan.Retire, From: plan.Where{Site: "par1", Node: "par1-2"},
				Notes: []string{"it stops; its data stays on par1-2 and its backups in the vault"}},
		},
		Blocked: []plan.Blocked{{Instance: "vandelay", Why: "node par1-2 does not hold its data in slot s1 any more", Next: "holdfast restore instance/vandelay"}},
		Unknown: []plan.Unknown{{Instance: "wonka", Why: "par1-9, where it is placed, has not been seen for 7m"}, {Why: "no node with role edge is seen: whether instances can be reached is not known"}},
		Away:    []plan.Away{{Instance: "tyrell", At: plan.Where{Site: "ams1", Node: "ams1-2"}, Home: plan.Where{Site: "par1"}, Note: "its vault ams1-vault stands in ams1 too: the loss of that site would now take both"}},
	}))
}

func TestDrawPlanWithNothingToDo(t *testing.T) {
	for name, p := range map[string]plan.Plan{
		"plan of fleet \nnothing to do: what is matches what is declared\n":                                                        {},
		"plan of fleet \n? acme  out of reach\nnothing to do as far as is known\n":                                                 {Unknown: []plan.Unknown{{Instance: "acme", Why: "out of reach"}}},
		"plan of fleet \n! a  blocked: b\n    next: c\n\n0 to create, 0 to change, 0 to move, 0 to retire; 1 blocked, 0 unknown\n": {Blocked: []plan.Blocked{{Instance: "a", Why: "b", Next: "c"}}},
		"plan of fleet \n= acme  stays on ams1-2 (ams1), where it was restored; it is declared in par1\n    to send it home: holdfast plan -f DIR -l name=acme --home; to keep it there, write placement: {site: ams1}\nnothing to do; away from home: 1\n": {Away: []plan.Away{{Instance: "acme", At: plan.Where{Site: "ams1", Node: "ams1-2"}, Home: plan.Where{Site: "par1"}}}},
	} {
		p.ID = ""
		if got := drawPlan(p); got != "plan "+name[len("plan"):] {
			t.Errorf("drew\n%q\nwant\n%q", got, name)
		}
	}
}
