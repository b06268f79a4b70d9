package main

import (
	"time"

	"github.com/spf13/cobra"

	"migrate"
	"migrate/journal"
)

const historyLong = `Lists the migrations of this host, newest first, for 30 days. With --drains it
lists the drains and undrains that commands on this machine made.`

const historyExample = `  migrate history
  migrate history --drains
  migrate history --json | jq 'select(.status == "failed")'`

func newHistoryCommand(a *app) *cobra.Command {
	var drains bool
	cmd := &cobra.Command{
		Use:     "history",
		Short:   "List the migrations of this host",
		Long:    historyLong,
		Example: historyExample,
		Args:    exactly(""),
		RunE: func(*cobra.Command, []string) error {
			if drains {
				return runDrainHistory(a)
			}
			return runHistory(a)
		},
	}
	cmd.Flags().BoolVar(&drains, "drains", false, "drains instead of migrations")
	a.bindJSON(cmd.Flags())
	return cmd
}

func runHistory(a *app) error {
	p := a.printer()
	j, list, err := a.records(p, "")
	if err != nil {
		return err
	}
	rows := []row{}
	for _, r := range list {
		rows = append(rows, historyOf(r, a.live(j, r)))
	}
	p.list([]string{"STARTED", "ID", "SIDE", "WORKLOAD", "FROM", "TO", "STATUS", "OWNER", "TOOK", "DOWNTIME"}, rows)
	return nil
}

// historyRow is one migration, in short.
type historyRow struct {
	Type       string         `json:"type"` // always "history"
	ID         migrate.ID     `json:"id"`
	Side       migrate.Side   `json:"side"`
	Workload   string         `json:"workload"`
	SourceHost string         `json:"source"`
	TargetHost string         `json:"target"`
	Status     migrate.Status `json:"status"`
	Owner      migrate.Owner  `json:"owner"`
	Started    time.Time      `json:"started"`
	Ended      time.Time      `json:"ended,omitzero"`
	TotalTime  migrate.Millis `json:"total-time-ms"`
	Downtime   migrate.Millis `json:"downtime-ms"` // 0 on a target, which cannot know
}

func historyOf(r journal.Record, alive bool) historyRow {
	report := reportOf(r, alive)
	row := historyRow{
		Type: "history", ID: r.ID, Side: r.Side, Workload: r.Workload, SourceHost: report.SourceHost, TargetHost: report.TargetHost,
		Status: report.Status, Owner: report.Owner, Started: r.Started, TotalTime: report.TotalTime, Downtime: report.Downtime,
	}
	if r.Phase.Over() {
		row.Ended = r.Updated
	}
	return row
}

func (r historyRow) cells() []string {
	took, down := "-", "-"
	if r.TotalTime > 0 {
		took = duration(r.TotalTime)
	}
	if r.Downtime > 0 {
		down = duration(r.Downtime)
	}
	return []string{r.Started.Local().Format(time.DateTime), string(r.ID), string(r.Side), r.Workload, r.SourceHost, r.TargetHost,
		string(r.Status), string(r.Owner), took, down}
}
