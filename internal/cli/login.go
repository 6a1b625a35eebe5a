//go:build !slim

package cli

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/problem"
)

func loginCommand() *cobra.Command {
	var authority string
	cmd := &cobra.Command{
		Use: "login URL", Short: "Remember a server, its authority and a token in the context file", Args: exactly("URL"),
		Long: `Remember a server, its authority and a token in the context file.

The token is read from HOLDFAST_TOKEN or, without it, from standard input. The authority is the
fingerprint that the server printed at its first start; a server that shows another one is refused.`,
	}
	cmd.Flags().StringVar(&authority, "authority", "", "fingerprint of the server's authority")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		token, err := readToken(cmd)
		if err != nil {
			return err
		}
		return login(cmd, args[0], token, authority)
	}
	return cmd
}

func readToken(cmd *cobra.Command) (string, error) {
	if token := os.Getenv(api.EnvToken); token != "" {
		return token, nil
	}
	fmt.Fprint(cmd.ErrOrStderr(), "token: ")
	line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if token := strings.TrimSpace(line); token != "" {
		return token, nil
	}
	return "", problem.New(problem.Usage, "export "+api.EnvToken+"=TOKEN", "nobody was signed in: no token was given (%v)", err)
}

func login(cmd *cobra.Command, server, token, authority string) error {
	known, err := api.Discover(cmd.Context(), server, token, authority)
	if err != nil {
		return err
	}
	c, err := api.NewClient(known)
	if err != nil {
		return err
	}
	defer c.Close()
	me, err := c.Me(cmd.Context())
	if err != nil {
		return err
	}
	path, err := api.ContextPath(os.LookupEnv)
	if err != nil {
		return err
	}
	if err := known.Save(path); err != nil {
		return err
	}
	return show(cmd, me, func() error {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "signed in to %s as %s (%s); written to %s\n", known.Server, me.Name, me.Role, path)
		return err
	})
}
