//go:build !slim

package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/problem"
	"holdfast/internal/recovery"
)

func recoverCommand() *cobra.Command {
	var lint, yes, force bool
	cmd := &cobra.Command{
		Use: "recover PLAN", Args: exactly("PLAN"), Short: "Rebuild what a lost site or node held, by a recovery plan, for real",
		Long: `Rebuild what a lost site or node held, by a recovery plan, for real.

It shows who would go where and what would fail, asks, and then follows the recovery to its end and prints the
scorecard. Ctrl-C leaves it running. Exit code 0: everything held; 3: some of it did not, the scorecard says what.`,
	}
	cmd.Flags().BoolVar(&lint, "lint", false, "only say what would fail today")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&force, "force", false, "go on although findings say that some of it would fail")
	cmd.RunE = withServer(func(cmd *cobra.Command, c *api.Client, args []string) error {
		order := api.NewDrill{Kind: recovery.Real, Plan: args[0], Force: force}
		if lint {
			return lintPlan(cmd, c, order)
		}
		return runPlan(cmd, c, order, yes)
	})
	return cmd
}

// lintPlan shows the draft; a plan that would fail ends the command as an error does.
func lintPlan(cmd *cobra.Command, c *api.Client, order api.NewDrill) error {
	draft, err := c.DraftDrill(cmd.Context(), order)
	if err != nil {
		return err
	}
	if err := show(cmd, draft, func() error { return drawDraft(cmd.OutOrStdout(), draft) }); err != nil {
		return err
	}
	if draft.Broken() {
		return exitWith(1)
	}
	return nil
}

// runPlan shows the draft, asks, starts, and follows to the end.
func runPlan(cmd *cobra.Command, c *api.Client, order api.NewDrill, yes bool) error {
	draft, err := c.DraftDrill(cmd.Context(), order)
	if err != nil {
		return err
	}
	if err := drawDraft(cmd.ErrOrStderr(), draft); err != nil {
		return err
	}
	if !yes {
		if err := confirm(cmd, order.Plan, len(draft.Assignments)); err != nil {
			return err
		}
	}
	drill, err := c.StartDrill(cmd.Context(), order)
	if err != nil {
		return err
	}
	if err := follow(cmd, c, drill); err != nil {
		return err
	}
	return judge(cmd, c, drill.ID)
}

// confirm wants the plan's name typed: a recovery is not started by a key pressed too early.
func confirm(cmd *cobra.Command, plan string, instances int) error {
	fmt.Fprintf(cmd.ErrOrStderr(), "\n%d instances will serve from elsewhere, and their old places will be fenced. Type %s to go on: ", instances, plan)
	typed, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && err != io.EOF {
		return fmt.Errorf("read the answer: %w", err)
	}
	if strings.TrimSpace(typed) != plan {
		return problem.New(problem.Usage, cmd.CommandPath()+" "+plan+" --yes", "nothing was started: the answer was not %s", plan)
	}
	return nil
}

// followEvery is how often a run is asked for while one watches.
const followEvery = 300 * time.Millisecond

// follow prints what happens to a run, one line each, until it has ended. It prints to standard error, so that
// standard output holds only the scorecard.
func follow(cmd *cobra.Command, c *api.Client, drill api.Drill) error {
	out, told, recovered := cmd.ErrOrStderr(), 0, 0
	fmt.Fprintf(out, "\n%s %s\n", drill.Kind, drill.ID)
	for {
		for ; told < len(drill.Events); told++ {
			fmt.Fprintln(out, eventLine(drill, drill.Events[told]))
		}
		if drill.Recovered > recovered {
			recovered = drill.Recovered
			fmt.Fprintf(out, "%7s  %d of %d instances restored\n", since(drill.StartedAt, time.Now()), recovered, len(drill.Members))
		}
		if drill.Phase.Over() {
			return nil
		}
		if err := pause(cmd.Context(), followEvery); err != nil {
			fmt.Fprintf(out, "holdfast: it goes on without you\n  next: holdfast drill show %s\n", drill.ID)
			return err
		}
		next, err := c.Drill(cmd.Context(), drill.ID)
		if err != nil && problem.KindOf(err) != problem.Unavailable {
			return err
		}
		if err == nil { // a server that is away for a moment is asked again
			drill = next
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// judge prints the scorecard and ends with 3 when it did not pass.
func judge(cmd *cobra.Command, c *api.Client, id string) error {
	card, err := c.Scorecard(cmd.Context(), id)
	if err != nil {
		return err
	}
	if err := show(cmd, card, func() error { return drawScorecard(cmd.OutOrStdout(), card) }); err != nil {
		return err
	}
	if card.Verdict != recovery.Pass {
		return exitWith(problem.ExitCode(problem.New(problem.Partial, "", "")))
	}
	return nil
}
