//go:build !slim

package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/app"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// vaultCheckCommand looks for damage.
func vaultCheckCommand(f *vaultFlags) *cobra.Command {
	o := vault.CheckOptions{}
	cmd := &cobra.Command{
		Use:   "check --repo URL [--key SECRET.asc --read-data]",
		Short: "Hold every object against its hash and every snapshot against what it needs; with a key, verify the data itself",
		Args:  cobra.NoArgs,
		RunE: f.withRepository(func(cmd *cobra.Command, r *vault.Repository, _ []string) (err error) {
			if o.ReadData && len(f.keys) == 0 {
				return problem.New(problem.WrongKey, "add --key SECRET.asc", "nothing was checked: --read-data needs --key")
			}
			if len(f.keys) > 0 {
				if o.Identities, err = f.identities(cmd, r, ""); err != nil {
					return err
				}
			}
			o.Progress = drawProgress(cmd, "checked")
			collectGarbageEarly()
			report, err := r.Check(cmd.Context(), o)
			if err != nil && !errors.Is(err, vault.ErrDamaged) {
				return err
			}
			return errors.Join(show(cmd, report, func() error { return drawCheck(cmd, report) }), err)
		}),
	}
	f.withKeys(cmd)
	cmd.Flags().BoolVar(&o.ReadData, "read-data", false, "decrypt and verify every chunk")
	cmd.Flags().Float64Var(&o.Sample, "sample", 0, "with --read-data: share of packs taken at random, such as 0.1")
	cmd.Flags().BoolVar(&o.PresenceOnly, "presence-only", false, "compare names and sizes, read no packs")
	return cmd
}

func drawCheck(cmd *cobra.Command, report vault.CheckReport) error {
	out := cmd.OutOrStdout()
	for _, finding := range report.Findings {
		fmt.Fprintf(out, "%s: %s", finding.Object, finding.Problem)
		if len(finding.Snapshots) > 0 {
			fmt.Fprintf(out, " (needed by %s)", strings.Join(finding.Snapshots, ", "))
		}
		fmt.Fprintln(out)
	}
	word := "no damage found"
	if len(report.Findings) > 0 {
		word = fmt.Sprintf("%d findings", len(report.Findings))
	}
	_, err := fmt.Fprintf(out, "%s: %d snapshots, %d packs (%d unused), %s read, %d packs verified with a key, in %.1f s\n", word,
		report.Snapshots, report.Packs, report.Unused, bytesWord(report.Bytes), report.Read, report.Seconds)
	return err
}

// vaultPruneCommand lets go what the rules do not keep.
func vaultPruneCommand(f *vaultFlags) *cobra.Command {
	o := vault.PruneOptions{}
	dry := false
	cmd := &cobra.Command{
		Use:   "prune --repo URL --keep-daily 20 [--dry-run]",
		Short: "Forget snapshots that no rule keeps, and delete what nothing needs; no key is needed",
		Long: "Days, weeks and hours are local. The last proven snapshot stays always; one run forgets at most --max-share of all;\n" +
			"bytes go --hold after nothing needs them, with a later run.",
		Args: cobra.NoArgs,
		RunE: f.withRepository(func(cmd *cobra.Command, r *vault.Repository, _ []string) error {
			if o.Keep == (vault.Keep{}) {
				return problem.New(problem.Usage, "holdfast vault prune --repo "+f.repo+" --keep-daily 20 --dry-run", "nothing was pruned: no keep rule was given")
			}
			o.Now = time.Now()
			act := r.Prune
			if dry {
				act = r.PlanPrune
			}
			plan, err := act(cmd.Context(), o)
			if err != nil {
				return err
			}
			return show(cmd, plan, func() error { return drawPrune(cmd, plan, dry) })
		}),
	}
	flags := cmd.Flags()
	flags.IntVar(&o.Keep.Last, "keep-last", 0, "keep the last N")
	flags.IntVar(&o.Keep.Hourly, "keep-hourly", 0, "keep one of each of the last N hours that have one")
	flags.IntVar(&o.Keep.Daily, "keep-daily", 0, "keep one of each of the last N days that have one")
	flags.IntVar(&o.Keep.Weekly, "keep-weekly", 0, "keep one of each of the last N weeks that have one")
	flags.IntVar(&o.Keep.Monthly, "keep-monthly", 0, "keep one of each of the last N months that have one")
	flags.IntVar(&o.Keep.Yearly, "keep-yearly", 0, "keep one of each of the last N years that have one")
	flags.StringArrayVar(&o.Protect, "protect", nil, "snapshot that stays, whatever the rules say; repeatable")
	flags.Float64Var(&o.MaxShare, "max-share", 0.5, "greatest share of all snapshots that this run forgets")
	flags.DurationVar(&o.Hold, "hold", 24*time.Hour, "how long bytes stay after nothing needs them")
	flags.BoolVar(&dry, "dry-run", false, "show what would go and why, and change nothing")
	return cmd
}

func drawPrune(cmd *cobra.Command, plan vault.PrunePlan, dry bool) error {
	out := cmd.OutOrStdout()
	for _, part := range []struct {
		verb string
		list []vault.Decision
	}{{"keep", plan.Keep}, {"forget", plan.Forget}, {"condemn", plan.Condemn}, {"hold", plan.Waiting}, {"delete", plan.Delete}} {
		for _, d := range part.list {
			if _, err := fmt.Fprintf(out, "%-8s %s %s %s: %s\n", part.verb, shortObject(d.Object), d.Time.Local().Format(time.DateTime), bytesWord(d.Size), d.Why); err != nil {
				return err
			}
		}
	}
	tense := "forgot"
	if dry {
		tense = "would forget"
	}
	_, err := fmt.Fprintf(out, "%s %d snapshots, keeping %d; %s deleted now, %d packs wait for the end of the holding period\n",
		tense, len(plan.Forget), len(plan.Keep), bytesWord(plan.Freed()), len(plan.Waiting)+len(plan.Condemn))
	return err
}

// shortObject cuts the hash in a name.
func shortObject(name string) string {
	folder, base, _ := strings.Cut(name, "/")
	return folder + "/" + base[:min(12, len(base))]
}

// vaultForgetCommand removes named snapshots.
func vaultForgetCommand(f *vaultFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "forget --repo URL SNAPSHOT...",
		Short: "Remove snapshots by name; the last proven one stays, their bytes go with the next prunes",
		Args:  cobra.MinimumNArgs(1),
		RunE: f.withRepository(func(cmd *cobra.Command, r *vault.Repository, args []string) error {
			gone, err := r.Forget(cmd.Context(), args, time.Now())
			if err != nil {
				return err
			}
			return show(cmd, gone, func() error {
				for _, s := range gone {
					fmt.Fprintf(cmd.OutOrStdout(), "forgot %s of %s\n", s.Short(), s.Time.Local().Format(time.DateTime))
				}
				return nil
			})
		}),
	}
}

// vaultCopyCommand makes a second vault.
func vaultCopyCommand(f *vaultFlags) *cobra.Command {
	var to string
	o := vault.CopyOptions{}
	cmd := &cobra.Command{
		Use:   "copy --repo URL --to URL [--snapshot ID...]",
		Short: "Bring snapshots into a second vault without decrypting them",
		Args:  cobra.NoArgs,
		RunE: f.withRepository(func(cmd *cobra.Command, r *vault.Repository, _ []string) error {
			second, err := app.OpenStore(cmd.Context(), to)
			if err != nil {
				return err
			}
			defer second.Close()
			o.Progress = drawProgress(cmd, "copied")
			collectGarbageEarly()
			info, err := r.Copy(cmd.Context(), second, o)
			if err != nil && !errors.Is(err, vault.ErrDamaged) {
				return err
			}
			return errors.Join(show(cmd, info, func() error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%d snapshots are at %s; sent %d objects, %s, in %.1f s\n", info.Snapshots, to, info.Objects, bytesWord(info.Bytes), info.Seconds)
				return err
			}), err)
		}),
	}
	cmd.Flags().StringVar(&to, "to", "", "second repository: PATH, sftp:// or s3://")
	cmd.Flags().StringArrayVar(&o.Snapshots, "snapshot", nil, "snapshot to copy; repeatable (default: all)")
	return cmd
}

// vaultServeCommand is the forced command of a node's SSH key.
func vaultServeCommand() *cobra.Command {
	var rights []string
	var prefix string
	cmd := &cobra.Command{
		Use:   "serve --rights write DIR",
		Short: "Speak SFTP on standard input and output for one repository, append-only: for command= in authorized_keys",
		Long: "In the authorized_keys file of the vault's user, one line per node:\n\n" +
			"  command=\"holdfast vault serve --rights write /srv/vault/acme\",restrict ssh-ed25519 AAAA... node1\n\n" +
			"The node then uses sftp://user@vault/ and can add snapshots; it can neither read old ones, nor change or delete them.",
		Args: exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			grant := app.VaultGrant{Prefix: prefix}
			for _, r := range rights {
				switch r {
				case "write":
					grant.Rights.Write = true
				case "read":
					grant.Rights.Read = true
				case "prune":
					grant.Rights.Prune = true
				default:
					return problem.New(problem.Usage, "--rights write, read or prune", "right %q is unknown", r)
				}
			}
			if info, err := os.Stat(args[0]); err != nil || !info.IsDir() {
				return problem.New(problem.NotFound, "mkdir -p "+args[0], "%s is not served: no such directory (is the disk mounted?)", args[0])
			}
			return app.ServeVault(stdio{cmd.InOrStdin(), cmd.OutOrStdout()}, args[0], grant)
		},
	}
	cmd.Flags().StringSliceVar(&rights, "rights", []string{"write"}, "write (add snapshots), read (restore), prune (delete)")
	cmd.Flags().StringVar(&prefix, "prefix", "", "repository below DIR; the client's path is then /PREFIX")
	return cmd
}

// stdio is the other side of an SSH forced command.
type stdio struct {
	io.Reader
	io.Writer
}

func (stdio) Close() error { return os.Stdout.Close() }
