//go:build !slim

package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/vault"
)

// vaultSnapshotsCommand lists what can be returned to.
func vaultSnapshotsCommand(f *vaultFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "snapshots --repo URL",
		Short: "List the snapshots, oldest first; no key is needed",
		Args:  cobra.NoArgs,
		RunE: f.withRepository(func(cmd *cobra.Command, r *vault.Repository, _ []string) error {
			all, err := r.ListSnapshots(cmd.Context())
			if err != nil && !errors.Is(err, vault.ErrDamaged) {
				return err
			}
			proofs, proofErr := r.Proofs(cmd.Context())
			if errors.Is(proofErr, vault.ErrDenied) {
				proofErr = nil // a writer need not see them
			}
			return errors.Join(drawSnapshots(cmd, all, proofs), err, proofErr, r.Fresh(all))
		}),
	}
}

// listedSnapshot is a snapshot with its proof.
type listedSnapshot struct {
	vault.SnapshotInfo
	Proven *time.Time `json:"proven"` // when it was last restored and checked; null when never
}

func drawSnapshots(cmd *cobra.Command, all []vault.SnapshotInfo, proofs map[string]vault.Proof) error {
	listed := make([]listedSnapshot, len(all))
	var rows [][]any
	for i, s := range all {
		listed[i] = listedSnapshot{SnapshotInfo: s}
		proven := "never"
		if p, ok := proofs[s.ID]; ok {
			listed[i].Proven = &p.Time
			proven = time.Since(p.Time).Round(time.Minute).String() + " ago"
		}
		state := "whole"
		if s.Incomplete {
			state = "incomplete"
		}
		rows = append(rows, []any{s.Short(), s.Time.Local().Format(time.DateTime), s.Files, bytesWord(s.Bytes), bytesWord(s.AddedBytes), state, proven})
	}
	return show(cmd, listed, func() error {
		return table(cmd, []any{"SNAPSHOT", "TIME", "FILES", "SIZE", "ADDED", "STATE", "PROVEN"}, rows)
	})
}

// vaultLsCommand lists what a snapshot holds.
func vaultLsCommand(f *vaultFlags) *cobra.Command {
	var snapshot string
	var notes bool
	cmd := &cobra.Command{
		Use:   "ls --repo URL --key SECRET.asc [PATH...]",
		Short: "List the files of a snapshot",
		RunE: f.withRepository(func(cmd *cobra.Command, r *vault.Repository, args []string) error {
			ids, err := f.identities(cmd, r, snapshot)
			if err != nil {
				return err
			}
			c, err := r.Contents(cmd.Context(), snapshot, ids, args)
			if err != nil {
				return err
			}
			return show(cmd, c, func() error { return drawContents(cmd, c, notes) })
		}),
	}
	f.withKeys(cmd)
	cmd.Flags().StringVar(&snapshot, "snapshot", "latest", "ID, beginning of an ID, or latest")
	cmd.Flags().BoolVar(&notes, "notes", false, "show only what was remarked when it was written")
	return cmd
}

func drawContents(cmd *cobra.Command, c vault.Contents, notes bool) error {
	if notes {
		var rows [][]any
		for _, n := range c.Notes {
			rows = append(rows, []any{n.Kind, fmt.Sprintf("%q", n.Path), n.Detail})
		}
		return table(cmd, []any{"REMARK", "PATH", "DETAIL"}, rows)
	}
	for _, e := range c.Entries {
		name := printable(e.Path)
		if e.Link != "" {
			name += " -> " + printable(e.Link)
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s%s %5d:%-5d %12d %s %s\n", kindLetter(e.Kind), fs.FileMode(e.Mode & 0o777).String()[1:],
			e.UID, e.GID, e.Size, e.ModTime.Local().Format(time.DateTime), name)
		if err != nil {
			return err
		}
	}
	return nil
}

// printable quotes a name that would do something to a terminal.
func printable(name string) string {
	quoted := fmt.Sprintf("%q", name)
	if quoted == `"`+name+`"` || strings.ToValidUTF8(name, "") == name && !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return name
	}
	return quoted
}

func kindLetter(kind string) string {
	switch kind {
	case "directory":
		return "d"
	case "symlink":
		return "l"
	case "hardlink":
		return "h"
	case "fifo":
		return "p"
	case "socket":
		return "s"
	case "char":
		return "c"
	case "block":
		return "b"
	}
	return "-"
}

// vaultDiffCommand compares two snapshots.
func vaultDiffCommand(f *vaultFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff --repo URL --key SECRET.asc FROM TO",
		Short: "Show what changed between two snapshots",
		Args:  exactly("FROM", "TO"),
		RunE: f.withRepository(func(cmd *cobra.Command, r *vault.Repository, args []string) error {
			ids, err := f.identities(cmd, r, "")
			if err != nil {
				return err
			}
			changes, err := r.Diff(cmd.Context(), args[0], args[1], ids)
			if err != nil {
				return err
			}
			return show(cmd, changes, func() error {
				for _, c := range changes {
					if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%-8s %s (%d -> %d bytes)\n", c.Kind, printable(c.Path), c.Was, c.Is); err != nil {
						return err
					}
				}
				return nil
			})
		}),
	}
	f.withKeys(cmd)
	return cmd
}

// vaultStatsCommand counts.
func vaultStatsCommand(f *vaultFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "stats --repo URL",
		Short: "Show how much a repository holds; no key is needed",
		Args:  cobra.NoArgs,
		RunE: f.withRepository(func(cmd *cobra.Command, r *vault.Repository, _ []string) error {
			s, err := r.Stats(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, s, func() error {
				return table(cmd, []any{"WHAT", "COUNT", "SIZE"}, [][]any{
					{"snapshots", s.Snapshots, bytesWord(s.Logical) + " of files"},
					{"packs", s.Packs, bytesWord(s.PackBytes)},
					{"of them unused", s.Unused, bytesWord(s.UnusedSize)},
					{"index, manifests and the rest", "", bytesWord(s.OtherBytes)},
				})
			})
		}),
	}
}
