package main

import (
	"os"

	"github.com/spf13/cobra"

	"migrate/internal/fill"
)

// newFillCommand is the process that fills the memory of a workload that was
// restored lazily; its supervisor starts it, nobody else does.
func newFillCommand() *cobra.Command {
	return &cobra.Command{
		Use:    fill.Verb,
		Short:  "Fill the memory of one workload (internal)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(*cobra.Command, []string) error { return fill.Main(os.Stderr) },
	}
}
