package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"holdfast/internal/problem"
	"holdfast/lab/servers"
)

// asked is what was typed for a new lab.
type asked struct {
	nodes   int
	network string
	bin     string
	bare    bool
	acme    bool
}

func upCommand() *cobra.Command {
	var a asked
	cmd := &cobra.Command{
		Use: "up [SERVER]", Short: "Bring the lab up, or start what is off of it; with SERVER, give that one its power back",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return onServer(cmd, args[0], (*servers.Server).Start, "started")
			}
			return a.up(cmd)
		},
	}
	cmd.Flags().IntVar(&a.nodes, "nodes", 3, "Docker nodes in each of the two sites")
	cmd.Flags().StringVar(&a.network, "network", "", "network of the lab, a /16 (default: the first free one from 10.70.0.0/16 on)")
	cmd.Flags().StringVar(&a.bin, "bin", "", "folder of holdfast and holdfast-agent (default: where this program is)")
	cmd.Flags().BoolVar(&a.bare, "bare", false, "servers only, nothing of Holdfast")
	cmd.Flags().BoolVar(&a.acme, "acme", false, "edges get their certificates from the lab's ACME issuer")
	return cmd
}

func (a asked) up(cmd *cobra.Command) error {
	shape, err := a.shape(nameOf(cmd))
	if err != nil {
		return err
	}
	l, err := servers.Up(cmd.Context(), shape, cmd.OutOrStdout())
	if err != nil {
		return err
	}
	return l.Tell(cmd.OutOrStdout())
}

func (a asked) shape(name string) (servers.Shape, error) {
	shape := servers.Default(name)
	for i := range 2 {
		shape.Sites[i] = servers.DockerSite(shape.Sites[i].Name, a.nodes)
	}
	if a.network != "" {
		network, err := netip.ParsePrefix(a.network)
		if err != nil {
			return shape, problem.New(problem.Usage, "--network 10.70.0.0/16", "the lab was not brought up: %q is no network", a.network)
		}
		shape.Network = network
	}
	if a.bare {
		return shape, nil
	}
	shape.ACME = a.acme
	if shape.Bin = a.bin; shape.Bin == "" {
		self, err := os.Executable()
		if err != nil {
			return shape, err
		}
		shape.Bin = filepath.Dir(self)
	}
	return shape, nil
}

func downCommand() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Take the lab away, without residue", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := servers.Down(cmd.Context(), nameOf(cmd)); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "lab %s is gone\n", nameOf(cmd))
			return err
		},
	}
}

func loadCommand() *cobra.Command {
	return &cobra.Command{
		Use: "load FOLDER", Short: "Load every image of FOLDER (*.tar) into every Docker Engine of the lab", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return onLab(cmd, func(ctx context.Context, l *servers.Lab) error { return l.LoadImages(ctx, args[0]) }, "loaded", args)
		},
	}
}

func putCommand() *cobra.Command {
	return &cobra.Command{
		Use: "put FOLDER PATH", Short: "Copy the files of FOLDER to PATH on every Docker server of the lab", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return onLab(cmd, func(ctx context.Context, l *servers.Lab) error { return l.PutFolder(ctx, args[0], args[1]) }, "copied", args)
		},
	}
}

func nameOf(cmd *cobra.Command) string { return cmd.Flag("name").Value.String() }
