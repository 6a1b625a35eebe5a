//go:build !slim

package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/problem"
	"holdfast/internal/recovery"
)

func drillCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "drill", Short: "Rehearse recovery plans with an injected fault, and read what was measured"}
	cmd.AddCommand(drillRunCommand(), drillListCommand(), drillShowCommand(), drillScoreCommand(), drillCountCommand(), drillAbortCommand())
	return cmd
}

func drillRunCommand() *cobra.Command {
	var lint, yes bool
	order := api.NewDrill{Kind: recovery.Drill}
	cmd := &cobra.Command{
		Use: "run PLAN", Args: exactly("PLAN"), Short: "Inject a fault that ends by itself, recover by the plan, and score it",
		Long: `Inject a fault that ends by itself, recover by the plan, and score it.

Every node of the scope first writes the fault's own end to its disk and acknowledges it; if one does not, nothing is
fired. Outside probes must see the fault before the recovery begins. Ctrl-C leaves the drill running; holdfast drill
abort ends its fault at once. Exit code 0: everything held; 3: some of it did not, the scorecard says what.`,
	}
	cmd.Flags().StringVar(&order.Fault, "fault", "", "kill, cut or stop (default: the plan's own)")
	cmd.Flags().StringVar(&order.For, "for", "", "after how long the fault ends by itself, such as 10m (default: the plan's own)")
	cmd.Flags().BoolVar(&lint, "lint", false, "only say what would fail today")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.RunE = withServer(func(cmd *cobra.Command, c *api.Client, args []string) error {
		order.Plan = args[0]
		if lint {
			return lintPlan(cmd, c, order)
		}
		return runPlan(cmd, c, order, yes)
	})
	return cmd
}

func drillListCommand() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List drills and recoveries, newest first", Args: cobra.NoArgs, RunE: withServer(func(cmd *cobra.Command, c *api.Client, _ []string) error {
		runs, err := c.Drills(cmd.Context())
		if err != nil {
			return err
		}
		return show(cmd, runs, func() error {
			var rows [][]any
			for _, r := range runs {
				rows = append(rows, []any{r.ID, r.Kind, r.Plan.Name, r.Phase, len(r.Members), when(r.StartedAt), when(r.EndedAt), r.Actor})
			}
			return table(cmd, []any{"ID", "KIND", "PLAN", "PHASE", "INSTANCES", "STARTED", "ENDED", "BY"}, rows)
		})
	})}
}

func drillShowCommand() *cobra.Command {
	return &cobra.Command{Use: "show ID", Short: "Show what happened in a drill or a recovery, and its scorecard", Args: exactly("ID"), RunE: withServer(func(cmd *cobra.Command, c *api.Client, args []string) error {
		drill, err := c.Drill(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		card, err := c.Scorecard(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return show(cmd, map[string]any{"drill": drill, "scorecard": card}, func() error {
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "%s %s of plan %s, by %s: %s", drill.Kind, drill.ID, drill.Plan.Name, drill.Actor, drill.Phase)
			if drill.Why != "" {
				fmt.Fprintf(out, " (%s)", drill.Why)
			}
			fmt.Fprintln(out)
			for _, e := range drill.Events {
				fmt.Fprintln(out, eventLine(drill, e))
			}
			fmt.Fprintln(out)
			return drawScorecard(out, card)
		})
	})}
}

func drillScoreCommand() *cobra.Command {
	var form, file string
	cmd := &cobra.Command{Use: "score ID", Short: "Write the scorecard, computed from the events", Args: exactly("ID")}
	cmd.Flags().StringVar(&form, "format", "", "text, json, md or html (default: text, or json with -o json)")
	cmd.Flags().StringVar(&file, "out", "", "file to write; it must not exist")
	cmd.RunE = withServer(func(cmd *cobra.Command, c *api.Client, args []string) error {
		if form == "" && wantsJSON(cmd) {
			form = "json"
		}
		write, err := scoreForm(form)
		if err != nil {
			return err
		}
		card, err := c.Scorecard(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if file == "" {
			return write(cmd.OutOrStdout(), card)
		}
		return writeNew(file, func(w io.Writer) error { return write(w, card) })
	})
	return cmd
}

// scoreForm finds how a scorecard is written.
func scoreForm(form string) (func(io.Writer, recovery.Scorecard) error, error) {
	switch form {
	case "", "text":
		return drawScorecard, nil
	case "json":
		return recovery.WriteJSON, nil
	case "md":
		return recovery.WriteMarkdown, nil
	case "html":
		return recovery.WriteHTML, nil
	}
	return nil, problem.New(problem.Usage, "holdfast drill score ID --format text|json|md|html", "a scorecard has no form %q", form)
}

// writeNew writes a file that was not there before.
func writeNew(path string, write func(io.Writer) error) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return problem.Wrap(err, problem.Usage, "name another file with --out", "scorecard was not written")
	}
	return errors.Join(write(file), file.Close())
}

func drillCountCommand() *cobra.Command {
	var documentsExpected, documentsFound, filesExpected, filesFound int64
	cmd := &cobra.Command{Use: "count ID", Short: "Add to the scorecard what was counted in the restored data", Args: exactly("ID")}
	cmd.Flags().Int64Var(&documentsExpected, "documents-expected", 0, "documents that the snapshots held")
	cmd.Flags().Int64Var(&documentsFound, "documents-found", 0, "documents that are there")
	cmd.Flags().Int64Var(&filesExpected, "files-expected", 0, "files that the snapshots held")
	cmd.Flags().Int64Var(&filesFound, "files-found", 0, "files that are there")
	cmd.RunE = withServer(func(cmd *cobra.Command, c *api.Client, args []string) error {
		given := func(name string, value *int64) *int64 {
			if !cmd.Flags().Changed(name) {
				return nil
			}
			return value
		}
		drill, err := c.CountDrill(cmd.Context(), args[0], api.NewCounts{
			DocumentsExpected: given("documents-expected", &documentsExpected), DocumentsFound: given("documents-found", &documentsFound),
			FilesExpected: given("files-expected", &filesExpected), FilesFound: given("files-found", &filesFound),
		})
		if err != nil {
			return err
		}
		return show(cmd, drill, func() error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "counted for %s %s\n", drill.Kind, drill.ID)
			return err
		})
	})
	return cmd
}

func drillAbortCommand() *cobra.Command {
	return &cobra.Command{Use: "abort ID", Short: "End a drill's fault now; a recovery that has begun is carried through", Args: exactly("ID"), RunE: withServer(func(cmd *cobra.Command, c *api.Client, args []string) error {
		drill, err := c.AbortDrill(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return show(cmd, drill, func() error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s is being aborted\n  next: holdfast drill show %s\n", drill.Kind, drill.ID, drill.ID)
			return err
		})
	})}
}

// eventLine is one event for a person: when since the start, what, where.
func eventLine(drill api.Drill, e recovery.Event) string {
	words := []string{string(e.Kind)}
	if e.Node != "" {
		words = append(words, "on "+e.Node)
	}
	if e.Counts != nil {
		words = append(words, fmt.Sprintf("documents %s of %s, files %s of %s", recovery.Count(e.Counts.DocumentsFound), recovery.Count(e.Counts.DocumentsExpected), recovery.Count(e.Counts.FilesFound), recovery.Count(e.Counts.FilesExpected)))
	}
	if e.Note != "" {
		words = append(words, "("+e.Note+")")
	}
	return fmt.Sprintf("%7s  %s", since(drill.StartedAt, e.At), strings.Join(words, " "))
}

// since shows how long after from at was, with its sign: a fault may have been before the start.
func since(from, at time.Time) string {
	return fmt.Sprintf("%+.1fs", at.Sub(from).Seconds())
}
