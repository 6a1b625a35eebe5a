//go:build !slim

package cli

import (
	"github.com/spf13/cobra"

	"holdfast/internal/api"
)

func adoptCommand() *cobra.Command {
	var ask api.NewAdopt
	var detach bool
	cmd := &cobra.Command{
		Use: "adopt", Short: "Let a rebuilt server take over what its nodes and vaults hold", Args: cobra.NoArgs,
		Long: "Ask every node which instances it holds and every vault which snapshots, and take that for what is. It starts and\n" +
			"stops nothing. A server made by `holdfast server rebuild` plans nothing and tells nodes nothing before this is done.\n" +
			"It may be run again when more nodes are back: what was adopted once stays as it is.",
	}
	cmd.Flags().BoolVar(&ask.WithoutSilent, "without-silent", false, "go on although some nodes that have joined are not in reach")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not watch")
	cmd.RunE = withServer(func(cmd *cobra.Command, c *api.Client, _ []string) error {
		o, err := c.Adopt(cmd.Context(), ask)
		if err != nil {
			return err
		}
		return begun(cmd, c, o, detach)
	})
	return cmd
}
