package main

import (
	"bytes"
	"time"

	"github.com/spf13/cobra"

	"migrate"
	"migrate/drain"
	"migrate/internal/atomicfile"
)

const reportLong = `Shows a migration in full: phases, rounds, clocks, downtime, and how it ended.
The source host knows most; a target knows how it ended. The ID may also be that
of a drain: then all of its workloads are shown.

With --html FILE it is written as a page for a browser, with a timeline and a
chart of dirty rate, throughput and predicted downtime by round. The page is one
file without scripts, which can be mailed or attached; "-" is standard output.

Exit status:
  0  shown
  1  the command line is wrong
  4  there is no such migration or drain on this host`

const reportExample = `  migrate report 0123456789abcdef
  migrate report 0123456789abcdef --html move.html
  migrate report 0123456789abcdef --json | jq '."downtime-ms"'`

func newReportCommand(a *app) *cobra.Command {
	var page string
	cmd := &cobra.Command{
		Use:               "report ID",
		Short:             "Show a migration in full",
		Long:              reportLong,
		Example:           reportExample,
		Args:              exactly("ID"),
		ValidArgsFunction: completeID(a, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			if r, err := a.drainRecord(args[0]); r != nil || err != nil {
				return runDrainReport(a, r, err, cmd.Flags().Changed("html"))
			}
			if cmd.Flags().Changed("html") {
				return runReportPage(a, args[0], page)
			}
			return runReport(a, args)
		},
	}
	a.bindJSON(cmd.Flags())
	cmd.Flags().StringVar(&page, "html", "", "write a page for a browser to this `file`")
	return cmd
}

func runDrainReport(a *app, r *drain.Record, err error, html bool) error {
	if err != nil {
		return err
	}
	if html {
		return usagef("--html: %s is a drain, want the ID of a migration", r.ID)
	}
	a.reportDrain(r)
	return nil
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

// runReportPage writes what the side that knows most says of a migration.
func runReportPage(a *app, id, file string) error {
	if file == "" || a.json {
		return usagef("--html: want a file, or - for standard output, and no --json")
	}
	j, list, err := a.records(a.printer(), id)
	if err != nil {
		return err
	}
	var best migrate.Report
	var limit time.Duration
	for i, r := range list {
		report := reportOf(r, a.live(j, r))
		if i == 0 || len(report.Phases) > len(best.Phases) {
			best, limit = report, r.Options.DowntimeLimit
		}
	}
	var page bytes.Buffer
	if err := writePage(&page, &best, limit); err != nil {
		return err
	}
	if file == "-" {
		_, err = a.stdout.Write(page.Bytes())
		return err
	}
	return atomicfile.WriteFile(file, page.Bytes(), 0o644)
}
