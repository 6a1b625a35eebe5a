//go:build !slim

package cli

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// knownFile is where this machine keeps what it knows of the repository at the URL.
func (f *vaultFlags) knownFile() string {
	at := f.repo
	if !strings.Contains(at, "://") {
		if whole, err := filepath.Abs(at); err == nil {
			at = whole
		}
	}
	return filepath.Join(f.state, "known", fmt.Sprintf("%x", sha256.Sum256([]byte(at)))[:32]+".json")
}

// known reads what earlier looks and --writer tell of the repository.
func (f *vaultFlags) known() (vault.Known, error) {
	var k vault.Known
	body, err := os.ReadFile(f.knownFile())
	if err == nil {
		err = json.Unmarshal(body, &k)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return k, problem.Wrap(err, problem.Denied, "holdfast vault keys trust --repo "+f.repo+" --writer FINGERPRINT", "what is known of repository %s was not read from %s", f.repo, f.knownFile())
	}
	for _, w := range f.writers {
		if w = strings.ToLower(w); len(w) < 16 || strings.Trim(w, "0123456789abcdef") != "" {
			return k, problem.New(problem.Usage, "holdfast vault keys card --repo "+f.repo+"   (where it was written)", "fingerprint %q of --writer is not of 16 to 32 hex digits", w)
		}
		k.Writers = append(k.Writers, strings.ToLower(w))
	}
	return k, nil
}

// learn keeps what this look has proven. The first time it says what a person should compare, unless that was given.
func (f *vaultFlags) learn(cmd *cobra.Command, r *vault.Repository, own ...string) error {
	was, err := f.known()
	if err != nil {
		return err
	}
	now := r.Learned()
	for _, print := range own {
		if !slices.ContainsFunc(now.Writers, func(w string) bool { return strings.HasPrefix(print, w) }) {
			now.Writers = append(now.Writers, print)
		}
	}
	if len(now.Writers) == 0 || reflect.DeepEqual(was, now) && len(f.writers) == 0 {
		return nil
	}
	if len(was.Writers) == 0 && len(own) == 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "holdfast: first look at %s from here: compare writer %s with the recovery card\n", f.repo, strings.Join(now.Writers, ", "))
	}
	return f.keepKnown(now)
}

func (f *vaultFlags) keepKnown(k vault.Known) error {
	body, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	return f.keepFile(f.knownFile(), append(body, '\n'), "what is known of the repository was not kept")
}

// keepFile replaces a file of this machine's state whole.
func (f *vaultFlags) keepFile(file string, body []byte, lost string) error {
	err := os.MkdirAll(filepath.Dir(file), 0o700)
	if err == nil {
		err = os.WriteFile(file+".new", body, 0o600)
	}
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		return problem.Wrap(err, problem.Denied, "add --state DIR", "%s", lost)
	}
	return nil
}

// keysTrustCommand takes what stands at the URL now for the repository that is meant.
func keysTrustCommand(f *vaultFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "trust --repo URL --writer FINGERPRINT...",
		Short: "Take what stands at the URL from now on, if it is written under these hash keys; forgets what was known of it here",
		Long:  "For a repository that was really made anew or moved, or whose newest snapshots were really forgotten. The fingerprints come from\nthe recovery card, or from holdfast vault keys card on the machine that writes; never from the vault.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(f.writers) == 0 {
				return problem.New(problem.Usage, "add --writer FINGERPRINT, from the recovery card", "nothing was trusted: --writer is missing")
			}
			if err := os.Remove(f.knownFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return problem.Wrap(err, problem.Denied, "", "what was known of repository %s was not forgotten", f.repo)
			}
			r, closeStore, err := f.repository(cmd.Context())
			if err != nil {
				return err
			}
			defer closeStore()
			k := r.Learned()
			if err := f.keepKnown(k); err != nil {
				return err
			}
			return show(cmd, k, func() error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "known from now on: repository %.12s, written by %s\n", k.Repository, strings.Join(k.Writers, ", "))
				return err
			})
		},
	}
}
