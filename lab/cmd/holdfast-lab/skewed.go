package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"holdfast/lab/servers"
)

// skewedCommand builds the agent that `skew` needs.
func skewedCommand() *cobra.Command {
	return &cobra.Command{
		Use: "build-skewed SOURCE BIN", Short: "Build the agent whose clock can be wrong, from the folder of the source", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := filepath.Abs(filepath.Join(args[1], servers.SkewedAgent))
			if err != nil {
				return err
			}
			if err := servers.BuildSkewed(cmd.Context(), args[0], target, "-tags", "slim", "./cmd/holdfast-agent"); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "built", target)
			return err
		},
	}
}
