//go:build !slim

package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/backup"
	"holdfast/internal/op"
	"holdfast/internal/problem"
)

func backupCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "backup", Short: "Back instances up, and list what there is to return to"}
	cmd.AddCommand(backupRunCommand(), backupPruneCommand(), backupListCommand())
	return cmd
}

func backupRunCommand() *cobra.Command {
	var all, detach bool
	cmd := &cobra.Command{Use: "run instance/NAME...", Short: "Back instances up now"}
	cmd.Flags().BoolVar(&all, "all", false, "every instance that runs and names a vault")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not watch")
	cmd.RunE = withServer(func(cmd *cobra.Command, c *api.Client, args []string) error {
		instances, err := instanceNames(args)
		if err != nil {
			return err
		}
		if all == (len(instances) > 0) {
			return problem.New(problem.Usage, "holdfast backup run instance/NAME, or holdfast backup run --all", "no backup was begun: name instances, or say --all, and not both")
		}
		o, err := beginBackup(cmd, c, api.NewBackup{Instances: instances})
		if err != nil {
			return err
		}
		return begun(cmd, c, o, detach)
	})
	return cmd
}

func backupPruneCommand() *cobra.Command {
	var detach bool
	cmd := &cobra.Command{
		Use: "prune instance/NAME", Short: "Let old snapshots go now, as the schedule does once a day", Args: exactly("instance/NAME"),
		Long: "Let old snapshots of an instance go, on the vault and without any key. Its backup.keep_daily says of how many days\n" +
			"one stays; the last proven one stays always, and one run lets at most half of all go.",
	}
	cmd.Flags().BoolVar(&detach, "detach", false, "do not watch")
	cmd.RunE = withServer(func(cmd *cobra.Command, c *api.Client, args []string) error {
		names, err := instanceNames(args)
		if err != nil {
			return err
		}
		o, err := c.PruneBackups(cmd.Context(), names[0])
		if err != nil {
			return err
		}
		return begun(cmd, c, o, detach)
	})
	return cmd
}

// busyEvery is how often a backup of all asks again while another operation holds one of them.
const busyEvery = time.Second

// beginBackup begins a backup. One of all instances waits for those that another operation holds, such as a scheduled
// backup of one of them; Ctrl-C ends the wait.
func beginBackup(cmd *cobra.Command, c *api.Client, ask api.NewBackup) (op.Operation, error) {
	for told := false; ; told = true {
		o, err := c.RunBackup(cmd.Context(), ask)
		if len(ask.Instances) > 0 || problem.KindOf(err) != problem.Busy {
			return o, err
		}
		if !told {
			fmt.Fprintf(cmd.ErrOrStderr(), "waiting: %s\n", err)
		}
		if err := pause(cmd.Context(), busyEvery); err != nil {
			return o, err
		}
	}
}

// instanceNames reads instance/NAME arguments.
func instanceNames(args []string) ([]string, error) {
	names := []string{}
	for _, arg := range args {
		name, ok := strings.CutPrefix(arg, "instance/")
		if !ok || name == "" {
			return nil, problem.New(problem.Usage, "write it as instance/NAME", "%q names no instance", arg)
		}
		names = append(names, name)
	}
	return names, nil
}

func backupListCommand() *cobra.Command {
	return &cobra.Command{Use: "list [instance/NAME]", Short: "List snapshots, newest first, with the proof that each can be restored", Args: cobra.MaximumNArgs(1), RunE: withServer(func(cmd *cobra.Command, c *api.Client, args []string) error {
		instances, err := instanceNames(args)
		if err != nil {
			return err
		}
		snapshots, err := c.Snapshots(cmd.Context(), strings.Join(instances, ""))
		if err != nil {
			return err
		}
		return show(cmd, snapshots, func() error {
			var rows [][]any
			for _, s := range snapshots {
				rows = append(rows, []any{s.Instance, s.Short(), when(s.TakenAt), humanize.IBytes(uint64(s.Bytes)), s.Vault, s.Release, opens(s), proven(s.Proof)})
			}
			return table(cmd, []any{"INSTANCE", "SNAPSHOT", "TAKEN", "SIZE", "VAULT", "RELEASE", "OPENS", "PROOF"}, rows)
		})
	})}
}

// opens says who can open a snapshot.
func opens(s backup.Snapshot) string {
	switch {
	case s.Custodian && s.People:
		return "custodian, recovery key"
	case s.Custodian:
		return "custodian"
	case s.People:
		return "recovery key"
	}
	return "nobody"
}

// proven never says that a backup is fine: only that it was restored, and when.
func proven(p backup.Proof) string {
	if p.Level == "" {
		return "none"
	}
	return string(p.Level) + " " + when(p.At)
}
