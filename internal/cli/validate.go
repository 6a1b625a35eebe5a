//go:build !slim

package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/internal/fleet"
)

// validateCommand reads a fleet and says everything that is wrong with it. It needs no server.
func validateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "validate -f DIR",
		Short: "Read the fleet files and say everything that is wrong with them; needs no server",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := loadFleet(cmd)
			if err != nil {
				return err
			}
			if wantsJSON(cmd) {
				return printJSON(cmd, map[string]any{"valid": true, "revision": f.Revision, "counts": fleetCounts(f)})
			}
			return drawValid(cmd.OutOrStdout(), f)
		},
	}
	addFleetFlag(cmd)
	return cmd
}

// addFleetFlag gives a verb -f DIR.
func addFleetFlag(cmd *cobra.Command) {
	cmd.Flags().StringP("fleet", "f", ".", "directory of the fleet files")
}

// loadFleet reads the fleet that -f names.
func loadFleet(cmd *cobra.Command) (*fleet.Fleet, error) {
	dir, err := cmd.Flags().GetString("fleet")
	if err != nil {
		return nil, err
	}
	return fleet.Load(dir)
}

// fleetCounts says how many documents of each kind there are.
func fleetCounts(f *fleet.Fleet) map[fleet.Kind]int {
	return map[fleet.Kind]int{
		fleet.KindSite: len(f.Sites), fleet.KindNode: len(f.Nodes), fleet.KindProduct: len(f.Products),
		fleet.KindRelease: len(f.Releases), fleet.KindRing: len(f.Rings), fleet.KindInstance: len(f.Instances),
		fleet.KindRecoveryPlan: len(f.RecoveryPlans),
	}
}

// drawValid prints what was read, in one line for each kind that is there.
func drawValid(out io.Writer, f *fleet.Fleet) error {
	if _, err := fmt.Fprintf(out, "the fleet is valid, revision %.12s\n", f.Revision); err != nil {
		return err
	}
	counts := fleetCounts(f)
	for _, kind := range fleet.Kinds() {
		if counts[kind] == 0 {
			continue
		}
		if _, err := fmt.Fprintf(out, "  %-12s %d\n", kind, counts[kind]); err != nil {
			return err
		}
	}
	return nil
}
