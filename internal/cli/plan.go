//go:build !slim

package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/fleet"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// planCommand shows what apply would do. It ends with 0 when there is nothing to do and with 4 when there is.
func planCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan -f DIR [-l SELECTOR]",
		Short: "Show what would change if the fleet files were applied; exit code 4 when something would",
		Args:  cobra.NoArgs,
		RunE: withServer(func(cmd *cobra.Command, c *api.Client, _ []string) error {
			p, err := makePlan(cmd, c)
			if err != nil {
				return err
			}
			if err := show(cmd, p, func() error { return write(cmd, drawPlan(p)) }); err != nil {
				return err
			}
			if !p.Empty() {
				return exitWith(problem.ExitChangesPending)
			}
			return nil
		}),
	}
	addFleetFlag(cmd)
	addSelectorFlag(cmd)
	addHomeFlag(cmd)
	return cmd
}

// addHomeFlag gives a verb --home.
func addHomeFlag(cmd *cobra.Command) {
	cmd.Flags().Bool("home", false, "send home what a recovery or a restore took away; without it that stays where it is")
}

// addSelectorFlag gives a verb -l SELECTOR.
func addSelectorFlag(cmd *cobra.Command) {
	cmd.Flags().StringP("selector", "l", "", "instances to plan for, such as ring=canary,site=par1|ams1 or name=acme")
}

// makePlan reads the fleet here, so that what is wrong names the files as the person knows them, and lets the server
// compare it with what it last saw.
func makePlan(cmd *cobra.Command, c *api.Client) (plan.Plan, error) {
	dir, err := cmd.Flags().GetString("fleet")
	if err != nil {
		return plan.Plan{}, err
	}
	selector, err := cmd.Flags().GetString("selector")
	if err != nil {
		return plan.Plan{}, err
	}
	home, err := cmd.Flags().GetBool("home")
	if err != nil {
		return plan.Plan{}, err
	}
	if _, err := fleet.ParseSelector(selector); err != nil {
		return plan.Plan{}, problem.Wrap(err, problem.Usage, cmd.CommandPath()+" -l ring=canary,site=par1", "nothing was planned")
	}
	if _, err := fleet.Load(dir); err != nil {
		return plan.Plan{}, err
	}
	files, err := fleet.Collect(dir)
	if err != nil {
		return plan.Plan{}, err
	}
	return c.MakePlan(cmd.Context(), plan.Request{Files: files, Selector: selector, Home: home})
}

// write puts text on the command's output.
func write(cmd *cobra.Command, text string) error {
	_, err := fmt.Fprint(cmd.OutOrStdout(), text)
	return err
}
