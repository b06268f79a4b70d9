package main

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"migrate"
)

// result ends a move: how it ended on standard output, why it failed on
// standard error.
func (p *textPrinter) result(r *migrate.Report) {
	p.clear()
	fmt.Fprintln(p.out, plain(headline(r)))
	if r.Status == migrate.StatusCompleted {
		p.facts(summary(r))
	}
	p.findings(r)
	if r.Error != nil {
		p.failure(*r.Error, 0)
	}
}

// findings tells on standard error what preflight found. Warnings of a move
// were told when they came up.
func (p *textPrinter) findings(r *migrate.Report) {
	for _, b := range r.Blockers {
		p.line("blocked: %s", b.What)
		p.hint(b.Advice)
	}
}

// headline says in one line who has the workload now.
func headline(r *migrate.Report) string {
	src, dst := hostOr(r.SourceHost, "this host"), hostOr(r.TargetHost, "the target")
	switch r.Status {
	case migrate.StatusCompleted:
		s := fmt.Sprintf("%s moved from %s to %s in %s", r.Workload, src, dst, duration(r.TotalTime))
		if r.Downtime > 0 { // else the journal of this host does not know
			s += ", downtime " + duration(r.Downtime)
		}
		return s
	case migrate.StatusBlocked:
		return fmt.Sprintf("%s cannot move to %s: %s in the way; %s", r.Workload, dst, count(len(r.Blockers), "thing"), stays(r))
	case migrate.StatusCancelled:
		return fmt.Sprintf("%s was not moved to %s: cancelled; %s", r.Workload, dst, stays(r))
	case migrate.StatusFailed:
		return fmt.Sprintf("%s was not moved to %s; %s", r.Workload, dst, stays(r))
	case migrate.StatusInDoubt:
		return fmt.Sprintf("%s is in doubt: frozen on %s until %s tells whether it runs there (migration %s)", r.Workload, src, dst, r.ID)
	}
	return fmt.Sprintf("%s is on its way from %s to %s", r.Workload, src, dst)
}

// stays says where the workload is after a move that came to nothing. A report
// without a source host is of one that ended before the workload was found.
func stays(r *migrate.Report) string {
	if r.SourceHost == "" {
		return "nothing was touched"
	}
	return "it runs on " + r.SourceHost + " as before"
}

func hostOr(name, otherwise string) string {
	if name == "" {
		return otherwise
	}
	return name
}

// fact is one line of a report: a word and what there is to say.
type fact struct{ name, text string }

// summary is what anybody wants to know about a move.
func summary(r *migrate.Report) []fact {
	return []fact{
		{"downtime", downtimeText(r)},
		{"memory", fmt.Sprintf("%s, %s on the wire in %s", size(r.MemoryBytes), size(r.Transferred), count(len(r.Rounds), "round"))},
		{"clock", clockText(r.Clock)},
		{"details", "migrate report " + string(r.ID)},
	}
}

func downtimeText(r *migrate.Report) string {
	frozen := fmt.Sprintf("frozen on the source for %s", duration(r.FrozenTime))
	if r.Expected > 0 {
		frozen = fmt.Sprintf("%s predicted, %s", duration(r.Expected), frozen)
	}
	switch {
	case r.Downtime > 0:
		return fmt.Sprintf("%s (%s)", duration(r.Downtime), frozen)
	case r.FrozenTime > 0:
		return frozen
	}
	return "none: it was never frozen"
}

func clockText(c migrate.Clock) string {
	switch {
	case c.Policy == "":
		return "not reached"
	case !c.Namespace:
		return fmt.Sprintf("%s: the target has no time namespaces, the workload sees the host's clocks", c.Policy)
	case c.Policy == migrate.ClockPause:
		return fmt.Sprintf("pause: %s of outage hidden from monotonic clocks", duration(c.Outage))
	}
	return fmt.Sprintf("%s: monotonic clocks advanced by %s, certain to ±%s", c.Policy, duration(c.Outage), time.Duration(c.Bound).Round(time.Microsecond))
}

func (p *textPrinter) facts(list []fact) {
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	for _, f := range list {
		fmt.Fprintf(w, "  %s\t%s\n", f.name, plain(f.text))
	}
	w.Flush()
}

// report tells all about a move.
func (p *textPrinter) report(r *migrate.Report) {
	fmt.Fprintln(p.out, plain(headline(r)))
	facts := []fact{
		{"id", string(r.ID)},
		{"status", fmt.Sprintf("%s, owner %s", r.Status, r.Owner)},
		{"started", r.Started.Format(time.RFC3339)},
		{"took", duration(r.TotalTime)},
	}
	if len(r.Phases) > 0 {
		facts = append(facts, summary(r)[:3]...)
	} else {
		facts = append(facts, fact{"details", "the source host has them"})
	}
	p.facts(append(facts, manner(r)...))
	p.phases(r.Phases)
	p.rounds(r.Rounds)
	p.files(r.Files)
	p.section("warnings", r.Warnings)
	p.section("blockers", r.Blockers)
	if f := r.Error; f != nil {
		fmt.Fprintln(p.out, "\nerror")
		p.facts(errorFacts(*f))
	}
}

// manner is how memory was moved.
func manner(r *migrate.Report) []fact {
	var facts []fact
	add := func(is bool, name, format string, args ...any) {
		if is {
			facts = append(facts, fact{name, fmt.Sprintf(format, args...)})
		}
	}
	add(r.Tracker != "", "tracker", "%s", trackerText(r))
	add(r.Restore != "", "restore", "%s", restoreText(r.Restore))
	add(r.Throttle > 0, "slowed", "by up to %d%% of its processor time (--auto-converge)", r.Throttle)
	add(r.Verified > 0, "verified", "%d pages of the target compared with the frozen memory", r.Verified)
	add(r.VerifiedFiles > 0, "verified", "%s of the target compared with those of the frozen workload", count(int(r.VerifiedFiles), "file"))
	add(r.Redials > 0, "link", "lost and taken up again: %s", count(r.Redials, "time"))
	return facts
}

// roles say what a file tree is to its workload.
var roles = map[migrate.TreeRole]string{
	migrate.TreeRoot: "root file system", migrate.TreeLayer: "lower layer", migrate.TreeMount: "mounted in the container", migrate.TreeSync: "--sync",
}

// treeText tells of a file tree what there is to know of it.
func treeText(t migrate.Tree) string {
	s := fmt.Sprintf("%s (%s)", t.Path, roles[t.Role])
	if t.Decision == migrate.TreeShip {
		s += fmt.Sprintf(": %s, %s", count(int(t.Entries), "name"), size(uint64(t.Bytes)))
	}
	if n := len(t.Passes); n > 0 {
		last := t.Passes[n-1]
		s += fmt.Sprintf("; %s, the last of %s with %s", counted(n, "pass", "passes"), duration(last.Duration), count(last.Changes, "change"))
	}
	return s
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// files lists the file trees of a move.
func (p *textPrinter) files(list []migrate.Tree) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(p.out, "\nfiles")
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	for _, t := range list {
		fmt.Fprintf(w, "  %s\t%s\n", t.Decision, plain(treeText(t)))
	}
	w.Flush()
}

func restoreText(m migrate.RestoreMode) string {
	if m == migrate.RestoreLazy {
		return "lazy: it ran before its memory was all in place"
	}
	return string(m)
}

func trackerText(r *migrate.Report) string {
	if r.TrackerWhy == "" {
		return string(r.Tracker)
	}
	return fmt.Sprintf("%s (%s)", r.Tracker, r.TrackerWhy)
}

func errorFacts(f migrate.Failure) []fact {
	facts := []fact{{"what", f.What}}
	if f.Cause != "" {
		facts = append(facts, fact{"cause", f.Cause})
	}
	if f.Advice != "" {
		facts = append(facts, fact{"hint", f.Advice})
	}
	return facts
}

func (p *textPrinter) section(title string, list []migrate.Finding) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(p.out, "\n%s\n", title)
	for _, f := range list {
		fmt.Fprintf(p.out, "  %s\n", plain(f.String()))
	}
}

// phases draws when each phase was, on a common scale.
func (p *textPrinter) phases(list []migrate.PhaseTiming) {
	if len(list) == 0 {
		return
	}
	var whole migrate.Millis
	for _, t := range list {
		whole = max(whole, t.Start+t.Duration)
	}
	fmt.Fprintln(p.out)
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "  PHASE\tSTART\tDURATION\t")
	for _, t := range list {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", plain(t.Name), duration(t.Start), duration(t.Duration), bar(t, whole))
	}
	w.Flush()
}

// barWidth is the length of the whole move in phases.
const barWidth = 40

func bar(t migrate.PhaseTiming, whole migrate.Millis) string {
	if whole <= 0 {
		return ""
	}
	at := func(m migrate.Millis) int { return int(barWidth * m / whole) }
	from := min(at(t.Start), barWidth-1)
	return strings.Repeat(" ", from) + strings.Repeat("=", max(1, at(t.Start+t.Duration)-from))
}

func (p *textPrinter) rounds(list []migrate.Round) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(p.out)
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "  %s\n", strings.ToUpper(strings.Join(roundHead, "\t")))
	for _, r := range list {
		fmt.Fprintf(w, "  %s\n", strings.Join(roundCells(r), "\t"))
	}
	w.Flush()
}

// roundHead names what roundCells returns.
var roundHead = []string{
	"Round", "Pages", "Sent", "Delta", "Duplicate", "Zero", "Unchanged", "Wire", "Duration", "Mbit/s", "Dirty rate", "Expected", "Slowed",
}

// roundCells are a round's figures, as the tables of a report show them.
func roundCells(r migrate.Round) []string {
	name := strconv.Itoa(r.Round)
	if r.Final {
		name += " final"
	}
	expected, slowed := "-", "-"
	if r.Expected > 0 {
		expected = "~" + duration(r.Expected)
	}
	if r.Throttle > 0 {
		slowed = fmt.Sprintf("%d%%", r.Throttle)
	}
	cells := []string{name}
	for _, n := range []uint64{r.Pages, r.Sent, r.Delta, r.Duplicate, r.Zero, r.Unchanged} {
		cells = append(cells, strconv.FormatUint(n, 10))
	}
	return append(cells, size(r.Transferred), duration(r.Duration), fmt.Sprintf("%.1f", r.Mbps), size(r.DirtyRate)+"/s", expected, slowed)
}
