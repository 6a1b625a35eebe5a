//go:build !slim

package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
)

func nodeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Turn off a node's certificates"}
	cmd.AddCommand(nodeRevokeCommand())
	return cmd
}

func nodeRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "revoke NAME", Short: "Refuse every certificate of a node from now on; what runs on it goes on", Args: exactly("NAME"),
		RunE: withServer(func(cmd *cobra.Command, c *api.Client, args []string) error {
			node, err := c.RevokeNode(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return show(cmd, node, func() error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "node %s is revoked\n  to let it in again: holdfast join-token create --node %s --site %s --roles run\n", node.Node, node.Node, node.Site)
				return err
			})
		}),
	}
}
