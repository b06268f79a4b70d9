package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"migrate"
	"migrate/journal"
	"migrate/source"
)

const statusLong = `Lists the migrations under way on this host, as a source or as a target, and
those that a dead process left unfinished. On the target that includes one whose
workload runs and has not all its memory yet, after a lazy restore. With ID it
shows that one, also if it is over.

With --all it lists those of other hosts too, as their agents tell: of the hosts
that --host names, or that are in the --inventory, besides this one.

Exit status:
  0  done
  1  the command line is wrong
  4  there is no such migration, or a host does not answer
  5  one of those shown is in doubt`

const statusExample = `  migrate status
  migrate status 0123456789abcdef --json
  migrate status --all --inventory hosts.yaml`

func newStatusCommand(a *app) *cobra.Command {
	var all everywhere
	cmd := &cobra.Command{
		Use:               "status [ID]",
		Short:             "Show migrations under way",
		Long:              statusLong,
		Example:           statusExample,
		Args:              atMostOne("ID"),
		ValidArgsFunction: completeID(a, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all.on || all.inventory != "" || len(all.hosts) > 0 {
				return runStatusAll(cmd.Context(), a, all, args)
			}
			return runStatus(cmd.Context(), a, args)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&all.on, "all", false, "also those of other hosts")
	f.StringSliceVar(&all.hosts, "host", nil, "HOST or HOST:PORT to ask, with --all; may be repeated")
	f.StringVar(&all.inventory, "inventory", "", "YAML `file` of hosts to ask, with --all")
	a.bindJSON(f)
	return cmd
}

func runStatus(ctx context.Context, a *app, args []string) error {
	p := a.printer()
	id := ""
	if len(args) > 0 {
		id = args[0]
	}
	j, list, err := a.records(p, id)
	if err != nil {
		return err
	}
	rows, code := []row{}, codeOK
	for _, r := range list {
		if id == "" && r.Phase.Over() {
			continue
		}
		s := a.statusOf(ctx, j, r)
		if s.Status == migrate.StatusInDoubt {
			code = codeInDoubt
		}
		rows = append(rows, s)
	}
	p.list([]string{"ID", "SIDE", "WORKLOAD", "PEER", "STATUS", "PROGRESS"}, rows)
	return end(code)
}

// statusRow is one side of one migration.
type statusRow struct {
	Type     string            `json:"type"` // always "migration"
	ID       migrate.ID        `json:"id"`
	Side     migrate.Side      `json:"side"`
	Workload string            `json:"workload"`
	Name     string            `json:"name"` // of the workload on its host
	Peer     string            `json:"peer"`
	Phase    migrate.Phase     `json:"phase"`
	Status   migrate.Status    `json:"status"`
	Owner    migrate.Owner     `json:"owner"`
	Live     bool              `json:"live"` // a process on this host works on it
	Started  time.Time         `json:"started"`
	Updated  time.Time         `json:"updated"`
	Progress *migrate.Progress `json:"progress,omitempty"`
	Fill     *fillRow          `json:"fill,omitempty"`
	Error    *migrate.Failure  `json:"error,omitempty"`
}

func (r statusRow) cells() []string {
	return []string{string(r.ID), string(r.Side), r.Workload, r.Peer, string(r.Status), r.progressText()}
}

func (r statusRow) progressText() string {
	switch {
	case r.Progress != nil && r.Progress.Total > 0:
		return progressLine(*r.Progress)
	case r.Fill != nil:
		return r.Fill.text()
	case r.Phase == migrate.Done && r.Error != nil:
		return r.Error.What
	case !r.Phase.Over() && !r.Live:
		return fmt.Sprintf("%s, see: migrate recover %s", r.Phase, r.ID)
	}
	return r.Phase.String()
}

// statusOf joins what the journal holds with what a live process says.
func (a *app) statusOf(ctx context.Context, j *journal.Journal, r journal.Record) statusRow {
	alive := a.live(j, r)
	if now, err := j.Get(r.ID, r.Side); err == nil && !alive {
		r = now // it may have ended since r was read
	}
	row := statusRow{
		Type: "migration", ID: r.ID, Side: r.Side, Workload: r.Workload, Name: r.Name, Peer: peerOf(r),
		Phase: r.Phase, Status: statusOf(r, alive), Owner: ownerOf(r), Live: alive,
		Started: r.Started, Updated: r.Updated, Error: r.Reason,
	}
	if r.Side == migrate.Source && alive {
		if g, err := source.Ask(a.runDir, r.ID, "status"); err == nil {
			row.Progress = &g
		}
	}
	if r.Side == migrate.Target && r.Phase == migrate.Finish {
		var failure *migrate.Failure
		row.Fill, failure = a.filling(ctx, r.Name)
		row.Error = cmp.Or(row.Error, failure)
	}
	return row
}

// peerOf names the other host.
func peerOf(r journal.Record) string {
	if r.PeerName != "" {
		return r.PeerName
	}
	return r.Peer
}
