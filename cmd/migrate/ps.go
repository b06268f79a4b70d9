package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"migrate"
	"migrate/journal"
	"migrate/workload"
)

type psOptions struct{ all bool }

const psLong = `Lists the workloads that were started on this host with "migrate run", or
arrived here: those that run, and those that ended within a day, with how. One
that was restored lazily runs before all its memory is there: how much of it is
filled in is shown as well.

With --all also those that ended longer ago, processes with labels, and the
containers of runc and crun, each with the size of its memory and what keeps it
from being moved to any host.`

const psExample = `  migrate ps
  migrate ps --all --json`

func newPsCommand(a *app) *cobra.Command {
	var opts psOptions
	cmd := &cobra.Command{
		Use:     "ps",
		Short:   "List the workloads of this host",
		Long:    psLong,
		Example: psExample,
		Args:    exactly(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runPs(cmd.Context(), a, opts)
		},
	}
	cmd.Flags().BoolVarP(&opts.all, "all", "a", false, "also those that ended longer ago, and what runs that can be moved")
	a.bindJSON(cmd.Flags())
	return cmd
}

// recently is for how long ended workloads are listed without being asked for.
const recently = 24 * time.Hour

func runPs(ctx context.Context, a *app, opts psOptions) error {
	p := a.printer()
	list, err := workload.List(a.stateDir)
	if err != nil {
		p.note("warning: %v", err)
	}
	_, moves, err := a.records(p, "")
	if err != nil {
		return err
	}
	rows := []psRow{}
	for _, r := range list {
		if opts.all || r.Ended.IsZero() || time.Since(r.Ended) < recently {
			rows = append(rows, a.psRowNow(ctx, r, moves))
		}
	}
	if opts.all && os.Geteuid() == 0 { // else the kernel tells nothing of them
		if rows, err = a.addFound(ctx, rows, moves); err != nil {
			p.note("warning: %v", err)
		}
	}
	p.list(psHeader(opts.all), psList(rows, opts.all))
	return nil
}

// psRow is one workload of this host.
type psRow struct {
	Type      string            `json:"type"` // always "workload"
	Name      string            `json:"name"`
	Ref       string            `json:"ref"` // as SRC of a move
	Kind      workload.Kind     `json:"kind"`
	State     workload.State    `json:"state"`
	Status    string            `json:"status"` // state with the circumstances, in words
	PID       int               `json:"pid"`    // 0 if it does not run
	Command   []string          `json:"command"`
	Labels    map[string]string `json:"labels,omitempty"`
	Started   time.Time         `json:"started"`
	Arrived   *time.Time        `json:"arrived,omitempty"`
	Ended     *time.Time        `json:"ended,omitempty"`
	ExitCode  *int              `json:"exit-code,omitempty"`
	Signal    int               `json:"signal,omitempty"`
	MovedTo   string            `json:"moved-to,omitempty"`
	Migration migrate.ID        `json:"migration,omitempty"`
	Fill      *fillRow          `json:"fill,omitempty"`
	Error     *migrate.Failure  `json:"error,omitempty"`
	Memory    uint64            `json:"memory-bytes,omitempty"` // that a move carries, of one that runs, with --all
	Blockers  []migrate.Finding `json:"blockers,omitempty"`     // likewise
}

func (r psRow) cells() []string {
	pid := "-"
	if r.PID != 0 {
		pid = fmt.Sprint(r.PID)
	}
	return []string{r.Name, string(r.Kind), r.Status, pid, r.Started.Local().Format(time.DateTime), strings.Join(r.Command, " ")}
}

// psRowNow adds what the supervisor of a workload knows to [psRowOf].
func (a *app) psRowNow(ctx context.Context, r workload.Record, moves []journal.Record) psRow {
	row := psRowOf(r, moves)
	row.Labels, _ = workload.Labels(a.stateDir, r.Name, r.Root) // those that cannot be read are told by "migrate label"
	if row.State != workload.Running || row.Arrived == nil {
		return row
	}
	if row.Fill, _ = a.filling(ctx, r.Name); row.Fill != nil {
		row.Status = fmt.Sprintf("%s (%s)", row.State, row.Fill.text())
	}
	return row
}

// psRowOf tells how a workload stands, as far as it is on record; moves are all migrations of this
// host, newest first.
func psRowOf(r workload.Record, moves []journal.Record) psRow {
	out := psRow{
		Type: "workload", Name: r.Name, Ref: r.Ref().String(), Kind: r.Kind, State: r.State, PID: r.LiveRoot(),
		Command: orEmpty(r.Command), Started: r.Started, Signal: r.Signal, MovedTo: r.MovedTo, Migration: r.Migration, Error: r.Failure,
	}
	if out.State == workload.Running && out.PID == 0 {
		out.State = workload.Lost // its supervisor ended first, or both with the host
	}
	if !r.Arrived.IsZero() {
		out.Arrived = &r.Arrived
	}
	if !r.Ended.IsZero() {
		out.Ended = &r.Ended
	}
	if out.State == workload.Exited {
		out.ExitCode = &r.ExitCode
	}
	out.Status = statusText(out)
	for _, m := range moves {
		if m.Name == r.Name && !m.Phase.Over() {
			out.Status = movingText(m)
		}
	}
	return out
}

// movingText says what a migration that is not over does to its workload.
func movingText(m journal.Record) string {
	switch {
	case m.Side == migrate.Target && m.Phase < migrate.Commit:
		return fmt.Sprintf("arriving (migration %s, %s)", m.ID, m.Phase)
	case m.Side == migrate.Source && m.Phase >= migrate.Freeze:
		return fmt.Sprintf("frozen (migration %s, %s)", m.ID, m.Phase)
	}
	return fmt.Sprintf("running (migration %s, %s)", m.ID, m.Phase)
}

func statusText(r psRow) string {
	switch {
	case r.Error != nil:
		return fmt.Sprintf("%s (killed, as its memory could not be filled in: %s)", r.State, r.Error.Cause)
	case r.State == workload.Exited && r.Signal != 0:
		return fmt.Sprintf("exited (signal %d)", r.Signal)
	case r.State == workload.Exited:
		return fmt.Sprintf("exited (%d)", *r.ExitCode)
	case r.State == workload.Moved:
		return "moved to " + r.MovedTo
	}
	return string(r.State)
}
