// Command holdfast-lab brings up a lab of full servers on this machine, takes it down again, and breaks what is asked
// for. See docs/lab.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/internal/problem"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := commands().ExecuteContext(ctx)
	stop()
	if err != nil {
		os.Exit(complain(err))
	}
}

// commands is everything that can be typed.
func commands() *cobra.Command {
	root := &cobra.Command{
		Use: "holdfast-lab", Short: "A lab of full servers on this machine, and what may befall them",
		SilenceErrors: true, SilenceUsage: true,
	}
	root.PersistentFlags().String("name", "lab", "name of the lab; two may be up at once")
	root.AddCommand(upCommand(), downCommand(), statusCommand(), loadCommand(), putCommand(), shellCommand(), skewedCommand())
	root.AddCommand(faultCommands()...)
	return root
}

// complain prints an error as a person reads it and returns the exit code.
func complain(err error) int {
	fmt.Fprintln(os.Stderr, "holdfast-lab:", err)
	var hint *problem.Error
	if errors.As(err, &hint) && hint.Hint != "" {
		fmt.Fprintln(os.Stderr, "  next:", hint.Hint)
	}
	return problem.ExitCode(err)
}
