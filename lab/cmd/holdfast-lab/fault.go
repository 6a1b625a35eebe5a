package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"holdfast/lab/servers"
)

func faultCommands() []*cobra.Command {
	return []*cobra.Command{
		{
			Use: "cut SITE|SERVER [SITE]", Short: "Take a site's way to everything, a server's link, or the way between two sites", Args: cobra.RangeArgs(1, 2),
			RunE: func(cmd *cobra.Command, args []string) error { return onLab(cmd, cut(args), "cut", args) },
		},
		{
			Use: "heal SITE|SERVER", Short: "Give it back", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return onLab(cmd, func(ctx context.Context, l *servers.Lab) error { return l.Heal(ctx, args[0]) }, "healed", args)
			},
		},
		{
			Use: "kill SERVER", Short: "Take a server's power; holdfast-lab up SERVER gives it back", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return onServer(cmd, args[0], (*servers.Server).Kill, "without power")
			},
		},
	}
}

func cut(args []string) func(context.Context, *servers.Lab) error {
	return func(ctx context.Context, l *servers.Lab) error {
		if len(args) == 2 {
			return l.CutBetween(ctx, args[0], args[1])
		}
		return l.Cut(ctx, args[0])
	}
}

// onLab does something with the lab and says so.
func onLab(cmd *cobra.Command, do func(context.Context, *servers.Lab) error, done string, args []string) error {
	l, err := servers.Open(nameOf(cmd))
	if err != nil {
		return err
	}
	if err := do(cmd.Context(), l); err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), done, args)
	return err
}

// onServer does something with one server and says so.
func onServer(cmd *cobra.Command, name string, do func(*servers.Server, context.Context) error, done string) error {
	return onLab(cmd, func(ctx context.Context, l *servers.Lab) error {
		s, err := l.Server(name)
		if err != nil {
			return err
		}
		return do(s, ctx)
	}, done, []string{name})
}

// shellCommand goes into a server as somebody who stands before it.
func shellCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "sh SERVER [COMMAND...]", Short: "Go into a server, whatever befell its network", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return onLabQuietly(cmd, func(ctx context.Context, l *servers.Lab) error {
				s, err := l.Server(args[0])
				if err != nil {
					return err
				}
				command := args[1:]
				if len(command) == 0 {
					command = []string{"bash", "-l"}
				}
				inside, err := s.Command(ctx, command...)
				if err != nil {
					return err
				}
				inside.Stdin, inside.Stdout, inside.Stderr = os.Stdin, os.Stdout, os.Stderr
				return inside.Run()
			})
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func onLabQuietly(cmd *cobra.Command, do func(context.Context, *servers.Lab) error) error {
	l, err := servers.Open(nameOf(cmd))
	if err != nil {
		return err
	}
	return do(cmd.Context(), l)
}
