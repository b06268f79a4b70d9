package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"time"

	"migrate"
	"migrate/journal"
	"migrate/source"
)

// ownerOf says where the workload of a record is, as far as this host knows.
func ownerOf(r journal.Record) migrate.Owner {
	switch r.Phase {
	case migrate.Done, migrate.Finish:
		return migrate.OwnerTarget
	case migrate.Held:
		return migrate.OwnerInDoubt
	case migrate.Commit:
		if r.Side == migrate.Target { // decided; it will run here
			return migrate.OwnerTarget
		}
		return migrate.OwnerInDoubt
	}
	return migrate.OwnerSource
}

// votePatience is how long a target that voted may wait for the verdict before
// it counts as in doubt; without trouble that takes milliseconds.
const votePatience = 5 * time.Second

// statusOf says how a record's migration stands. Live means that the move
// itself goes on: then only it can say that it is in doubt.
func statusOf(r journal.Record, live bool) migrate.Status {
	switch {
	case r.Phase == migrate.Done:
		return migrate.StatusCompleted
	case r.Phase == migrate.RolledBack && r.Status != migrate.StatusActive && r.Status != migrate.StatusInDoubt:
		return r.Status
	case r.Phase == migrate.RolledBack:
		return migrate.StatusFailed
	case ownerOf(r) == migrate.OwnerInDoubt && !live:
		return migrate.StatusInDoubt
	}
	return migrate.StatusActive
}

// reportOf returns what a record knows of a migration. The report that its
// source wrote can be older than what recovery made of it since.
func reportOf(r journal.Record, live bool) migrate.Report {
	report := migrate.Report{
		ID: r.ID, Workload: r.Workload, Started: r.Started,
		Rounds: []migrate.Round{}, Phases: []migrate.PhaseTiming{},
		Warnings: []migrate.Finding{}, Blockers: []migrate.Finding{},
	}
	if r.Report != nil {
		report = *r.Report
	}
	report.Type, report.Status, report.Owner = "result", statusOf(r, live), ownerOf(r)
	if report.Error == nil || r.Phase.Over() {
		report.Error = r.Reason
	}
	if r.Phase.Over() {
		report.TotalTime = cmp.Or(report.TotalTime, migrate.Millis(r.Updated.Sub(r.Started)))
	}
	here, _ := os.Hostname() // "" is "this host"
	if r.Side == migrate.Source {
		report.SourceHost, report.TargetHost = cmp.Or(report.SourceHost, here), cmp.Or(report.TargetHost, r.PeerName, r.Peer)
	} else {
		report.SourceHost, report.TargetHost = cmp.Or(report.SourceHost, r.PeerName, r.Peer), cmp.Or(report.TargetHost, here)
	}
	return report
}

// live reports whether the move of a record goes on. On the source that is
// whether its process answers: the lock is also held by an agent that recovers
// what a dead one left. On the target the agent holds the lock and waits.
func (a *app) live(j *journal.Journal, r journal.Record) bool {
	if r.Phase.Over() {
		return false
	}
	if r.Side == migrate.Source {
		_, err := source.Ask(a.runDir, r.ID, "status")
		return err == nil
	}
	state, err := j.State(r.ID, r.Side)
	return err == nil && state.Live && (r.Phase != migrate.Held || time.Since(r.Updated) < votePatience)
}

// records returns what this host has on record about one migration, or about
// all if id is "", newest first. Records that cannot be read are told as a
// warning: the others are good.
func (a *app) records(p printer, id string) (*journal.Journal, []journal.Record, error) {
	j, err := a.journal()
	if err != nil {
		return nil, nil, err
	}
	list, err := j.List()
	if err != nil {
		p.note("warning: %v", err)
	}
	if id == "" {
		return j, list, nil
	}
	want, err := migrate.ParseID(id)
	if err != nil {
		return nil, nil, &usageError{err}
	}
	var found []journal.Record
	for _, r := range list {
		if r.ID == want {
			found = append(found, r)
		}
	}
	if len(found) == 0 {
		return nil, nil, advise(fmt.Errorf("no migration %s on this host", id), "see \"migrate history\"")
	}
	return j, found, nil
}

// damaged lists the records of a journal that cannot be read.
func damaged(err error) []*journal.DamagedError {
	var list []*journal.DamagedError
	var one *journal.DamagedError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			list = append(list, damaged(e)...)
		}
	} else if errors.As(err, &one) {
		list = append(list, one)
	}
	return list
}
