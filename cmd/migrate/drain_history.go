package main

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"migrate"
	"migrate/drain"
)

// drainRow is a drain in a list.
type drainRow struct {
	Type      string         `json:"type"` // always "drain-history"
	ID        migrate.ID     `json:"id"`
	Kind      string         `json:"kind"`
	Host      string         `json:"host"`
	By        string         `json:"by"`
	Status    drain.Status   `json:"status"`
	Live      bool           `json:"live"`
	Workloads int            `json:"workloads"`
	Moved     int            `json:"moved"`
	Left      int            `json:"left"`
	Started   time.Time      `json:"started"`
	Ended     time.Time      `json:"ended,omitzero"`
	TotalTime migrate.Millis `json:"total-time-ms"`
}

func drainRowOf(r drain.Record, live bool) drainRow {
	row := drainRow{
		Type: "drain-history", ID: r.ID, Kind: r.Kind, Host: r.Host, By: r.By, Status: r.Status, Live: live,
		Workloads: len(r.Items), Moved: r.Moved(), Left: r.Left(), Started: r.Started, Ended: r.Ended,
	}
	if !r.Ended.IsZero() {
		row.TotalTime = migrate.Millis(r.Ended.Sub(r.Started))
	}
	return row
}

func (r drainRow) cells() []string {
	status, took := string(r.Status), "-"
	if !r.Live && (r.Status == drain.Running || r.Status == drain.Planning) {
		status = "interrupted"
	}
	if r.TotalTime > 0 {
		took = duration(r.TotalTime)
	}
	return []string{r.Started.Local().Format(time.DateTime), string(r.ID), r.Kind, r.Host, status, fmt.Sprint(r.Moved), fmt.Sprint(r.Left), took}
}

// runDrainHistory lists the drains that commands on this machine made.
func runDrainHistory(a *app) error {
	s, err := a.drains()
	if err != nil {
		return err
	}
	p := a.printer()
	list, err := s.List()
	if err != nil {
		p.note("warning: %v", err)
	}
	rows := []row{}
	for _, r := range list {
		rows = append(rows, drainRowOf(r, s.Live(r.ID)))
	}
	p.list([]string{"STARTED", "ID", "KIND", "HOST", "STATUS", "MOVED", "LEFT", "TOOK"}, rows)
	return nil
}

// drainRecord returns the drain of that ID, if it is one.
func (a *app) drainRecord(id string) (*drain.Record, error) {
	parsed, err := migrate.ParseID(id)
	if err != nil {
		return nil, &usageError{err}
	}
	s, err := a.drains()
	if err != nil {
		return nil, err
	}
	r, err := s.Get(parsed)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return &r, err
}

// itemRow is a workload of a drain that is or was carried out.
type itemRow struct{ it drain.Item }

func (r itemRow) cells() []string {
	id, took, down, why := "-", "-", "-", r.it.Why
	if n := len(r.it.Attempts); n > 0 {
		at := r.it.Attempts[n-1]
		id = string(at.ID)
		if at.TotalTime > 0 {
			took, down = duration(at.TotalTime), duration(at.Downtime)
		}
	}
	if r.it.Failure != nil {
		why = whatFailed(r.it.Failure)
	}
	return []string{r.it.Ref, string(r.it.State), r.it.Source, r.it.Target, fmt.Sprint(len(r.it.Attempts)), id, took, down, why}
}

// reportDrain shows a drain in full.
func (a *app) reportDrain(r *drain.Record) {
	if a.json {
		a.drainPrinter().json.write(drainLine{"drain", r})
		return
	}
	p := a.textPrinter()
	fmt.Fprintln(a.stdout, plain(drainHeadline(r)))
	p.facts([]fact{
		{"id", string(r.ID)}, {"status", string(r.Status)}, {"asked for on", r.By}, {"started", r.Started.Format(time.RFC3339)},
	})
	fmt.Fprintln(a.stdout)
	rows := []row{}
	for _, it := range r.Items {
		rows = append(rows, itemRow{it})
	}
	p.list([]string{"WORKLOAD", "STATE", "FROM", "TO", "TRIES", "MIGRATION", "TOOK", "DOWNTIME", "WHY"}, rows)
	if r.Error != nil {
		fmt.Fprintln(a.stdout, "\nerror")
		p.facts(errorFacts(*r.Error))
	}
}
