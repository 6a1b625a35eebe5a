//go:build !slim

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// vaultInitCommand makes a repository and keeps the writer key on this machine.
func vaultInitCommand(f *vaultFlags) *cobra.Command {
	var recipients, custodians []string
	var instance string
	cmd := &cobra.Command{
		Use:   "init --repo URL --recipient KEY.asc...",
		Short: "Make a repository whose backups only the holders of the recipients' secret keys can read",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			people, err := readRecipients(recipients)
			if err != nil {
				return err
			}
			if len(people)+len(custodians) == 0 {
				return problem.New(problem.Usage, "holdfast vault keys create NAME", "no repository was made: --recipient is missing, nobody could ever restore")
			}
			s, err := f.store(cmd.Context())
			if err != nil {
				return err
			}
			defer s.Close()
			r, key, err := vault.Init(cmd.Context(), s, vault.InitOptions{Instance: instance, Recipients: people, Custodians: custodians})
			if err != nil {
				return f.explain(err)
			}
			if err := f.keepWriter(cmd, r, key); err != nil {
				return err
			}
			return drawInit(cmd, f, r, key)
		},
	}
	cmd.Flags().StringArrayVar(&recipients, "recipient", nil, "file with an armored OpenPGP public key; repeatable")
	cmd.Flags().StringArrayVar(&custodians, "custodian", nil, "age1... recipient of the service that proves and restores; repeatable")
	cmd.Flags().StringVar(&instance, "instance", "", "name of the instance, for people to read")
	return cmd
}

func drawInit(cmd *cobra.Command, f *vaultFlags, r *vault.Repository, key vault.WriterKey) error {
	prints, err := vault.Fingerprints(key.Recipients)
	if err != nil {
		return err
	}
	made := struct {
		Repository string   `json:"repository"`
		Instance   string   `json:"instance"`
		Epoch      string   `json:"epoch"`
		Recipients []string `json:"recipients"`
		Custodians []string `json:"custodians"`
		WriterKey  string   `json:"writer_key"` // file
		Writer     string   `json:"writer"`     // fingerprint of its hash key
	}{r.Config().ID, r.Config().Instance, key.Epoch, prints, key.Custodians, f.writerFile(r), key.Fingerprint()}
	return show(cmd, made, func() error {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "made repository %s at %s\nreadable by %s\nwriter key of this machine: %s\nwriter %s (for the recovery card: holdfast vault keys card --repo %s)\n",
			made.Repository[:12], f.repo, strings.Join(append(prints, key.Custodians...), ", "), made.WriterKey, made.Writer, f.repo)
		return err
	})
}

// readRecipients reads public key files.
func readRecipients(files []string) ([]string, error) {
	var out []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			return nil, problem.New(problem.NotFound, "gpg --armor --export NAME > "+file, "recipient %s was not read: no such file", file)
		}
		if err != nil {
			return nil, problem.Wrap(err, problem.Denied, "", "recipient %s was not read", file)
		}
		if _, err := vault.Fingerprints([]string{string(text)}); err != nil {
			return nil, problem.Wrap(err, problem.WrongKey, "gpg --armor --export NAME > "+file, "recipient %s cannot be used", file)
		}
		out = append(out, string(text))
	}
	return out, nil
}

// keepWriter stores the writer key where later backups of this machine find it, and its fingerprint where later looks do.
func (f *vaultFlags) keepWriter(cmd *cobra.Command, r *vault.Repository, key vault.WriterKey) error {
	body, err := json.MarshalIndent(key, "", "  ")
	if err != nil {
		return err
	}
	if err := f.keepFile(f.writerFile(r), append(body, '\n'), "writer key was not kept"); err != nil {
		return err
	}
	return f.learn(cmd, r, key.Fingerprint())
}

// writer reads this machine's writer key.
func (f *vaultFlags) writer(r *vault.Repository) (vault.WriterKey, error) {
	file := f.writerFile(r)
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return vault.WriterKey{}, problem.New(problem.WrongKey, "holdfast vault keys join --repo "+f.repo+" --recipient KEY.asc",
			"nothing was backed up: this machine has no writer key of repository %.12s (looked for %s)", r.Config().ID, file)
	}
	if err != nil {
		return vault.WriterKey{}, problem.Wrap(err, problem.Denied, "", "writer key %s was not read", file)
	}
	return vault.ParseWriterKey(text)
}
