package main

import (
	"github.com/spf13/cobra"

	"migrate/supervisor"
)

// newSuperviseCommand is the process that every workload on a host has as its
// parent; supervisor.Start starts it, nobody else does.
func newSuperviseCommand() *cobra.Command {
	return &cobra.Command{
		Use:                supervisor.Verb,
		Short:              "Be the parent of one workload (internal)",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return supervisor.Main(cmd.Context(), args)
		},
	}
}
