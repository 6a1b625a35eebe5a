//go:build !slim

package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/op"
)

func opCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "op", Short: "Look at operations, watch them, stop them"}
	cmd.AddCommand(opListCommand(), opShowCommand(), opWatchCommand(), opCancelCommand())
	return cmd
}

func opListCommand() *cobra.Command {
	var open bool
	var kind string
	var limit int
	cmd := &cobra.Command{Use: "list", Short: "List operations, newest first", Args: cobra.NoArgs}
	cmd.Flags().BoolVar(&open, "open", false, "only those that have not ended")
	cmd.Flags().StringVar(&kind, "kind", "", "only of this kind: deploy, backup, restore, recover, drill")
	cmd.Flags().IntVar(&limit, "limit", 50, "how many")
	cmd.RunE = withServer(func(cmd *cobra.Command, c *api.Client, _ []string) error {
		operations, err := c.Operations(cmd.Context(), open, kind, limit)
		if err != nil {
			return err
		}
		return show(cmd, operations, func() error {
			var rows [][]any
			for _, o := range operations {
				rows = append(rows, []any{o.ID, o.Kind, o.State, when(o.CreatedAt), length(o), o.Actor, o.Title})
			}
			return table(cmd, []any{"ID", "KIND", "STATE", "BEGUN", "TOOK", "BY", "TITLE"}, rows)
		})
	})
	return cmd
}

func length(o op.Operation) string {
	if o.EndedAt.IsZero() {
		return "-"
	}
	return took(o.CreatedAt, o.EndedAt)
}

func opShowCommand() *cobra.Command {
	return &cobra.Command{Use: "show ID", Short: "Show where every step of an operation stands", Args: exactly("ID"), RunE: withServer(func(cmd *cobra.Command, c *api.Client, args []string) error {
		o, err := c.Operation(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return show(cmd, o, func() error {
			paint := canvas{}
			if _, terminal := terminalOf(cmd); terminal {
				paint.palette = colours()
			}
			fmt.Fprint(cmd.OutOrStdout(), drawTree(o, time.Now(), paint))
			if o.Operation.Err() != nil && o.Operation.Resume != "" {
				fmt.Fprintf(cmd.OutOrStdout(), "next: %s\n", o.Operation.Resume)
			}
			return nil
		})
	})}
}

func opWatchCommand() *cobra.Command {
	return &cobra.Command{
		Use: "watch ID", Short: "Watch an operation until it ends; Ctrl-C stops only the watching", Args: exactly("ID"),
		RunE: withServer(func(cmd *cobra.Command, c *api.Client, args []string) error { return watchOperation(cmd, c, args[0]) }),
	}
}

func opCancelCommand() *cobra.Command {
	return &cobra.Command{Use: "cancel ID", Short: "Stop an operation: what runs is asked to stop, the rest never begins", Args: exactly("ID"), RunE: withServer(func(cmd *cobra.Command, c *api.Client, args []string) error {
		o, err := c.CancelOperation(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return show(cmd, o, func() error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "operation %s is %s\nnext: holdfast op watch %s\n", o.ID, o.State, o.ID)
			return err
		})
	})}
}

// begun shows an operation that a command has begun: watched to its end, or with --detach only named.
func begun(cmd *cobra.Command, c *api.Client, o op.Operation, detach bool) error {
	if !detach {
		return watchOperation(cmd, c, o.ID)
	}
	return show(cmd, o, func() error {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "operation %s: %s\nnext: holdfast op watch %s\n", o.ID, o.Title, o.ID)
		return err
	})
}
