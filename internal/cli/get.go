//go:build !slim

package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
)

func getCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "get", Short: "Show what the server knows: nodes, instances, operations, snapshots, results"}
	cmd.AddCommand(getNodesCommand(), getInstancesCommand(), getOperationsCommand(), getSnapshotsCommand(), getResultsCommand(), getSitesCommand())
	return cmd
}

func getNodesCommand() *cobra.Command {
	return &cobra.Command{Use: "nodes", Short: "List nodes and when they were last heard", Args: cobra.NoArgs, RunE: withServer(func(cmd *cobra.Command, c *api.Client, _ []string) error {
		nodes, err := c.Nodes(cmd.Context())
		if err != nil {
			return err
		}
		return show(cmd, nodes, func() error {
			var rows [][]any
			for _, n := range nodes {
				var roles []string
				for _, role := range n.Roles {
					roles = append(roles, string(role))
				}
				rows = append(rows, []any{n.Node, n.Site, strings.Join(roles, ","), n.State, age(n.SeenAt), n.Instances, n.Version})
			}
			return table(cmd, []any{"NODE", "SITE", "ROLES", "STATE", "SEEN", "INSTANCES", "VERSION"}, rows)
		})
	})}
}

func getInstancesCommand() *cobra.Command {
	return &cobra.Command{Use: "instances", Short: "List instances, where they are, and the age of their newest snapshot and proof", Args: cobra.NoArgs, RunE: withServer(func(cmd *cobra.Command, c *api.Client, _ []string) error {
		instances, err := c.Instances(cmd.Context())
		if err != nil {
			return err
		}
		return show(cmd, instances, func() error {
			var rows [][]any
			for _, i := range instances {
				rows = append(rows, []any{i.Instance, i.Release, i.Node, i.Site, instanceState(i), age(i.Snapshot), age(i.Proof), strings.Join(i.Hosts, ",")})
			}
			return table(cmd, []any{"INSTANCE", "RELEASE", "NODE", "SITE", "STATE", "SNAPSHOT", "PROOF", "HOSTS"}, rows)
		})
	})}
}

func instanceState(i api.Instance) string {
	if i.Retired {
		return "retired"
	}
	return string(i.State)
}

func getOperationsCommand() *cobra.Command {
	cmd := opListCommand()
	cmd.Use = "operations"
	return cmd
}

func getSnapshotsCommand() *cobra.Command {
	cmd := backupListCommand()
	cmd.Use = "snapshots [instance/NAME]"
	return cmd
}

func getResultsCommand() *cobra.Command {
	return &cobra.Command{Use: "results", Short: "List the newest answer of each outside probe", Args: cobra.NoArgs, RunE: withServer(func(cmd *cobra.Command, c *api.Client, _ []string) error {
		results, err := c.Results(cmd.Context())
		if err != nil {
			return err
		}
		return show(cmd, results, func() error {
			var rows [][]any
			for _, r := range results {
				rows = append(rows, []any{r.Instance, r.Check, r.Node, verdict(r.OK), age(r.At), r.Took.Round(time.Millisecond), r.Error})
			}
			return table(cmd, []any{"INSTANCE", "CHECK", "PROBE", "SAW", "AGE", "TOOK", "WHY"}, rows)
		})
	})}
}

func verdict(ok bool) string {
	if ok {
		return "well"
	}
	return "not well"
}

// age shows how long ago a moment was, in the largest unit that says something; a dash for never.
func age(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return span(time.Since(at)) + " ago"
}

// span shows a length of time in its largest unit.
func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func getSitesCommand() *cobra.Command {
	return &cobra.Command{Use: "sites", Short: "List sites, and which of them look lost from outside", Args: cobra.NoArgs, RunE: withServer(func(cmd *cobra.Command, c *api.Client, _ []string) error {
		sites, err := c.Sites(cmd.Context())
		if err != nil {
			return err
		}
		return show(cmd, sites, func() error {
			var rows [][]any
			for _, s := range sites {
				rows = append(rows, []any{s.Site, siteState(s), fmt.Sprintf("%d of %d", s.Heard, s.Nodes), s.Instances, s.Down, s.Why})
			}
			return table(cmd, []any{"SITE", "STATE", "NODES HEARD", "INSTANCES", "DOWN", "WHY"}, rows)
		})
	})}
}

// siteState never says that a site is lost: that is for a person to declare.
func siteState(s api.Site) string {
	switch {
	case s.Suspected:
		return "suspected lost"
	case s.Heard == 0:
		return "silent"
	}
	return "heard"
}
