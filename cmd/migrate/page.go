package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"time"

	"migrate"
)

//go:embed report.html
var pageText string

var pageTemplate = template.Must(template.New("report").Parse(pageText))

// page is what report.html shows.
type page struct {
	Title, Headline, ID, Started, Status string

	Good      bool
	Tiles     []tile
	Error     []entry
	Facts     []entry
	Timelines []timeline
	Charts    []chart
	RoundHead []string
	Rounds    [][]string
	Findings  []findings
}

// tile is one figure, large.
type tile struct{ Name, Value, Note string }

// entry is a fact for the template.
type entry struct{ Name, Text string }

// findings are what preflight said.
type findings struct {
	Title string
	List  []migrate.Finding
}

// writePage writes a report as one HTML page that needs nothing else: no
// scripts, no other files. limit is the downtime that was aimed at, 0 if that is
// not known.
func writePage(w io.Writer, r *migrate.Report, limit time.Duration) error {
	p := page{
		Title: "migrate report " + string(r.ID), Headline: headline(r), ID: string(r.ID),
		Started: r.Started.Format(time.RFC1123), Status: fmt.Sprintf("%s, owner %s", r.Status, r.Owner),
		Good: r.Status == migrate.StatusCompleted, Tiles: tiles(r), Facts: entries(pageFacts(r)), Timelines: timelines(r),
		Charts: charts(r, limit), RoundHead: roundHead,
	}
	for _, round := range r.Rounds {
		p.Rounds = append(p.Rounds, roundCells(round))
	}
	if r.Error != nil {
		p.Error = entries(errorFacts(*r.Error))
	}
	for _, f := range []findings{{"Warnings", r.Warnings}, {"In the way", r.Blockers}} {
		if len(f.List) > 0 {
			p.Findings = append(p.Findings, f)
		}
	}
	return pageTemplate.Execute(w, p)
}

func entries(list []fact) (out []entry) {
	for _, f := range list {
		out = append(out, entry{f.name, f.text})
	}
	return out
}

func pageFacts(r *migrate.Report) []fact {
	if len(r.Phases) == 0 {
		return []fact{{"details", "the source host has them"}}
	}
	return append(manner(r), fact{"clock", clockText(r.Clock)})
}

// tiles are the figures that anybody wants, the downtime first.
func tiles(r *migrate.Report) []tile {
	list := []tile{{"Downtime", "none", "it was never frozen"}}
	if r.Downtime > 0 {
		list[0] = tile{"Downtime", duration(r.Downtime), "frozen on the source for " + duration(r.FrozenTime)}
	} else if r.FrozenTime > 0 {
		list[0] = tile{"Frozen", duration(r.FrozenTime), "on the source; it did not run on the target"}
	}
	if r.Expected > 0 {
		list = append(list, tile{"Predicted", duration(r.Expected), accuracy(r.Expected, r.Downtime)})
	}
	list = append(list, tile{"Took", duration(r.TotalTime), count(len(r.Rounds), "round")})
	if r.MemoryBytes > 0 {
		list = append(list,
			tile{"Memory", size(r.MemoryBytes), restoreTile(r.Restore)},
			tile{"On the wire", size(r.Transferred), fmt.Sprintf("%.2f of the memory's size", float64(r.Transferred)/float64(r.MemoryBytes))})
	}
	return list
}

func restoreTile(m migrate.RestoreMode) string {
	if m == "" {
		return "at preflight"
	}
	return string(m) + " restore"
}

// accuracy compares a prediction with the truth.
func accuracy(expected, truth migrate.Millis) string {
	if truth <= 0 {
		return "for the freeze"
	}
	off := 100 * (float64(truth) - float64(expected)) / float64(expected)
	switch {
	case math.Abs(off) < 1:
		return "and so it was"
	case off > 0:
		return fmt.Sprintf("it was %.0f%% longer", off)
	}
	return fmt.Sprintf("it was %.0f%% shorter", -off)
}
