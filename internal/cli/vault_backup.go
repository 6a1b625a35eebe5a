//go:build !slim

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// epochLife is the age at which a backup begins a new epoch by itself.
const epochLife = 30 * 24 * time.Hour

type vaultBackupFlags struct {
	stdinName string
	force     bool
	wait      time.Duration
	readLimit int
	exclude   []string
	meta      string
	under     string
}

// vaultBackupCommand writes one snapshot.
func vaultBackupCommand(f *vaultFlags) *cobra.Command {
	b := &vaultBackupFlags{}
	cmd := &cobra.Command{
		Use:   "backup --repo URL [PATH...] [--stdin-from-command NAME -- CMD ARG...]",
		Short: "Write a snapshot of paths, and of what a command prints",
		Long: "Paths are stored as tar does: /srv/data becomes srv/data. What the command prints becomes the file NAME; when it fails\n" +
			"there is no snapshot. Files that cannot be read are named, the snapshot is written without them, and the exit code is 3.",
		RunE: f.withRepository(func(cmd *cobra.Command, r *vault.Repository, args []string) error {
			return f.backup(cmd, r, b, args)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&b.stdinName, "stdin-from-command", "", "name of the file that takes the output of the command after --")
	flags.BoolVar(&b.force, "force", false, "read every file, whatever its times say")
	flags.DurationVar(&b.wait, "wait", 0, "how long to wait for another backup of this repository")
	flags.IntVar(&b.readLimit, "limit-read", 0, "KiB per second read from disk")
	flags.StringArrayVar(&b.exclude, "exclude", nil, "pattern of paths or names that are left out; repeatable")
	flags.StringVar(&b.meta, "meta", "", "JSON file that is kept, encrypted, in the snapshot")
	flags.StringVar(&b.under, "as", "", "name in the snapshot, for a single path; . stores what a directory holds at the root")
	return cmd
}

func (f *vaultFlags) backup(cmd *cobra.Command, r *vault.Repository, b *vaultBackupFlags, args []string) error {
	sources, err := b.sources(cmd, args)
	if err != nil {
		return err
	}
	key, err := f.currentWriter(cmd, r)
	if err != nil {
		return err
	}
	options := vault.BackupOptions{Sources: sources, Cache: f.state, Force: b.force, Wait: b.wait, ReadLimit: b.readLimit << 10, Progress: drawProgress(cmd, "read")}
	if options.Skip, err = b.skip(); err != nil {
		return err
	}
	if options.Meta, err = b.readMeta(); err != nil {
		return err
	}
	options.Warn = func(n vault.Note) { fmt.Fprintf(cmd.ErrOrStderr(), "holdfast: %s\n", n.Detail) }
	collectGarbageEarly()
	info, err := r.Backup(cmd.Context(), key, options)
	if err != nil && !errors.Is(err, vault.ErrIncomplete) {
		return err
	}
	return errors.Join(drawBackup(cmd, info), err)
}

// currentWriter is this machine's writer key, with a fresh epoch when the last one has grown old.
func (f *vaultFlags) currentWriter(cmd *cobra.Command, r *vault.Repository) (vault.WriterKey, error) {
	key, err := f.writer(r)
	if err != nil || time.Since(key.Began) < epochLife {
		return key, err
	}
	next, err := r.Rotate(cmd.Context(), key, time.Now())
	if err != nil {
		return key, err
	}
	return next, f.keepWriter(cmd, r, next)
}

func (b *vaultBackupFlags) sources(cmd *cobra.Command, args []string) ([]vault.Source, error) {
	paths, command := args, []string(nil)
	if dash := cmd.ArgsLenAtDash(); dash >= 0 && b.stdinName != "" {
		paths, command = args[:dash], args[dash:]
	}
	if b.stdinName != "" && len(command) == 0 {
		return nil, problem.New(problem.Usage, "holdfast vault backup --repo URL --stdin-from-command NAME -- CMD", "nothing was backed up: no command stands behind --")
	}
	if len(paths) == 0 && b.stdinName == "" {
		return nil, problem.New(problem.Usage, "holdfast vault backup --repo URL PATH...", "nothing was backed up: no path was given")
	}
	var out []vault.Source
	for _, p := range paths {
		s, err := vault.SourceOf(p)
		if err != nil {
			return nil, err
		}
		if b.under != "" && len(paths) == 1 {
			s.Name = b.under
		}
		if _, err := os.Lstat(p); errors.Is(err, os.ErrNotExist) {
			return nil, problem.New(problem.NotFound, "ls -d "+filepath.Dir(p)+"/*", "nothing was backed up: %s does not exist", p)
		}
		out = append(out, s)
	}
	if b.stdinName != "" {
		out = append(out, vault.Source{Name: b.stdinName, Stream: commandOutput(command, cmd.ErrOrStderr())})
	}
	return out, nil
}

// commandOutput runs a command; its exit status decides whether what it printed counts.
func commandOutput(command []string, errOut io.Writer) func(context.Context, io.Writer) error {
	return func(ctx context.Context, w io.Writer) error {
		run := exec.CommandContext(ctx, command[0], command[1:]...)
		run.Stdout, run.Stderr = w, errOut
		if err := run.Run(); err != nil {
			return problem.Wrap(err, problem.Unavailable, "run the command by itself: "+command[0], "no snapshot was written: command %s", command[0])
		}
		return nil
	}
}

func (b *vaultBackupFlags) skip() (func(string) bool, error) {
	if len(b.exclude) == 0 {
		return nil, nil
	}
	for _, pattern := range b.exclude {
		if _, err := filepath.Match(pattern, "x"); err != nil {
			return nil, problem.New(problem.Usage, "quote it, and close its brackets", "pattern %q of --exclude cannot be read", pattern)
		}
	}
	return func(path string) bool {
		for _, pattern := range b.exclude {
			whole, _ := filepath.Match(pattern, path)               // patterns were tried above
			name, _ := filepath.Match(pattern, filepath.Base(path)) // likewise
			if whole || name {
				return true
			}
		}
		return false
	}, nil
}

func (b *vaultBackupFlags) readMeta() (json.RawMessage, error) {
	if b.meta == "" {
		return nil, nil
	}
	text, err := os.ReadFile(b.meta)
	if err == nil && !json.Valid(text) {
		err = errors.New("it is not JSON")
	}
	if err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "", "--meta %s was not read", b.meta)
	}
	return text, nil
}

func drawBackup(cmd *cobra.Command, info vault.SnapshotInfo) error {
	return show(cmd, info, func() error {
		speed := float64(info.Bytes) / max(info.Seconds, 0.001)
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "snapshot %s: %s files, %s, %s added, in %.1f s (%s/s)\n",
			info.Short(), humanize.Comma(info.Files), bytesWord(info.Bytes), bytesWord(info.AddedBytes), info.Seconds, bytesWord(int64(speed)))
		if err == nil && info.Notes > 0 {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d remarks: holdfast vault ls --notes --key SECRET.asc\n", info.Notes)
		}
		return err
	})
}
