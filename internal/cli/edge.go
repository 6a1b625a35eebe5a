package cli

import (
	"flag"
	"fmt"
	"log/slog"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"holdfast/internal/edge"
	"holdfast/internal/problem"
)

// edgeCommand runs the edge in this process: customers' requests in, the instances' answers out.
func edgeCommand() *cobra.Command {
	settings := edge.Defaults("")
	cmd := &cobra.Command{
		Use:   "edge --data DIR --listen ADDR",
		Short: "Pass requests for {instance}.{domain} to the instance, wherever it runs",
		Long: "The edge serves the routes that the agent of this node hands over, and goes on serving the last ones while no\n" +
			"agent runs. Agents with role edge start it themselves.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if settings.Dir == "" {
				return problem.New(problem.Usage, "holdfast edge --data DIR --listen ADDR", "the edge was not started: --data is missing")
			}
			settings.Log = slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil))
			return edge.Run(cmd.Context(), settings)
		},
	}
	flags := flag.NewFlagSet("edge", flag.ContinueOnError)
	settings.Bind(flags)
	cmd.Flags().AddGoFlagSet(flags)
	cmd.AddCommand(edgeStatusCommand())
	return cmd
}

func edgeStatusCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "status --data DIR",
		Short: "Show what the edge of this node serves",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := edge.NewClient(dir).Status(cmd.Context())
			if err != nil {
				return err
			}
			if wantsJSON(cmd) {
				return printJSON(cmd, status)
			}
			return drawEdge(cmd, status)
		},
	}
	cmd.Flags().StringVar(&dir, "data", "", "data directory of the edge")
	return cmd
}

func drawEdge(cmd *cobra.Command, status edge.Status) error {
	out := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	fmt.Fprintf(out, "edge\tprocess %d, tls %s, plain %s\n\n", status.PID, orDash(status.TLS), orDash(status.Plain))
	fmt.Fprintln(out, "INSTANCE\tEPOCH\tENDPOINTS\tREQUESTS\t5XX\tRETRIES\tIN FLIGHT\tHOST")
	for _, r := range status.Routes {
		host := ""
		if len(r.Hosts) > 0 {
			host = r.Hosts[0]
		}
		fmt.Fprintf(out, "%s\t%d\t%s\t%d\t%d\t%d\t%d\t%s\n", r.Instance, r.Epoch, endpointsWord(r),
			r.Counts.Requests, r.Counts.Classes["5xx"], r.Counts.Retries, r.Counts.InFlight, host)
	}
	for _, note := range status.Notes {
		fmt.Fprintf(out, "\nleft out: %s", note)
	}
	return out.Flush()
}

// endpointsWord says how many endpoints are healthy: "1 of 2", or why none takes requests.
func endpointsWord(r edge.RouteStatus) string {
	healthy := 0
	for _, e := range r.Endpoints {
		if e.Healthy {
			healthy++
		}
	}
	if r.Maintenance != "" {
		return "maintenance"
	}
	return fmt.Sprintf("%d of %d", healthy, len(r.Endpoints))
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
