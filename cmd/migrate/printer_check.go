package main

import (
	"fmt"
	"text/tabwriter"

	"migrate"
)

// checkResult is the answer of a preflight.
type checkResult struct {
	Type     string            `json:"type"` // always "check"
	Workload string            `json:"workload"`
	Source   string            `json:"source"`
	Target   string            `json:"target"`
	Movable  bool              `json:"movable"`
	Files    []migrate.Tree    `json:"files,omitempty"`
	Blockers []migrate.Finding `json:"blockers"`
	Warnings []migrate.Finding `json:"warnings"`
}

func (p *textPrinter) check(c checkResult) {
	verdict := "can move"
	if !c.Movable {
		verdict = "cannot move"
	}
	fmt.Fprintln(p.out, plain(fmt.Sprintf("%s %s from %s to %s: %s, %s", c.Workload, verdict,
		hostOr(c.Source, "this host"), hostOr(c.Target, "the target"),
		count(len(c.Blockers), "blocker"), count(len(c.Warnings), "warning"))))
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	for _, t := range c.Files {
		fmt.Fprintf(w, "  files\t%s\t%s\n", t.Decision, plain(treeText(t)))
	}
	for _, group := range []struct {
		word string
		list []migrate.Finding
	}{{"blocker", c.Blockers}, {"warning", c.Warnings}} {
		for _, f := range group.list {
			fmt.Fprintf(w, "  %s\t%s\t%s\n", group.word, plain(f.Code), plain(f.What))
			if f.Advice != "" {
				fmt.Fprintf(w, "  \t\t%s\n", plain("hint: "+f.Advice))
			}
		}
	}
	w.Flush()
}
