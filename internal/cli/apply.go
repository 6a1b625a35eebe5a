//go:build !slim

package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// applyCommand plans, shows the plan, asks, and does it. With --plan it does exactly the plan that was shown before.
func applyCommand() *cobra.Command {
	var id string
	var yes, detach bool
	cmd := &cobra.Command{
		Use:   "apply -f DIR [-l SELECTOR] | apply --plan ID",
		Short: "Make it so: plan, show the plan, and carry it out",
		Long: "With -f DIR, a plan that the nodes overtake before it begins is made anew, and shown again if it would do something else.\n" +
			"With --plan ID, a plan that was shown before is carried out, or refused when the fleet or the nodes have moved on\n" +
			"since. Removing an instance's file stops it and keeps its data and its backups.",
		Args: cobra.NoArgs,
		RunE: withServer(func(cmd *cobra.Command, c *api.Client, _ []string) error {
			p, err := planFor(cmd, c, id)
			if err != nil {
				return err
			}
			a := asks{
				apply: func(id string) (plan.Applied, error) { return c.ApplyPlan(cmd.Context(), id) },
				agree: func(p plan.Plan) error { return agree(cmd, p, yes) },
			}
			if id == "" {
				a.plan = func() (plan.Plan, error) { return makePlan(cmd, c) }
			}
			if err := a.agree(p); err != nil {
				return err
			}
			p, applied, err := begin(p, a)
			if err != nil {
				return err
			}
			if len(p.Items) == 0 {
				return declared(cmd, p, applied)
			}
			return carryOut(cmd, c, p, applied, detach)
		}),
	}
	addFleetFlag(cmd)
	addSelectorFlag(cmd)
	addHomeFlag(cmd)
	cmd.Flags().StringVar(&id, "plan", "", "id of a plan that holdfast plan has shown")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not wait for the end")
	cmd.MarkFlagsMutuallyExclusive("plan", "fleet")
	cmd.MarkFlagsMutuallyExclusive("plan", "selector")
	cmd.MarkFlagsMutuallyExclusive("plan", "home")
	return cmd
}

// planFor is the kept plan with that id, or a new one.
func planFor(cmd *cobra.Command, c *api.Client, id string) (plan.Plan, error) {
	if id != "" {
		return c.Plan(cmd.Context(), id)
	}
	return makePlan(cmd, c)
}

// agree shows the plan and wants a yes. What is shown goes to standard error with -o json, whose output is the
// operation's.
func agree(cmd *cobra.Command, p plan.Plan, yes bool) error {
	out := cmd.OutOrStdout()
	if wantsJSON(cmd) {
		out = cmd.ErrOrStderr()
	}
	if _, err := fmt.Fprint(out, drawPlan(p)); err != nil {
		return err
	}
	if yes || len(p.Items) == 0 {
		return nil
	}
	fmt.Fprint(cmd.ErrOrStderr(), "\nType yes to do this: ")
	typed, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && err != io.EOF {
		return fmt.Errorf("read the answer: %w", err)
	}
	if strings.TrimSpace(typed) != "yes" {
		return problem.New(problem.Usage, "holdfast apply --plan "+p.ID+" --yes", "nothing was applied: the answer was not yes")
	}
	return nil
}

// asks is what begin asks of the server and of the person.
type asks struct {
	apply func(id string) (plan.Applied, error)
	plan  func() (plan.Plan, error) // nil: the plan is one that was shown before, and is not made anew
	agree func(plan.Plan) error
}

// againMost is how often a plan of this command's own is made anew when the nodes have moved on meanwhile.
const againMost = 5

// begin applies the plan. One that this command made itself and that the nodes have overtaken is made anew: where it
// would do the same, the answer given holds; where it would not, it is shown again. One that was shown before is refused.
func begin(p plan.Plan, a asks) (plan.Plan, plan.Applied, error) {
	for tries := 0; ; tries++ {
		applied, err := a.apply(p.ID)
		if err == nil || a.plan == nil || tries == againMost || problem.KindOf(err) != problem.Stale {
			return p, applied, err
		}
		next, err := a.plan()
		if err == nil && !p.DoesAs(next) {
			err = a.agree(next)
		}
		if err != nil {
			return p, applied, err
		}
		p = next
	}
}

// declared tells of a fleet that is now the declared one and changes nothing on nodes: a recovery plan alone, for example.
func declared(cmd *cobra.Command, p plan.Plan, applied plan.Applied) (err error) {
	if wantsJSON(cmd) {
		err = printJSON(cmd, applied)
	}
	return errors.Join(err, leftOut(p))
}

// carryOut watches the operation that was begun.
func carryOut(cmd *cobra.Command, c *api.Client, p plan.Plan, applied plan.Applied, detach bool) error {
	shown, err := c.Operation(cmd.Context(), applied.Operation)
	if err != nil {
		return err
	}
	if err := begun(cmd, c, shown.Operation, detach); err != nil {
		return err
	}
	return leftOut(p)
}

// leftOut is the error of an apply that was done, and could not touch everything.
func leftOut(p plan.Plan) error {
	if len(p.Blocked) == 0 {
		return nil
	}
	names := make([]string, len(p.Blocked))
	for i, b := range p.Blocked {
		names[i] = b.Instance
	}
	return problem.New(problem.Partial, p.Blocked[0].Next, "%d instances are blocked and were not touched: %s", len(names), strings.Join(names, ", "))
}
