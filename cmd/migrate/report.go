package main

import (
	"github.com/spf13/cobra"
)

const reportLong = `Shows a migration in full: phases, rounds, clocks, downtime, and how it ended.
The source host knows most; a target knows how it ended.

Exit status:
  0  shown
  1  the command line is wrong
  4  there is no such migration on this host`

const reportExample = `  migrate report 0123456789abcdef
  migrate report 0123456789abcdef --json | jq '."downtime-ms"'`

func newReportCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "report ID",
		Short:             "Show a migration in full",
		Long:              reportLong,
		Example:           reportExample,
		Args:              exactly("ID"),
		ValidArgsFunction: completeID(a, true),
		RunE: func(_ *cobra.Command, args []string) error {
			return runReport(a, args)
		},
	}
	a.bindJSON(cmd.Flags())
	return cmd
}

func runReport(a *app, args []string) error {
	p := a.printer()
	j, list, err := a.records(p, args[0])
	if err != nil {
		return err
	}
	for _, r := range list {
		report := reportOf(r, a.live(j, r))
		p.report(&report)
	}
	return nil
}
