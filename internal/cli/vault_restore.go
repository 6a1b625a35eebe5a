//go:build !slim

package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"holdfast/internal/app"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// vaultRestoreCommand brings files back.
func vaultRestoreCommand(f *vaultFlags) *cobra.Command {
	o := vault.RestoreOptions{}
	var tar string
	cmd := &cobra.Command{
		Use:   "restore --repo URL --key SECRET.asc --to DIR [--snapshot ID] [--path P...]",
		Short: "Bring a snapshot, or paths of it, back into a directory or as a tar archive",
		Long: "Into a directory that holds files already, only what differs is fetched and written. Every byte is verified before\n" +
			"it is written. While DIR/.holdfast-restore-unfinished is there, the restore has not ended well.",
		Args: cobra.NoArgs,
		RunE: f.withRepository(func(cmd *cobra.Command, r *vault.Repository, _ []string) (err error) {
			if (o.To == "") == (tar == "") {
				return problem.New(problem.Usage, "holdfast vault restore --repo "+f.repo+" --key SECRET.asc --to DIR", "nothing was restored: either --to DIR or --tar FILE is needed")
			}
			boundHeap()
			if o.Identities, err = f.identities(cmd, r, o.Snapshot); err != nil {
				return err
			}
			collectGarbageEarly()
			if tar != "" {
				return restoreTar(cmd, r, o, tar)
			}
			o.Delta = !empty(o.To)
			o.Progress = drawProgress(cmd, "restored")
			info, err := r.Restore(cmd.Context(), o)
			if err != nil && !errors.Is(err, vault.ErrDamaged) || info.Snapshot.ID == "" {
				return err
			}
			return errors.Join(drawRestore(cmd, info, o.To), err)
		}),
	}
	f.withKeys(cmd)
	flags := cmd.Flags()
	flags.StringVar(&o.Snapshot, "snapshot", "latest", "ID, beginning of an ID, or latest")
	flags.StringArrayVar(&o.Paths, "path", nil, "path of the snapshot, with all below it; repeatable (default: all)")
	flags.StringVar(&o.To, "to", "", "directory to restore into")
	flags.StringVar(&tar, "tar", "", "write a tar archive to this file instead; - is standard output")
	flags.BoolVar(&o.Verify, "verify", false, "read files that are there even when size and time are right")
	flags.BoolVar(&o.Delete, "delete", false, "remove what is there and not in the snapshot")
	return cmd
}

func empty(dir string) bool {
	all, err := os.ReadDir(dir)
	return err != nil || len(all) == 0
}

// restoreTar writes the archive to a file that gets its name only when it is whole, or to standard output.
// boundHeap has garbage collected in time for a restore to stay below 300 MB. An operator's own limit stands.
func boundHeap() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(224 << 20)
	}
}

func restoreTar(cmd *cobra.Command, r *vault.Repository, o vault.RestoreOptions, file string) error {
	if file == "-" {
		return writeTar(cmd.Context(), r, o, cmd.OutOrStdout())
	}
	out, err := os.OpenFile(file+".part", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("restore to %s: %w", file, err)
	}
	err = writeTar(cmd.Context(), r, o, out)
	if err := errors.Join(err, out.Close()); err != nil {
		_ = os.Remove(out.Name()) // half an archive is of no use
		return err
	}
	return os.Rename(out.Name(), file)
}

func writeTar(ctx context.Context, r *vault.Repository, o vault.RestoreOptions, out io.Writer) error {
	w := bufio.NewWriterSize(out, 1<<20)
	if err := r.WriteTar(ctx, o, w); err != nil {
		return err
	}
	return w.Flush()
}

func drawRestore(cmd *cobra.Command, info vault.RestoreInfo, to string) error {
	for _, w := range info.Warnings {
		fmt.Fprintf(cmd.ErrOrStderr(), "holdfast: not set: %s\n", w)
	}
	return show(cmd, info, func() error {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "restored snapshot %s to %s: %s files, %s (%s written, %s files kept) in %.1f s\n", info.Snapshot.Short(), to,
			humanize.Comma(info.Files), bytesWord(info.Bytes), bytesWord(info.Written), humanize.Comma(info.Kept), info.Seconds)
		return err
	})
}

// vaultMountCommand shows snapshots as folders.
func vaultMountCommand(f *vaultFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mount --repo URL --key SECRET.asc DIR",
		Short: "Show the snapshots as read-only folders, until interrupted",
		Args:  exactly("DIR"),
		RunE: f.withRepository(func(cmd *cobra.Command, r *vault.Repository, args []string) error {
			ids, err := f.identities(cmd, r, "")
			if err != nil {
				return err
			}
			all, err := r.ListSnapshots(cmd.Context())
			if err != nil {
				return err
			}
			open := func(ctx context.Context, snapshot string) (*vault.View, error) { return r.View(ctx, snapshot, ids) }
			return app.MountVault(cmd.Context(), args[0], all, open, func() {
				fmt.Fprintf(cmd.OutOrStdout(), "%d snapshots at %s; unmount with Ctrl-C\n", len(all), args[0])
			})
		}),
	}
	f.withKeys(cmd)
	return cmd
}
