//go:build !slim

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"holdfast/internal/app"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// vaultFlags are shared by the vault's verbs.
type vaultFlags struct {
	repo       string
	keys       []string // files with a secret OpenPGP key, an age identity or an opened epoch
	passphrase string   // file
	state      string   // directory of writer keys and caches
	writers    []string // fingerprints of hash keys whose snapshots are believed
	upload     int      // KiB/s
	download   int
}

// vaultCommand is the group of verbs that need neither server nor agent.
func vaultCommand() *cobra.Command {
	f := &vaultFlags{}
	cmd := &cobra.Command{
		Use:   "vault",
		Short: "Make, check and restore backups that the machine which writes them cannot read",
		Long: "A repository is a path, sftp://user@host:port/path or s3://endpoint/bucket/prefix. For sftp:// the key is that of\n" +
			"HOLDFAST_SSH_KEY, the agent's or ~/.ssh; for s3:// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.\n\n" +
			"Exit codes: 3 the backup lacks something, 10 not found, 11 locked, 12 wrong key, 14 damaged.",
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&f.repo, "repo", os.Getenv("HOLDFAST_REPO"), "repository: PATH, sftp://user@host:port/path or s3://endpoint/bucket/prefix")
	flags.StringVar(&f.state, "state", stateDir(), "directory where this machine keeps writer keys and what it remembers")
	flags.StringArrayVar(&f.writers, "writer", nil, "fingerprint on the recovery card: what was not written under it is refused; repeatable")
	flags.IntVar(&f.upload, "limit-upload", 0, "KiB per second to the repository (0: as fast as it goes)")
	flags.IntVar(&f.download, "limit-download", 0, "KiB per second from the repository")
	cmd.AddCommand(
		vaultInitCommand(f), vaultBackupCommand(f), vaultSnapshotsCommand(f), vaultLsCommand(f), vaultDiffCommand(f),
		vaultRestoreCommand(f), vaultMountCommand(f), vaultCheckCommand(f), vaultPruneCommand(f), vaultForgetCommand(f),
		vaultKeysCommand(f), vaultCopyCommand(f), vaultStatsCommand(f), vaultServeCommand(),
	)
	return cmd
}

// stateDir is where a machine keeps what belongs to it.
func stateDir() string {
	if dir := os.Getenv("HOLDFAST_STATE"); dir != "" {
		return filepath.Join(dir, "vault")
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "holdfast", "vault")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "holdfast", "vault")
	}
	return "/var/lib/holdfast/vault"
}

// collectGarbageEarly keeps the memory of a backup or restore near what it needs.
func collectGarbageEarly() { debug.SetGCPercent(40) }

// withKeys adds the flags of verbs that open envelopes.
func (f *vaultFlags) withKeys(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.keys, "key", nil, "file with the secret key: armored OpenPGP, or a custodian's age identity; - reads standard input")
	cmd.Flags().StringVar(&f.passphrase, "passphrase-file", "", "file with the key's passphrase (default: HOLDFAST_PASSPHRASE, or it is asked for)")
}

// store opens the repository's store; the caller closes it.
func (f *vaultFlags) store(ctx context.Context) (vault.Store, error) {
	s, err := app.OpenStore(ctx, f.repo)
	if err != nil {
		return nil, f.explain(err)
	}
	return vault.Limited(s, f.upload<<10, f.download<<10), nil
}

// repository opens the repository; close frees its store.
func (f *vaultFlags) repository(ctx context.Context) (*vault.Repository, func(), error) {
	s, err := f.store(ctx)
	if err != nil {
		return nil, nil, err
	}
	r, err := vault.Open(ctx, s)
	if err != nil {
		s.Close()
		return nil, nil, f.explain(err)
	}
	known, err := f.known()
	if err == nil {
		err = r.Expect(known)
	}
	if err != nil {
		s.Close()
		return nil, nil, f.explain(err)
	}
	return r, func() { s.Close() }, nil
}

// withRepository runs do with the open repository and gives its errors kind and hint.
func (f *vaultFlags) withRepository(do func(*cobra.Command, *vault.Repository, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		r, closeStore, err := f.repository(cmd.Context())
		if err != nil {
			return err
		}
		defer closeStore()
		err = do(cmd, r, args)
		if err == nil || errors.Is(err, vault.ErrIncomplete) {
			err = errors.Join(err, f.learn(cmd, r))
		}
		return f.explain(err)
	}
}

// explain gives an error of the vault its kind, by which the exit code goes, and the next command to type.
func (f *vaultFlags) explain(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*problem.Error](err); ok {
		return err
	}
	repo := " --repo " + f.repo
	for _, known := range []struct {
		cause error
		kind  problem.Kind
		hint  string
	}{
		{vault.ErrImpostor, problem.Corrupt, "compare the fingerprints with the recovery card; if it was really made anew: holdfast vault keys trust" + repo + " --writer FINGERPRINT"},
		{vault.ErrRolledBack, problem.Corrupt, "ask the vault why; name a listed one with --snapshot ID to have it all the same; if they were forgotten: holdfast vault keys trust" + repo + " --writer FINGERPRINT"},
		{vault.ErrDamaged, problem.Corrupt, "holdfast vault check" + repo + "   (names what is damaged), then restore another snapshot or repair from a copy"},
		{vault.ErrIncomplete, problem.Partial, "holdfast vault ls" + repo + " --key SECRET.asc --notes   (names what is missing)"},
		{vault.ErrNewerFormat, problem.Invalid, "upgrade holdfast"},
		{vault.ErrForeign, problem.Conflict, "name an empty directory, or the repository itself"},
		{vault.ErrWrongKey, problem.WrongKey, "holdfast vault keys list" + repo + "   (tells which key it needs)"},
		{vault.ErrLocked, problem.Busy, "wait for the other one to end, or add --wait 10m"},
		{vault.ErrExists, problem.Conflict, "holdfast vault snapshots" + repo},
		{vault.ErrDenied, problem.Denied, "use a key with more rights, or work on the vault itself"},
		{vault.ErrNotFound, problem.NotFound, "holdfast vault snapshots" + repo},
		{vault.ErrFull, problem.Unavailable, "make room there, or let old snapshots go: holdfast vault prune" + repo + " --keep-daily 20"},
		{syscall.ENOSPC, problem.Unavailable, "make room on this machine"},
		{os.ErrPermission, problem.Denied, "run it as a user who may"},
	} {
		if errors.Is(err, known.cause) {
			hint := known.hint
			if errors.Is(known.cause, vault.ErrNotFound) && strings.Contains(err.Error(), "open repository") {
				hint = "holdfast vault init" + repo + " --recipient KEY.asc"
			}
			return problem.Wrap(err, known.kind, hint, "vault %s", f.repo)
		}
	}
	return problem.Wrap(err, problem.Internal, "", "vault %s", f.repo)
}

// writerFile is where this machine keeps its writer key of a repository.
func (f *vaultFlags) writerFile(r *vault.Repository) string {
	return filepath.Join(f.state, r.Config().ID, "writer.json")
}

// drawProgress shows a line that rewrites itself, on a terminal only.
func drawProgress(cmd *cobra.Command, verb string) func(vault.Progress) {
	file, ok := cmd.ErrOrStderr().(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	return func(p vault.Progress) {
		line := fmt.Sprintf("%s %s files, %s", verb, humanize.Comma(p.Files), bytesWord(p.Bytes))
		if p.TotalBytes > 0 {
			line += " of " + bytesWord(p.TotalBytes)
		}
		line += fmt.Sprintf(", %s/s", bytesWord(int64(p.Speed())))
		if left := p.Left(); left > 0 && p.Done {
			line += ", " + left.Round(time.Second).String() + " left"
		}
		fmt.Fprintf(file, "\r\x1b[K%s", line)
		if p.TotalBytes > 0 && p.Bytes >= p.TotalBytes && p.Done {
			fmt.Fprint(file, "\r\x1b[K")
		}
	}
}

func bytesWord(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
