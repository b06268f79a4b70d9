package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"migrate"
	"migrate/journal"
	"migrate/workload"
)

// addFound adds to the rows of "migrate ps" what else runs on this host and can
// be moved, and to those of what runs its size and what keeps it from being moved.
func (a *app) addFound(ctx context.Context, rows []psRow, moves []journal.Record) ([]psRow, error) {
	found, err := a.discover(ctx)
	problems := []error{err}
	for _, f := range found {
		l, err := f.Listed(ctx, a.stateDir, true)
		if err != nil && !f.Root.Alive() {
			continue // it has ended meanwhile
		}
		problems = append(problems, err)
		// The record of a container that left may be older than another one of its
		// name.
		i := slices.IndexFunc(rows, func(r psRow) bool { return r.Name == f.Name })
		switch {
		case i < 0:
			rows = append(rows, foundRow(f, l, moves))
		case rows[i].PID != f.Root.PID:
			rows[i] = foundRow(f, l, moves)
		}
		if i < 0 {
			i = len(rows) - 1
		}
		rows[i].Memory, rows[i].Blockers = l.Memory, l.Blockers
		rows[i].Status += blockedText(l.Blockers)
	}
	return rows, errors.Join(problems...)
}

// foundRow is the row of something that runs and has no record.
func foundRow(f workload.Found, l migrate.Listed, moves []journal.Record) psRow {
	row := psRowOf(workload.Record{Name: f.Name, Kind: f.Ref.Kind, ID: f.Ref.ID, Root: f.Root, State: workload.Running, Started: f.Root.Began()}, moves)
	row.Labels, row.Command = l.Labels, orEmpty(l.Command)
	return row
}

// blockedText names the reasons by their codes: there may be many, and "migrate
// check" tells them in words.
func blockedText(blockers []migrate.Finding) string {
	var codes []string
	for _, b := range blockers {
		if !slices.Contains(codes, b.Code) {
			codes = append(codes, b.Code)
		}
	}
	if len(codes) == 0 {
		return ""
	}
	return " (cannot be moved: " + strings.Join(codes, ", ") + ")"
}

// sizedRow is a row with a column for the size of the memory.
type sizedRow struct{ psRow }

func (r sizedRow) cells() []string {
	memory := "-"
	if r.Memory != 0 {
		memory = size(r.Memory)
	}
	return slices.Insert(r.psRow.cells(), 3, memory)
}

func psHeader(sized bool) []string {
	header := []string{"NAME", "KIND", "STATUS", "PID", "STARTED", "COMMAND"}
	if sized {
		return slices.Insert(header, 3, "MEMORY")
	}
	return header
}

func psList(rows []psRow, sized bool) []row {
	list := []row{}
	for _, r := range rows {
		if sized {
			list = append(list, sizedRow{r})
		} else {
			list = append(list, r)
		}
	}
	return list
}
