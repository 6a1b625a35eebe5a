//go:build !slim

package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/access"
	"holdfast/internal/api"
)

func joinTokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "join-token", Short: "Create and list tokens that admit one node once"}
	cmd.AddCommand(joinTokenCreateCommand(), joinTokenListCommand())
	return cmd
}

func joinTokenCreateCommand() *cobra.Command {
	var ask api.NewJoinToken
	cmd := &cobra.Command{Use: "create", Short: "Create a join token and print it once", Args: cobra.NoArgs}
	cmd.Flags().StringVar(&ask.Site, "site", "", "site of the node")
	cmd.Flags().StringSliceVar(&ask.Roles, "roles", nil, "roles it may take: run, spare, vault, edge, probe")
	cmd.Flags().StringVar(&ask.Node, "node", "", "the one node it admits; it may take the place of a node of that name")
	cmd.Flags().StringVar(&ask.Ends, "ends", "1h", "how long it lives")
	cmd.RunE = withServer(func(cmd *cobra.Command, c *api.Client, _ []string) error {
		made, err := c.CreateJoinToken(cmd.Context(), ask)
		if err != nil {
			return err
		}
		return show(cmd, made, func() error { _, err := fmt.Fprintln(cmd.OutOrStdout(), made.Text); return err })
	})
	return cmd
}

func joinTokenListCommand() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List join tokens", Args: cobra.NoArgs, RunE: withServer(func(cmd *cobra.Command, c *api.Client, _ []string) error {
		tokens, err := c.JoinTokens(cmd.Context())
		if err != nil {
			return err
		}
		return show(cmd, tokens, func() error {
			var rows [][]any
			for _, t := range tokens {
				rows = append(rows, []any{t.ID, t.Bounds.Site, strings.Join(t.Bounds.Roles, ","), joinTokenState(t, time.Now()), when(t.CreatedAt), t.CreatedBy})
			}
			return table(cmd, []any{"ID", "SITE", "ROLES", "STATE", "CREATED", "BY"}, rows)
		})
	})}
}

func joinTokenState(t access.JoinToken, now time.Time) string {
	switch {
	case !t.UsedAt.IsZero():
		return "used by " + t.UsedBy
	case now.After(t.EndsAt):
		return "ended"
	}
	return "ends " + when(t.EndsAt)
}
