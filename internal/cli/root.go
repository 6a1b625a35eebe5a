// Package cli is the command line: one file per verb, and all drawing in a terminal.
//
// Words: a command does one verb; -o json prints what a machine reads; the exit code comes from the problem
// package's table and from nowhere else.
//
// Invariant: everything a person must read is printed here; packages to the left return data and problem.Error.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/internal/problem"
)

// exitError carries an exit code for an ending that is not an error, such as "changes pending".
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// exitWith ends the command with code and prints nothing.
func exitWith(code int) error { return exitError(code) }

// Main runs the command line and returns the exit code. Interrupt and terminate cancel the command's context.
func Main(args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	return finish(ctx, root, root.ExecuteContext(ctx))
}

// finish prints err as the root's output form asks and maps it to the exit code.
func finish(ctx context.Context, root *cobra.Command, err error) int {
	if code, ok := errors.AsType[exitError](err); ok {
		return int(code)
	}
	if err == nil {
		return problem.ExitDone
	}
	printError(root, err)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return problem.ExitInterrupted
	}
	return problem.ExitCode(err)
}

// rootCommand lists every verb; there is no registry.
func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "holdfast",
		Short:         "One dedicated stack per customer, and the daily proof that a data center may be lost",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringP("output", "o", "text", "output form: text or json")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return problem.New(problem.Usage, cmd.CommandPath()+" --help", "%s: %s", cmd.CommandPath(), err)
	})
	root.AddCommand(commands()...)
	strict(root)
	return root
}

// strict makes every command answer wrong arguments as wrong usage, which cobra by itself does not tell from failing:
// a verb that does not exist, and arguments where none are taken.
func strict(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		strict(sub)
	}
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.Args, cmd.RunE = cobra.ArbitraryArgs, noVerb
		return
	}
	check := cmd.Args
	if check == nil {
		return
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		err := check(cmd, args)
		if problem.KindOf(err) != problem.Internal {
			return err
		}
		return problem.New(problem.Usage, cmd.CommandPath()+" --help", "%s: %s", cmd.CommandPath(), err)
	}
}

// noVerb is what a command does that only groups others.
func noVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	cmd.SuggestionsMinimumDistance = 2 // letters that may be wrong
	hint := cmd.CommandPath() + " --help"
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = cmd.CommandPath() + " " + near[0]
	}
	return problem.New(problem.Usage, hint, "%s has no verb %q", cmd.CommandPath(), args[0])
}

// wantsJSON tells whether the person asked for -o json.
func wantsJSON(cmd *cobra.Command) bool {
	form, err := cmd.Flags().GetString("output")
	return err == nil && form == "json"
}

// printJSON writes value, indented, to the command's output.
func printJSON(cmd *cobra.Command, value any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(value)
}

// printError writes err to standard error: one line for each problem, its hint below it; as JSON with -o json.
func printError(cmd *cobra.Command, err error) {
	all := problems(err)
	if wantsJSON(cmd) {
		enc := json.NewEncoder(cmd.ErrOrStderr())
		enc.SetIndent("", "  ")
		_ = enc.Encode(map[string]any{"errors": all}) // standard error is the last resort: nowhere to report its failure
		return
	}
	for _, e := range all {
		fmt.Fprintf(cmd.ErrOrStderr(), "holdfast: %s\n", e.Error())
		if e.Hint != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "  next: %s\n", e.Hint)
		}
	}
}

// problems flattens err into what is to be shown, in order.
func problems(err error) []*problem.Error {
	if list, ok := errors.AsType[problem.List](err); ok {
		return list
	}
	if e, ok := errors.AsType[*problem.Error](err); ok {
		return []*problem.Error{e}
	}
	return []*problem.Error{{Kind: problem.KindOf(err), Message: err.Error()}}
}
