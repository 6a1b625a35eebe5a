//go:build !slim

package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/audit"
	"holdfast/internal/problem"
)

func auditCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Read what was done by whom, and prove that the record is whole"}
	cmd.AddCommand(auditListCommand(), auditVerifyCommand())
	return cmd
}

func auditListCommand() *cobra.Command {
	var filter audit.Filter
	cmd := &cobra.Command{Use: "list", Short: "List audit records, newest first", Args: cobra.NoArgs}
	cmd.Flags().StringVar(&filter.Object, "object", "", "only of this object, such as instance/acme")
	cmd.Flags().StringVar(&filter.Actor, "actor", "", "only by this actor, such as token/ci")
	cmd.Flags().Int64Var(&filter.Before, "before", 0, "only records with a lower number")
	cmd.Flags().IntVar(&filter.Limit, "limit", 50, "how many")
	cmd.RunE = withServer(func(cmd *cobra.Command, c *api.Client, _ []string) error {
		records, err := c.Audit(cmd.Context(), filter)
		if err != nil {
			return err
		}
		return show(cmd, records, func() error {
			var rows [][]any
			for _, r := range records {
				rows = append(rows, []any{r.Seq, when(r.At), r.Actor, r.Verb, r.Object})
			}
			return table(cmd, []any{"NUMBER", "AT", "ACTOR", "DEED", "OBJECT"}, rows)
		})
	})
	return cmd
}

func auditVerifyCommand() *cobra.Command {
	var kept, keep string
	cmd := &cobra.Command{
		Use: "verify", Short: "Prove that no audit record was changed, removed or slipped in", Args: cobra.NoArgs,
		Long: `Prove that no audit record was changed, removed or slipped in.

The head that --keep writes is a signed summary of the log so far. Kept on another machine and given
back later with --kept, it proves that nothing before it was touched, even by someone who held the
server, its database and its keys.`,
	}
	cmd.Flags().StringVar(&kept, "kept", "", "file with a head that was kept earlier")
	cmd.Flags().StringVar(&keep, "keep", "", "write the head of now to this file")
	cmd.RunE = withServer(func(cmd *cobra.Command, c *api.Client, _ []string) error { return verifyAudit(cmd, c, kept, keep) })
	return cmd
}

func verifyAudit(cmd *cobra.Command, c *api.Client, kept, keep string) error {
	var head []byte
	if kept != "" {
		var err error
		if head, err = os.ReadFile(kept); err != nil {
			return problem.Wrap(err, problem.Usage, "", "kept head was not read")
		}
	}
	found, err := c.VerifyAudit(cmd.Context(), string(head))
	if err != nil {
		return err
	}
	if keep != "" {
		if err := os.WriteFile(keep, []byte(found.Head), 0o600); err != nil {
			return problem.Wrap(err, problem.Usage, "", "head was not kept")
		}
	}
	return show(cmd, found, func() error {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%d audit records hold; root %s\n", found.Records, found.Root)
		return err
	})
}
