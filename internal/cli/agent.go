package cli

import (
	"io"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/internal/app"
	"holdfast/internal/config"
	"holdfast/internal/fleet"
	"holdfast/internal/problem"
)

// agentFlags is what was typed, before it is checked.
type agentFlags struct {
	app.Agent
	roles    []string
	logLevel string
}

// agentCommand runs a node's process.
func agentCommand() *cobra.Command {
	f := &agentFlags{}
	cmd := &cobra.Command{
		Use:   "agent --server URL --data DIR [--join TOKEN]",
		Short: "Run the node's process: it dials the server, does signed orders, and reports",
		Long: "The agent only dials out. The first start joins with a token (holdfast join-token create), which is spent once;\n" +
			"later starts need none. What it runs for customers goes on while it is stopped, restarted or upgraded.\n" +
			"Every flag can be set by its variable, such as HOLDFAST_SERVER or HOLDFAST_DATA.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.FromEnvironment(cmd.Flags(), os.LookupEnv); err != nil {
				return err
			}
			if err := f.check(); err != nil {
				return err
			}
			log, err := jsonLog(cmd.OutOrStdout(), f.logLevel)
			if err != nil {
				return err
			}
			f.Log, f.Version = log, version()
			return app.RunAgent(cmd.Context(), f.Agent)
		},
	}
	f.bind(cmd)
	return cmd
}

func (f *agentFlags) bind(cmd *cobra.Command) {
	name, _ := os.Hostname() // "" is refused below, in words
	flags := cmd.Flags()
	flags.StringVar(&f.Self.Server, "server", "", "URL of the server, https://HOST:PORT")
	flags.StringVar(&f.Token, "join", "", "join token; better in the variable HOLDFAST_JOIN, which other users cannot see")
	flags.StringVar(&f.Dir, "data", "", "data directory of the node")
	flags.StringVar(&f.Self.Node, "node", strings.ToLower(name), "name of the node")
	flags.StringVar(&f.Self.Site, "site", "", "site that the node stands in")
	flags.StringSliceVar(&f.roles, "roles", []string{"run"}, "what the node is for: run, spare, vault, edge, probe")
	flags.StringVar(&f.Self.Address, "address", "", "address where the edge reaches this node's services (default: the one that leads to the server)")
	flags.StringSliceVar(&f.Engines, "engine", []string{"exec"}, "what runs services: exec, docker; the first that can run a service does")
	flags.StringToStringVar(&f.Self.Labels, "label", nil, "label of the node, key=value")
	flags.StringVar(&f.Self.Authority, "ca", "", "PEM file of the server's authority (default: the one that the token names)")
	flags.StringVar(&f.Self.Proxy, "proxy", "", "HTTP CONNECT proxy on the way to the server (default: HTTPS_PROXY and NO_PROXY)")
	flags.IntVar(&f.Limits.MaxInstances, "max-instances", 0, "instances that the node takes (0: as memory and disk allow)")
	flags.Int64Var(&f.Limits.MemoryMB, "memory", 0, "MB that the node gives to instances (0: what the machine has)")
	flags.IntVar(&f.Ports.From, "ports-from", 0, "first port given to services (0: 20000)")
	flags.IntVar(&f.Ports.To, "ports-to", 0, "last port given to services (0: 29999)")
	flags.StringVar(&f.Edge.Listen, "edge-listen", "", "role edge: address for TLS (default: port 443 of --address)")
	flags.StringVar(&f.Edge.Plain, "edge-plain-listen", "", "role edge: address for plain HTTP")
	flags.BoolVar(&f.Edge.Redirect, "edge-redirect", false, "role edge: send plain requests to https")
	flags.StringVar(&f.Edge.ACME.Directory, "acme-directory", "", "role edge: URL of an ACME issuer (default: the server's own authority)")
	flags.StringVar(&f.Edge.ACME.Email, "acme-email", "", "role edge: contact address for the ACME issuer")
	flags.StringVar(&f.Edge.ACME.CAFile, "acme-ca", "", "role edge: PEM file of the authority that signed the ACME issuer's own certificate")
	flags.StringVar(&f.Vault.Listen, "vault-listen", "", "role vault: address of the backup listener (default: port "+app.VaultPort+" of --address)")
	flags.StringVar(&f.Vault.Dir, "vault-dir", "", "role vault: where repositories lie (default: vault/ in the data directory)")
	flags.StringVar(&f.Vault.Bucket, "vault-bucket", "", "role vault: s3://endpoint/bucket/prefix[?region=R] where repositories lie instead; credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	flags.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
}

// check refuses what cannot work, all of it at once.
func (f *agentFlags) check() error {
	var wrong problem.List
	usage := func(format string, args ...any) {
		wrong = append(wrong, problem.New(problem.Usage, "holdfast agent --help", "the agent did not start: "+format, args...))
	}
	if at, err := url.Parse(f.Self.Server); err != nil || at.Scheme != "https" || at.Host == "" {
		usage("--server %q is not of the form https://HOST:PORT", f.Self.Server)
	}
	if f.Dir == "" {
		usage("--data is missing")
	}
	if f.Self.Node == "" {
		usage("--node is missing")
	}
	if f.Self.Site == "" {
		usage("--site is missing")
	}
	known := []fleet.Role{fleet.RoleRun, fleet.RoleSpare, fleet.RoleVault, fleet.RoleEdge, fleet.RoleProbe}
	for _, role := range f.roles {
		if !slices.Contains(known, fleet.Role(role)) {
			usage("there is no role %q: --roles takes run, spare, vault, edge, probe", role)
			continue
		}
		f.Self.Roles = append(f.Self.Roles, fleet.Role(role))
	}
	if (f.Ports.From == 0) != (f.Ports.To == 0) || f.Ports.From > f.Ports.To {
		usage("--ports-from %d and --ports-to %d are no range", f.Ports.From, f.Ports.To)
	}
	return wrong.OrNil()
}

// jsonLog writes one JSON object a line.
func jsonLog(out io.Writer, level string) (*slog.Logger, error) {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, problem.New(problem.Usage, "--log-level info", "there is no log level %q", level)
	}
	return slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: least})), nil
}
