//go:build !slim

package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"holdfast/internal/fleet"
	"holdfast/internal/problem"
)

// schemaCommand prints the JSON Schema of one kind, or of a document of any kind.
func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema [KIND]",
		Short: "Print the JSON Schema of fleet files, for editors",
		Long: "Without KIND, the schema of a document of any kind. An editor with the YAML language server checks a file that\n" +
			"begins with:  # yaml-language-server: $schema=fleet.schema.json",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				schema, err := fleet.AnySchema()
				if err != nil {
					return err
				}
				return printJSON(cmd, schema)
			}
			for _, kind := range fleet.Kinds() {
				if strings.EqualFold(string(kind), args[0]) {
					return printSchema(cmd, kind)
				}
			}
			return problem.New(problem.NotFound, "holdfast schema lists all kinds in one schema", "kind %q is not known", args[0])
		},
	}
}

func printSchema(cmd *cobra.Command, kind fleet.Kind) error {
	schema, err := fleet.Schema(kind)
	if err != nil {
		return err
	}
	return printJSON(cmd, schema)
}
