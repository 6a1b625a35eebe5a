//go:build slim

// Command holdfast-agent is holdfast with only what a node needs: the agent and the edge. Same source, less of it in
// memory. Build it with: go build -tags slim ./cmd/holdfast-agent
package main

import (
	"os"

	"holdfast/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
