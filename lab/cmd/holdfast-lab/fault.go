package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/problem"
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
		slowCommand(), fillCommand(), skewCommand(),
	}
}

func slowCommand() *cobra.Command {
	var mbit int
	cmd := &cobra.Command{
		Use: "slow SITE", Short: "Limit a site's way to everything outside it, each direction; heal takes the limit away", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return onLab(cmd, func(ctx context.Context, l *servers.Lab) error { return l.Slow(ctx, args[0], mbit) }, fmt.Sprintf("%d Mbit/s at most", mbit), args)
		},
	}
	cmd.Flags().IntVar(&mbit, "mbit", 10, "megabits a second; 0 takes the limit away")
	return cmd
}

func fillCommand() *cobra.Command {
	var leave int
	var free bool
	cmd := &cobra.Command{
		Use: "fill SERVER", Short: "Fill a server's disk; with --free give the room back", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if free {
				return onServer(cmd, args[0], (*servers.Server).Free, "room given back")
			}
			fill := func(s *servers.Server, ctx context.Context) error { return s.Fill(ctx, leave) }
			return onServer(cmd, args[0], fill, "filled")
		},
	}
	cmd.Flags().IntVar(&leave, "leave", 0, "MB to leave free")
	cmd.Flags().BoolVar(&free, "free", false, "give the room back")
	return cmd
}

func skewCommand() *cobra.Command {
	return &cobra.Command{
		Use: "skew SERVER LENGTH", Short: "Set the clock of a node's agent wrong by LENGTH, such as 10m, or -- SERVER -1h; 0s sets it right", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			by, err := time.ParseDuration(args[1])
			if err != nil {
				return problem.New(problem.Usage, "holdfast-lab skew "+args[0]+" 10m", "no clock was set: %q is no length of time", args[1])
			}
			skew := func(s *servers.Server, ctx context.Context) error { return s.Skew(ctx, by) }
			return onServer(cmd, args[0], skew, "clock off by "+by.String())
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
