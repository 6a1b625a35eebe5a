//go:build !slim

package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"holdfast/internal/app"
	"holdfast/internal/config"
)

// envKey holds the URL of the keeper of secrets. It is read apart from the flags: a key has no flag, for command
// lines are seen by everyone on a machine.
const envKey = "HOLDFAST_KEY"

// envMail holds the password at the mail server; like a key it has no flag.
const envMail = "HOLDFAST_SMTP_PASSWORD"

func serverCommand() *cobra.Command {
	var settings config.Server
	var newKey string
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the control plane",
		Long: `Run the control plane: one port for the command line, the web and the agents.

It needs a key that seals its secrets: make one with --new-key FILE and give it with --key-file FILE or
in HOLDFAST_KEY. Keep a copy of the key away from the server: without it the database is worth nothing.
Every flag can be set by its variable, such as HOLDFAST_DATA or HOLDFAST_LISTEN.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(serverTokenCommand(), serverKitCommand(), serverRebuildCommand())
	settings.Flags(cmd.Flags())
	cmd.Flags().StringVar(&newKey, "new-key", "", "write a fresh key to this file and end")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if newKey != "" {
			return makeKey(cmd, newKey)
		}
		return runServer(cmd, &settings)
	}
	return cmd
}

func makeKey(cmd *cobra.Command, file string) error {
	if err := app.NewKey(file); err != nil {
		return err
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "wrote %s; keep a copy away from the server\n  next: holdfast server --data DIR --key-file %s\n", file, file)
	return err
}

func runServer(cmd *cobra.Command, settings *config.Server) error {
	if err := config.FromEnvironment(cmd.Flags(), os.LookupEnv); err != nil {
		return err
	}
	s, err := app.OpenServer(cmd.Context(), *settings, app.Process{
		Version: version(), Key: os.Getenv(envKey), Mail: os.Getenv(envMail), Logs: cmd.OutOrStdout(), People: cmd.ErrOrStderr(),
	})
	if err != nil {
		return err
	}
	return s.Run(cmd.Context())
}
