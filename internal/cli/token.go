//go:build !slim

package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/access"
	"holdfast/internal/api"
)

func tokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Create, list and revoke API tokens"}
	cmd.AddCommand(tokenCreateCommand(), tokenListCommand(), tokenRevokeCommand())
	return cmd
}

func tokenCreateCommand() *cobra.Command {
	var role, ends string
	cmd := &cobra.Command{Use: "create NAME", Short: "Create an API token and print it once", Args: exactly("NAME")}
	cmd.Flags().StringVar(&role, "role", string(access.Viewer), "viewer, operator or admin")
	cmd.Flags().StringVar(&ends, "ends", "", "how long it lives, such as 24h (default: until it is revoked)")
	cmd.RunE = withServer(func(cmd *cobra.Command, c *api.Client, args []string) error {
		parsed, err := access.ParseRole(role)
		if err != nil {
			return err
		}
		made, err := c.CreateToken(cmd.Context(), api.NewToken{Name: args[0], Role: parsed, Ends: ends})
		if err != nil {
			return err
		}
		return show(cmd, made, func() error { _, err := fmt.Fprintln(cmd.OutOrStdout(), made.Text); return err })
	})
	return cmd
}

func tokenListCommand() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List API tokens", Args: cobra.NoArgs, RunE: withServer(func(cmd *cobra.Command, c *api.Client, _ []string) error {
		tokens, err := c.Tokens(cmd.Context())
		if err != nil {
			return err
		}
		return show(cmd, tokens, func() error {
			var rows [][]any
			for _, t := range tokens {
				rows = append(rows, []any{t.ID, t.Name, t.Role, tokenState(t, time.Now()), when(t.CreatedAt), t.CreatedBy})
			}
			return table(cmd, []any{"ID", "NAME", "ROLE", "STATE", "CREATED", "BY"}, rows)
		})
	})}
}

func tokenState(t access.Token, now time.Time) string {
	switch {
	case !t.RevokedAt.IsZero():
		return "revoked"
	case t.EndsAt.IsZero():
		return "lives"
	case now.After(t.EndsAt):
		return "ended"
	}
	return "ends " + when(t.EndsAt)
}

func tokenRevokeCommand() *cobra.Command {
	return &cobra.Command{Use: "revoke ID", Short: "End an API token and the sessions opened with it", Args: exactly("ID"), RunE: withServer(func(cmd *cobra.Command, c *api.Client, args []string) error {
		token, err := c.RevokeToken(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return show(cmd, token, func() error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "token %s (%s) is revoked\n", token.ID, token.Name)
			return err
		})
	})}
}
