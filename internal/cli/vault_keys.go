//go:build !slim

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// vaultKeysCommand is the group of verbs about keys.
func vaultKeysCommand(f *vaultFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "keys", Short: "Make, list, rotate and print the keys of repositories"}
	cmd.AddCommand(keysCreateCommand(f), keysCustodianCommand(), keysListCommand(f), keysJoinCommand(f), keysRecoverCommand(f),
		keysRotateCommand(f), keysResealCommand(f), keysCardCommand(f), keysTrustCommand(f), keysProveCommand(f))
	return cmd
}

// keysCreateCommand makes a recovery key. The secret half is given away once and kept nowhere.
func keysCreateCommand(f *vaultFlags) *cobra.Command {
	var public, secret, pipe string
	cmd := &cobra.Command{
		Use:   "create NAME --public FILE (--secret FILE | --secret-to COMMAND)",
		Short: "Make a GPG key pair for an instance; the secret half is given away once",
		Long:  "The secret half goes to a file, or to the standard input of a command, such as that of a password manager:\n  --secret-to 'pass insert -m holdfast/acme'",
		Args:  exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (secret == "") == (pipe == "") {
				return problem.New(problem.Usage, "add --secret FILE, or --secret-to COMMAND", "no key was made: say where the secret half goes")
			}
			if public == "" {
				public = args[0] + ".asc"
			}
			var passphrase []byte
			if f.passphrase != "" {
				var err error
				if passphrase, err = f.readPassphrase(cmd, args[0]); err != nil {
					return err
				}
			}
			pair, err := vault.NewKeyPair(args[0], passphrase, time.Now())
			if err != nil {
				return err
			}
			if err := giveSecret(cmd.Context(), cmd, pair, secret, pipe); err != nil {
				return err
			}
			if err := writeNewFile(public, []byte(pair.Public), 0o644); err != nil {
				return err
			}
			made := map[string]string{"fingerprint": pair.Fingerprint, "public": public, "secret": secret + pipe}
			return show(cmd, made, func() error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "key %s\npublic half: %s (for --recipient)\nsecret half: %s (keep it away from servers; there is no second copy)\n", pair.Fingerprint, public, secret+pipe)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&public, "public", "", "file for the public half (default NAME.asc)")
	cmd.Flags().StringVar(&secret, "secret", "", "file for the secret half; - is standard output")
	cmd.Flags().StringVar(&pipe, "secret-to", "", "command that takes the secret half on standard input")
	cmd.Flags().StringVar(&f.passphrase, "passphrase-file", "", "file with a passphrase to lock the secret half with")
	return cmd
}

func giveSecret(ctx context.Context, cmd *cobra.Command, pair vault.KeyPair, file, command string) error {
	if file == "-" {
		_, err := cmd.OutOrStdout().Write(pair.Secret())
		return err
	}
	if file != "" {
		return writeNewFile(file, pair.Secret(), 0o600)
	}
	run := exec.CommandContext(ctx, "sh", "-c", command)
	run.Stdin, run.Stdout, run.Stderr = strings.NewReader(string(pair.Secret())), cmd.ErrOrStderr(), cmd.ErrOrStderr()
	if err := run.Run(); err != nil {
		return problem.Wrap(err, problem.Unavailable, "run the command by itself", "no key was made: the command did not take the secret half")
	}
	return nil
}

// writeNewFile writes a file that is not there yet.
func writeNewFile(file string, body []byte, mode os.FileMode) error {
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, os.ErrExist) {
		return problem.New(problem.Conflict, "name another file", "%s was not written: it exists", file)
	}
	if err != nil {
		return problem.Wrap(err, problem.Denied, "", "%s was not written", file)
	}
	_, err = out.Write(body)
	return errors.Join(err, out.Close())
}

func keysCustodianCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "custodian FILE",
		Short: "Make the key of a custodian: the identity goes to FILE, the recipient is printed for --custodian",
		Args:  exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			recipient, identity, err := vault.NewCustodian()
			if err != nil {
				return err
			}
			if err := writeNewFile(args[0], []byte(identity+"\n"), 0o600); err != nil {
				return err
			}
			return show(cmd, map[string]string{"recipient": recipient, "identity": args[0]}, func() error {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), recipient)
				return err
			})
		},
	}
}

// keysListCommand tells which keys open what.
func keysListCommand(f *vaultFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "list --repo URL",
		Short: "List the epochs and the keys that open them",
		Args:  cobra.NoArgs,
		RunE: f.withRepository(func(cmd *cobra.Command, r *vault.Repository, _ []string) error {
			all, err := r.Epochs(cmd.Context())
			if err != nil {
				return err
			}
			var rows [][]any
			for _, e := range all {
				rows = append(rows, []any{e.ID, e.Began.Local().Format(time.DateTime), e.Envelopes, strings.Join(append(e.Recipients, e.Custodians...), " ")})
			}
			return show(cmd, all, func() error { return table(cmd, []any{"EPOCH", "BEGAN", "ENVELOPES", "SEALED TO"}, rows) })
		}),
	}
}

// keysJoinCommand makes this machine a writer. The recipients come from the person, not from the vault: a vault that
// lies about them would get to read what is written.
func keysJoinCommand(f *vaultFlags) *cobra.Command {
	var recipients, custodians []string
	cmd := &cobra.Command{
		Use:   "join --repo URL --recipient KEY.asc...",
		Short: "Make this machine a writer of a repository that another machine made",
		Args:  cobra.NoArgs,
		RunE: f.withRepository(func(cmd *cobra.Command, r *vault.Repository, _ []string) error {
			people, err := readRecipients(recipients)
			if err != nil {
				return err
			}
			key, err := r.Join(cmd.Context(), people, custodians, time.Now())
			if err != nil {
				return err
			}
			if err := f.keepWriter(cmd, r, key); err != nil {
				return err
			}
			return drawInit(cmd, f, r, key)
		}),
	}
	cmd.Flags().StringArrayVar(&recipients, "recipient", nil, "file with an armored OpenPGP public key; repeatable")
	cmd.Flags().StringArrayVar(&custodians, "custodian", nil, "age1... recipient; repeatable")
	return cmd
}

// keysRecoverCommand makes this machine take over the writer that was lost, with all that it stored.
func keysRecoverCommand(f *vaultFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recover --repo URL --key SECRET.asc --recipient KEY.asc...",
		Short: "Make this machine take over from a lost writer, so that nothing is stored twice",
		Args:  cobra.NoArgs,
	}
	var recipients, custodians []string
	cmd.RunE = f.withRepository(func(cmd *cobra.Command, r *vault.Repository, _ []string) error {
		ids, err := f.identities(cmd, r, "latest")
		if err != nil {
			return err
		}
		people, err := readRecipients(recipients)
		if err != nil {
			return err
		}
		key, err := r.Recover(cmd.Context(), ids[len(ids)-1], people, custodians, time.Now())
		if err != nil {
			return err
		}
		if err := f.keepWriter(cmd, r, key); err != nil {
			return err
		}
		return drawInit(cmd, f, r, key)
	})
	f.withKeys(cmd)
	cmd.Flags().StringArrayVar(&recipients, "recipient", nil, "file with an armored OpenPGP public key; repeatable")
	cmd.Flags().StringArrayVar(&custodians, "custodian", nil, "age1... recipient; repeatable")
	return cmd
}

// keysRotateCommand begins an epoch, for new recipients if they are given.
func keysRotateCommand(f *vaultFlags) *cobra.Command {
	var recipients, custodians []string
	cmd := &cobra.Command{
		Use:   "rotate --repo URL [--recipient KEY.asc...]",
		Short: "Begin a new epoch: what is written from now on has another key",
		Args:  cobra.NoArgs,
		RunE: f.withRepository(func(cmd *cobra.Command, r *vault.Repository, _ []string) error {
			key, err := f.writer(r)
			if err != nil {
				return err
			}
			people, err := readRecipients(recipients)
			if err != nil {
				return err
			}
			if len(people)+len(custodians) > 0 {
				key.Recipients, key.Custodians = people, custodians
			}
			next, err := r.Rotate(cmd.Context(), key, time.Now())
			if err != nil {
				return err
			}
			if err := f.keepWriter(cmd, r, next); err != nil {
				return err
			}
			return drawInit(cmd, f, r, next)
		}),
	}
	cmd.Flags().StringArrayVar(&recipients, "recipient", nil, "from now on sealed to this public key instead; repeatable")
	cmd.Flags().StringArrayVar(&custodians, "custodian", nil, "from now on sealed to this age1... recipient; repeatable")
	return cmd
}

// keysResealCommand lets another recovery key open what is there, without writing a pack again.
func keysResealCommand(f *vaultFlags) *cobra.Command {
	var recipients, custodians []string
	cmd := &cobra.Command{
		Use:   "reseal --repo URL --key OLD-SECRET.asc --recipient NEW.asc...",
		Short: "Let another recovery key open all that is stored; no pack is written again",
		Args:  cobra.NoArgs,
	}
	cmd.RunE = f.withRepository(func(cmd *cobra.Command, r *vault.Repository, _ []string) error {
		people, err := readRecipients(recipients)
		if err != nil {
			return err
		}
		ids, err := f.identities(cmd, r, "")
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := r.Reseal(cmd.Context(), id, people, custodians, time.Now()); err != nil {
				return err
			}
		}
		return show(cmd, map[string]int{"epochs": len(ids)}, func() error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%d epochs open with the new key too; on the writers: holdfast vault keys rotate --recipient NEW.asc\n", len(ids))
			return err
		})
	})
	f.withKeys(cmd)
	cmd.Flags().StringArrayVar(&recipients, "recipient", nil, "public key that shall open it too; repeatable")
	cmd.Flags().StringArrayVar(&custodians, "custodian", nil, "age1... recipient that shall open it too; repeatable")
	return cmd
}

// recoveryCard is what a person needs on the worst day.
type recoveryCard struct {
	Instance   string    `json:"instance"`
	Repository string    `json:"repository"`
	URL        string    `json:"url"`
	Made       time.Time `json:"made"`
	SecretKeys []string  `json:"secret_keys"` // fingerprints of OpenPGP keys that open it, as the repository says
	Writers    []string  `json:"writers"`     // fingerprints of hash keys, as this machine knows them; empty when it does not
	Commands   []string  `json:"commands"`
}

// keysCardCommand prints the recovery card. Who writes is told by this machine, never by the repository: on the card
// it proves the repository.
func keysCardCommand(f *vaultFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "card --repo URL",
		Short: "Print the recovery card of a repository: where, which key, who writes it, which commands",
		Args:  cobra.NoArgs,
		RunE: f.withRepository(func(cmd *cobra.Command, r *vault.Repository, _ []string) error {
			epochs, err := r.Epochs(cmd.Context())
			if err != nil {
				return err
			}
			at := r.Config()
			card := recoveryCard{Instance: at.Instance, Repository: at.ID, URL: f.repo, Made: at.Created, SecretKeys: []string{}, Writers: []string{}}
			for _, e := range epochs {
				card.SecretKeys = append(card.SecretKeys, e.Recipients...)
			}
			slices.Sort(card.SecretKeys)
			card.SecretKeys = slices.Compact(card.SecretKeys)
			card.Writers = append(card.Writers, r.Learned().Writers...)
			prove := ""
			for _, w := range card.Writers {
				prove += " --writer " + w
			}
			card.Commands = []string{
				"holdfast vault snapshots --repo " + f.repo,
				"holdfast vault restore --repo " + f.repo + " --key SECRET.asc" + prove + " --snapshot latest --to DIR",
				"sh restore.sh SECRET.asc DIR",
			}
			return show(cmd, card, func() error { return drawCard(cmd, card) })
		}),
	}
}

func drawCard(cmd *cobra.Command, c recoveryCard) error {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "RECOVERY CARD   instance %s\n\nrepository   %s\n             at %s, made %s\n", orDash(c.Instance), c.Repository, c.URL, c.Made.Local().Format(time.DateOnly))
	for _, print := range c.SecretKeys {
		fmt.Fprintf(out, "secret key   %s\n", print)
	}
	for _, w := range c.Writers {
		fmt.Fprintf(out, "writer       %s   (a vault cannot make this up: --writer refuses all else)\n", w)
	}
	if len(c.Writers) == 0 {
		fmt.Fprintln(out, "writer       not known on this machine: print the card where the backups are written")
	}
	_, err := fmt.Fprintf(out, "\nwith holdfast:\n  %s\n  %s\n\nwithout, in a copy of the repository, with gpg, age, zstd and tar:\n  %s\n", c.Commands[0], c.Commands[1], c.Commands[2])
	return err
}

// keysProveCommand records that a snapshot was really restored.
func keysProveCommand(f *vaultFlags) *cobra.Command {
	var by string
	cmd := &cobra.Command{
		Use:   "prove --repo URL --by WHO SNAPSHOT",
		Short: "Record that a snapshot was restored and checked: prune keeps the last such one",
		Args:  exactly("SNAPSHOT"),
		RunE: f.withRepository(func(cmd *cobra.Command, r *vault.Repository, args []string) error {
			if err := r.MarkProven(cmd.Context(), args[0], by, time.Now()); err != nil {
				return err
			}
			return show(cmd, map[string]string{"snapshot": args[0], "by": by}, func() error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "snapshot %s is proven by %s\n", args[0], by)
				return err
			})
		}),
	}
	cmd.Flags().StringVar(&by, "by", os.Getenv("USER"), "who, or what, restored it")
	return cmd
}
