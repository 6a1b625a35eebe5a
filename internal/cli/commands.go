//go:build !slim

package cli

import "github.com/spf13/cobra"

// commands lists the verbs in the order of the loop; each lives in the file of its name.
func commands() []*cobra.Command {
	return []*cobra.Command{
		serverCommand(),
		adoptCommand(),
		loginCommand(),
		tokenCommand(),
		joinTokenCommand(),
		nodeCommand(),
		validateCommand(),
		planCommand(),
		applyCommand(),
		explainCommand(),
		schemaCommand(),
		agentCommand(),
		undoTimerCommand(),
		edgeCommand(),
		recoverCommand(),
		drillCommand(),
		vaultCommand(),
		getCommand(),
		opCommand(),
		backupCommand(),
		restoreCommand(),
		auditCommand(),
	}
}
