//go:build !slim

package cli

import (
	"cmp"
	"fmt"
	"strings"

	"holdfast/internal/plan"
)

// drawPlan draws a plan: one block for each instance, with + for create, ~ for change, > for move, - for retire, = for
// what stays away from home, ! for what is blocked and ? for what cannot be foretold; a count; the next command.
func drawPlan(p plan.Plan) string {
	var out strings.Builder
	fmt.Fprintf(&out, "plan %s of fleet %.12s%s\n", p.ID, p.Fleet, ofSelector(p.Selector))
	width := nameWidth(p)
	for _, item := range p.Items {
		drawItem(&out, item, width)
	}
	for _, b := range p.Blocked {
		fmt.Fprintf(&out, "! %-*s  blocked: %s\n    next: %s\n", width, b.Instance, b.Why, b.Next)
	}
	for _, u := range p.Unknown {
		fmt.Fprintf(&out, "? %-*s  %s\n", width, cmp.Or(u.Instance, "all"), u.Why)
	}
	for _, a := range p.Away {
		drawAway(&out, a, width)
	}
	out.WriteString(planSummary(p))
	return out.String()
}

// drawAway says where an instance stays and how to have it otherwise.
func drawAway(out *strings.Builder, a plan.Away, width int) {
	fmt.Fprintf(out, "= %-*s  stays on %s (%s), where it was restored; it is declared in %s\n", width, a.Instance, a.At.Node, a.At.Site, a.Home.Site)
	keep := fmt.Sprintf("placement: {site: %s}", a.At.Site)
	if a.Note != "" {
		fmt.Fprintf(out, "    %s\n", a.Note)
		keep += " and a vault elsewhere"
	}
	fmt.Fprintf(out, "    to send it home: holdfast plan -f DIR -l name=%s --home; to keep it there, write %s\n", a.Instance, keep)
}

func ofSelector(selector string) string {
	if selector == "" {
		return ""
	}
	return ", only " + selector
}

func nameWidth(p plan.Plan) int {
	width := 0
	for _, item := range p.Items {
		width = max(width, len(item.Instance))
	}
	for _, b := range p.Blocked {
		width = max(width, len(b.Instance))
	}
	for _, a := range p.Away {
		width = max(width, len(a.Instance))
	}
	for _, u := range p.Unknown {
		width = max(width, len(u.Instance))
	}
	return width
}

// drawItem draws one instance: what happens where, then every value that changes, then what a reader should know.
func drawItem(out *strings.Builder, item plan.Item, width int) {
	fmt.Fprintf(out, "%s %-*s  %s\n", planSign(item.Action), width, item.Instance, planDeed(item))
	for _, c := range item.Changes {
		fmt.Fprintf(out, "    %s\n", drawDifference(c))
	}
	for _, note := range item.Notes {
		fmt.Fprintf(out, "    %s\n", note)
	}
}

func planSign(a plan.Action) string {
	switch a {
	case plan.Create:
		return "+"
	case plan.Change:
		return "~"
	case plan.Move:
		return ">"
	case plan.Retire:
		return "-"
	}
	return " "
}

// planDeed says in words what an item does.
func planDeed(item plan.Item) string {
	switch item.Action {
	case plan.Create:
		return fmt.Sprintf("create on %s (%s), %s", item.To.Node, item.To.Site, item.Spec.Release)
	case plan.Change:
		deed := "change on " + item.To.Node
		if item.Again {
			deed = "start again on " + item.To.Node
		}
		if len(item.After) > 0 {
			deed += ", after ring " + item.After[0]
		}
		return deed
	case plan.Move:
		deed := "move"
		if item.Home {
			deed = "move home"
		}
		return fmt.Sprintf("%s from %s (%s) to %s (%s)", deed, item.From.Node, item.From.Site, item.To.Node, item.To.Site)
	case plan.Retire:
		return "retire from " + item.From.Node
	}
	return string(item.Action)
}

func drawDifference(d plan.Difference) string {
	switch {
	case d.From == "":
		return fmt.Sprintf("+ %s: %s", d.Name, d.To)
	case d.To == "":
		return fmt.Sprintf("- %s: %s", d.Name, d.From)
	}
	return fmt.Sprintf("%s: %s -> %s", d.Name, d.From, d.To)
}

// planSummary counts, and says what to type next.
func planSummary(p plan.Plan) string {
	if p.Empty() && len(p.Unknown) == 0 {
		if len(p.Away) > 0 {
			return fmt.Sprintf("nothing to do; away from home: %d\n", len(p.Away))
		}
		return "nothing to do: what is matches what is declared\n"
	}
	if p.Empty() {
		return "nothing to do as far as is known\n"
	}
	counts := fmt.Sprintf("\n%d to create, %d to change, %d to move, %d to retire; %d blocked, %d unknown\n",
		p.Count(plan.Create), p.Count(plan.Change), p.Count(plan.Move), p.Count(plan.Retire), len(p.Blocked), len(p.Unknown))
	if len(p.Items) == 0 {
		return counts
	}
	return counts + "next: holdfast apply --plan " + p.ID + "\n"
}
