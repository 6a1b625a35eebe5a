//go:build !slim

package cli

import (
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/problem"
)

// withServer runs do with a client of the server that the context file or the environment names.
func withServer(do func(cmd *cobra.Command, c *api.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		known, err := api.FindContext(os.LookupEnv)
		if err != nil {
			return err
		}
		c, err := api.NewClient(known)
		if err != nil {
			return err
		}
		defer c.Close()
		return do(cmd, c, args)
	}
}

// exactly refuses any other number of arguments, naming those that are wanted.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		return problem.New(problem.Usage, cmd.CommandPath()+" --help", "%s takes %d arguments %v, not %d", cmd.CommandPath(), len(names), names, len(args))
	}
}

// show prints value as JSON with -o json, and otherwise what draw draws.
func show(cmd *cobra.Command, value any, draw func() error) error {
	if wantsJSON(cmd) {
		return printJSON(cmd, value)
	}
	return draw()
}

// table prints rows in columns under heads.
func table(cmd *cobra.Command, heads []any, rows [][]any) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, row := range append([][]any{heads}, rows...) {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, cell)
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

// when shows a moment in the reader's own time; a dash for none.
func when(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return at.Local().Format("2006-01-02 15:04:05")
}
