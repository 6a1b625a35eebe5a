//go:build !slim

package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// identities opens the envelopes that a snapshot needs, all when it is empty, with the keys of --key.
func (f *vaultFlags) identities(cmd *cobra.Command, r *vault.Repository, snapshot string) ([]vault.EpochIdentity, error) {
	if len(f.keys) == 0 {
		return nil, problem.New(problem.WrongKey, cmd.CommandPath()+" --repo "+f.repo+" --key SECRET.asc", "nothing was opened: --key is missing")
	}
	var openers []opener
	for _, file := range f.keys {
		o, err := f.opener(cmd, file)
		if err != nil {
			return nil, err
		}
		openers = append(openers, o)
	}
	envelopes, err := r.Envelopes(cmd.Context(), snapshot)
	if err != nil {
		return nil, err
	}
	var out []vault.EpochIdentity
	for _, e := range envelopes {
		id, err := openFirst(e, openers)
		if err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, nil
}

// opener opens an envelope with one key.
type opener func(vault.Envelope) (vault.EpochIdentity, error)

func openFirst(e vault.Envelope, openers []opener) (id vault.EpochIdentity, err error) {
	for _, open := range openers {
		if id, err = open(e); err == nil {
			return id, nil
		}
	}
	return id, err
}

// opener reads a key file; what it holds tells what kind of key it is.
func (f *vaultFlags) opener(cmd *cobra.Command, file string) (opener, error) {
	text, err := readSecret(cmd, file)
	if err != nil {
		return nil, err
	}
	if strings.Contains(text, "AGE-SECRET-KEY-") {
		return func(e vault.Envelope) (vault.EpochIdentity, error) { return vault.OpenEnvelopeAge(e, text) }, nil
	}
	locked, err := vault.Locked(text)
	if err != nil {
		return nil, problem.Wrap(err, problem.WrongKey, "gpg --armor --export-secret-keys NAME > "+file, "key %s was not read: it is no armored OpenPGP secret key", file)
	}
	var passphrase []byte
	if locked {
		if passphrase, err = f.readPassphrase(cmd, file); err != nil {
			return nil, err
		}
	}
	return func(e vault.Envelope) (vault.EpochIdentity, error) { return vault.OpenEnvelopePGP(e, text, passphrase) }, nil
}

func readSecret(cmd *cobra.Command, file string) (string, error) {
	if file == "-" {
		text, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 1<<20))
		return string(text), err
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return "", problem.New(problem.WrongKey, "gpg --armor --export-secret-keys NAME > "+file, "key %s was not read: no such file", file)
	}
	if err != nil {
		return "", problem.Wrap(err, problem.Denied, "", "key %s was not read", file)
	}
	return string(text), nil
}

// readPassphrase takes it from a file, the environment, or a person.
func (f *vaultFlags) readPassphrase(cmd *cobra.Command, file string) ([]byte, error) {
	if f.passphrase != "" {
		text, err := os.ReadFile(f.passphrase)
		if err != nil {
			return nil, problem.Wrap(err, problem.WrongKey, "", "passphrase file %s was not read", f.passphrase)
		}
		return bytes.TrimRight(text, "\r\n"), nil
	}
	if text := os.Getenv("HOLDFAST_PASSPHRASE"); text != "" {
		return []byte(text), nil
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, problem.New(problem.WrongKey, "add --passphrase-file FILE", "key %s was not opened: it has a passphrase and none was given", file)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "passphrase of %s: ", file)
	defer fmt.Fprintln(cmd.ErrOrStderr())
	return term.ReadPassword(int(in.Fd()))
}
