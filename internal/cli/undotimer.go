package cli

import (
	"github.com/spf13/cobra"

	"holdfast/internal/agent"
)

// undoTimerCommand is the keeper of one fault; an agent starts it when a fault is armed, nobody types it.
func undoTimerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "undo-timer FILE",
		Short:  "Keep an armed fault and end it",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(cmd *cobra.Command, args []string) error { return agent.KeepFault(cmd.Context(), args[0]) },
	}
}
