//go:build !slim

package cli

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/access"
	"holdfast/internal/api"
	"holdfast/internal/app"
	"holdfast/internal/config"
	"holdfast/internal/problem"
)

// serverTokenCommand is the way in when no token is left: it takes the server's machine and the key of its secrets.
func serverTokenCommand() *cobra.Command {
	var settings config.Server
	var name, role, ends string
	cmd := &cobra.Command{
		Use: "token --data DIR --key-file FILE", Short: "Make an API token on the server's own machine, when every other is lost", Args: cobra.NoArgs,
		Long: "Make an API token on the server's own machine and print it once. It needs the control database and the key that\n" +
			"seals its secrets, and works while the server runs. The audit log names who did it.",
	}
	onMachineFlags(cmd, &settings)
	cmd.Flags().StringVar(&name, "token-name", "break-glass", "name of the token")
	cmd.Flags().StringVar(&role, "role", string(access.Admin), "viewer, operator or admin")
	cmd.Flags().StringVar(&ends, "ends", "24h", "how long it lives; 0 = until it is revoked")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := config.FromEnvironment(cmd.Flags(), os.LookupEnv); err != nil {
			return err
		}
		parsed, err := access.ParseRole(role)
		if err != nil {
			return err
		}
		life, err := time.ParseDuration(ends)
		if err != nil {
			return problem.New(problem.Usage, "--ends 24h", "%q is no length of time", ends)
		}
		text, err := app.MachineToken(cmd.Context(), settings, machineProcess(), name, parsed, life)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(cmd.OutOrStdout(), text); err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.ErrOrStderr(), "holdfast: shown this once\n  next: "+api.EnvToken+"=TOKEN holdfast login URL, and revoke those that are lost: holdfast token list")
		return err
	}
	return cmd
}

// onMachineFlags are the flags of commands that work on the control database itself.
func onMachineFlags(cmd *cobra.Command, settings *config.Server) {
	settings.Listen = ":0" // nothing listens
	cmd.Flags().StringVar(&settings.Data, "data", "", "folder of the server's own files")
	cmd.Flags().StringVar(&settings.Database, "db", "", "control database: postgres://... (default: a SQLite file in the data folder)")
	cmd.Flags().StringVar(&settings.KeyFile, "key-file", "", "file with the key that seals secrets (or set HOLDFAST_KEY)")
}

func machineProcess() app.Process { return app.Process{Version: version(), Key: os.Getenv(envKey)} }

func serverKitCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "kit --out FILE", Short: "Write the sealed copy of what the server cannot do without", Args: cobra.NoArgs,
		Long: "Write the server's kit to a file: its keys, the register of nodes and tokens, the generated secrets, all sealed with\n" +
			"the key of its secrets. Every vault holds the newest one as " + app.KitName + " in its agent's data directory; this is for a\n" +
			"copy that lies elsewhere.",
	}
	cmd.Flags().StringVar(&out, "out", app.KitName, "file to write")
	cmd.RunE = withServer(func(cmd *cobra.Command, c *api.Client, _ []string) error {
		kit, err := c.Kit(cmd.Context())
		if err != nil {
			return err
		}
		if err := os.WriteFile(out, kit.Kit, 0o600); err != nil {
			return problem.Wrap(err, problem.Usage, "holdfast server kit --out FILE", "the kit was not written")
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "wrote %s; it opens with the server's key alone\n", out)
		return err
	})
	return cmd
}

func serverRebuildCommand() *cobra.Command {
	var settings config.Server
	var kits []string
	var without bool
	cmd := &cobra.Command{
		Use: "rebuild --data DIR --key-file FILE --kit FILE...", Short: "Make the control database of a server that was lost", Args: cobra.NoArgs,
		Long: "Make a new control database from the server's kit; of several copies the newest is taken. Without any kit the server\n" +
			"gets new keys (--without-kit): every node must join again, and only people's recovery keys open the backups made\n" +
			"before. Then start the server, wait until the nodes are back, and let it adopt what they hold.",
	}
	onMachineFlags(cmd, &settings)
	cmd.Flags().StringSliceVar(&kits, "kit", nil, "copy of the kit, such as "+app.KitName+" of a vault (repeatable)")
	cmd.Flags().BoolVar(&without, "without-kit", false, "there is no copy left: make new keys")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := config.FromEnvironment(cmd.Flags(), os.LookupEnv); err != nil {
			return err
		}
		if without == (len(kits) > 0) {
			return problem.New(problem.Usage, "holdfast server rebuild --data DIR --key-file FILE --kit FILE", "nothing was rebuilt: name the kit, or say --without-kit, and not both")
		}
		files, err := app.ReadKits(kits)
		if err != nil {
			return err
		}
		made, err := app.Rebuild(cmd.Context(), settings, machineProcess(), files)
		if err != nil {
			return err
		}
		return tellRebuilt(cmd, settings, made)
	}
	return cmd
}

func tellRebuilt(cmd *cobra.Command, settings config.Server, made app.Rebuilt) error {
	for _, left := range made.Left {
		fmt.Fprintf(cmd.ErrOrStderr(), "left out: %s\n", left)
	}
	what := "with new keys: every node must join again"
	if made.File != "" {
		what = fmt.Sprintf("from %s, made %s: %d nodes, %d secrets", made.File, made.Kit.MadeAt.UTC().Format(time.RFC3339), made.Kit.Nodes, made.Kit.Secrets)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "rebuilt %s\n  next: holdfast server --data %s --key-file FILE --listen ADDRESS --name NAME, then holdfast adopt, then holdfast plan -f FLEET\n", what, settings.Data)
	return err
}
