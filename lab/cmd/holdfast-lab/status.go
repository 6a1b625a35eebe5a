package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"holdfast/lab/servers"
)

func statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the servers: power, link, reach, disk", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := servers.Open(nameOf(cmd))
			if err != nil {
				return err
			}
			states, err := l.Status(cmd.Context())
			if err != nil {
				return err
			}
			out := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(out, "SITE\tSERVER\tADDRESS\tPOWER\tLINK\tREACHED\tDISK\tFOR")
			for _, s := range states {
				fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Site, s.Name, s.Address, s.Power, s.Link, s.Reached, s.Disk, s.For)
			}
			return out.Flush()
		},
	}
}
