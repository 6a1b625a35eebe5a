//go:build !slim

package cli

import (
	"bytes"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"holdfast/internal/api"
	"holdfast/internal/problem"
)

func restoreCommand() *cobra.Command {
	var ask api.NewRestore
	var key, passphrase string
	var detach bool
	cmd := &cobra.Command{
		Use: "restore instance/NAME", Short: "Restore an instance beside what serves, check it, then switch",
		Long: "Restore an instance from a snapshot: into a new slot beside what serves, where it is booted and checked;\n" +
			"only then the instance goes over to it. A restore that fails leaves what served before.",
		Args: exactly("instance/NAME"),
	}
	cmd.AddCommand(restoreDiscardCommand())
	cmd.Flags().StringVar(&ask.Snapshot, "snapshot", "", "id, or the beginning of it (default: the newest)")
	cmd.Flags().StringVar(&ask.Node, "to", "", "node to restore on (default: where it is placed)")
	cmd.Flags().BoolVar(&ask.Beside, "beside", false, "leave it beside what serves, neutralised; do not switch")
	cmd.Flags().StringVar(&ask.Release, "release", "", "what to start on the data: snapshot or current (default: the snapshot's own where its release differs)")
	cmd.Flags().StringVar(&key, "key", "", "file with the armored secret recovery key; it does not leave this machine")
	cmd.Flags().StringVar(&passphrase, "passphrase-file", "", "file with the passphrase of the key (default: ask, in a terminal)")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not watch")
	cmd.RunE = withServer(func(cmd *cobra.Command, c *api.Client, args []string) error {
		names, err := instanceNames(args)
		if err != nil {
			return err
		}
		ask.Instance = names[0]
		if key != "" {
			if err := openWithKey(cmd, c, &ask, key, passphrase); err != nil {
				return err
			}
		}
		o, err := c.Restore(cmd.Context(), ask)
		if err != nil {
			return err
		}
		return begun(cmd, c, o, detach)
	})
	return cmd
}

func restoreDiscardCommand() *cobra.Command {
	var ask api.NewDiscard
	var detach bool
	cmd := &cobra.Command{
		Use: "discard instance/NAME --slot SLOT", Short: "Remove a restored copy that was put beside and does not serve", Args: exactly("instance/NAME"),
		Long: "Remove a copy that `holdfast restore --beside` has left. A slot that serves or has served is refused: its data goes\n" +
			"only by an erasure that was approved. A copy put beside never goes into service, since it was made harmless:\n" +
			"restore without --beside to go over.",
	}
	cmd.Flags().StringVar(&ask.Slot, "slot", "", "slot to remove, as the restore named it")
	cmd.Flags().StringVar(&ask.Node, "on", "", "node that holds it (default: the only one)")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not watch")
	cmd.RunE = withServer(func(cmd *cobra.Command, c *api.Client, args []string) error {
		names, err := instanceNames(args)
		if err != nil {
			return err
		}
		if ask.Slot == "" {
			return problem.New(problem.Usage, "holdfast restore discard "+args[0]+" --slot SLOT", "nothing was discarded: no slot was named")
		}
		ask.Instance = names[0]
		o, err := c.DiscardBeside(cmd.Context(), ask)
		if err != nil {
			return err
		}
		return begun(cmd, c, o, detach)
	})
	return cmd
}

// openWithKey opens the snapshot here, with a person's key, and seals what it held to the node of the restore. From
// then on the ask names exactly that snapshot and that node.
func openWithKey(cmd *cobra.Command, c *api.Client, ask *api.NewRestore, keyFile, passphraseFile string) error {
	secret, err := os.ReadFile(keyFile)
	if err != nil {
		return problem.Wrap(err, problem.Usage, "gpg --export-secret-keys --armor KEY > "+keyFile, "recovery key was not read")
	}
	sealed, err := c.SealedSnapshot(cmd.Context(), *ask)
	if err != nil {
		return err
	}
	phrase, err := passphraseOf(cmd, passphraseFile)
	if err != nil {
		return err
	}
	ask.Identities, err = sealed.OpenForNode(string(secret), phrase)
	ask.Snapshot, ask.Node = sealed.Snapshot.ID, sealed.Node
	return err
}

func passphraseOf(cmd *cobra.Command, file string) ([]byte, error) {
	if file != "" {
		phrase, err := os.ReadFile(file)
		if err != nil {
			return nil, problem.Wrap(err, problem.Usage, "", "passphrase was not read")
		}
		return bytes.TrimRight(phrase, "\r\n"), nil
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, nil // a key without a passphrase; one with it says so
	}
	fmt.Fprint(cmd.ErrOrStderr(), "passphrase of the recovery key (empty: none): ")
	phrase, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(cmd.ErrOrStderr())
	if err != nil {
		return nil, problem.Wrap(err, problem.Usage, "say it with --passphrase-file", "passphrase was not read")
	}
	return phrase, nil
}
