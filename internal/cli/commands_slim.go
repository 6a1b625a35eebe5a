//go:build slim

package cli

import "github.com/spf13/cobra"

// commands lists the verbs that a node needs; the build tag slim leaves out all that only a server or a person does.
func commands() []*cobra.Command {
	return []*cobra.Command{
		agentCommand(),
		undoTimerCommand(),
		edgeCommand(),
	}
}
