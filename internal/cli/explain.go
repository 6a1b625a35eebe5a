//go:build !slim

package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"holdfast/internal/fleet"
	"holdfast/internal/problem"
)

// explainCommand shows for every setting of an instance which layer won and which lost.
func explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain instance/NAME -f DIR",
		Short: "Show where every setting of an instance comes from, and what it overrode",
		Args:  oneArgument("instance/NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := instanceName(args[0])
			if err != nil {
				return err
			}
			f, err := loadFleet(cmd)
			if err != nil {
				return err
			}
			explained, err := f.Explain(name)
			if err != nil {
				return err
			}
			if wantsJSON(cmd) {
				return printJSON(cmd, explained)
			}
			return drawExplained(cmd.OutOrStdout(), explained)
		},
	}
	addFleetFlag(cmd)
	return cmd
}

// oneArgument refuses anything but one argument, and says which.
func oneArgument(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return problem.New(problem.Usage, cmd.CommandPath()+" "+what, "%s: takes %s, not %d arguments", cmd.CommandPath(), what, len(args))
		}
		return nil
	}
}

// instanceName reads instance/NAME; a bare NAME is taken too.
func instanceName(text string) (string, error) {
	kind, name, found := strings.Cut(text, "/")
	if !found {
		return text, nil
	}
	if kind != "instance" || name == "" {
		return "", problem.New(problem.Usage, "holdfast explain instance/NAME", "%q is not instance/NAME", text)
	}
	return name, nil
}

// drawExplained prints a table: the winner of each setting, and below it the losers from the highest layer down.
func drawExplained(out io.Writer, e fleet.Explained) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "SETTING\tVALUE\tFROM\tAT\n") //nolint:errcheck // a tabwriter keeps its error for Flush
	for _, s := range e.Settings {
		drawGiven(table, s.Name, s.Winner)
		for _, loser := range s.Losers {
			drawGiven(table, "  over", loser)
		}
	}
	return table.Flush()
}

func drawGiven(table io.Writer, name string, g fleet.Given) {
	value, at := "(must be given)", ""
	if g.Value.Given {
		value = fmt.Sprintf("%q", g.Value.Text)
	}
	if g.File != "" {
		at = fmt.Sprintf("%s:%d", g.File, g.Line)
	}
	fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", name, value, g.Layer, at) //nolint:errcheck // a tabwriter keeps its error for Flush
}
