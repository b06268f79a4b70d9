package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"migrate"
	"migrate/drain"
)

// drainPrinter tells how a drain goes on: to people on standard error, with the
// result on standard output, or all of it as JSON.
type drainPrinter struct {
	app  *app
	text *textPrinter
	json *jsonPrinter // nil for people

	running []string // workloads under way, in the order they began
	moves   map[string]string
	said    migrate.Millis
}

func (a *app) drainPrinter() *drainPrinter {
	p := &drainPrinter{app: a, text: a.textPrinter(), moves: map[string]string{}}
	if a.json {
		p.json = &jsonPrinter{out: a.stdout, text: p.text}
	}
	return p
}

var _ drain.Watcher = (*drainPrinter)(nil)

// drainLine is a drain as JSON.
type drainLine struct {
	Type string `json:"type"` // "plan", or "drain" for its end
	*drain.Record
}

// Planned tells the plan before it is carried out.
func (p *drainPrinter) Planned(r *drain.Record) {
	if p.json != nil {
		p.json.write(drainLine{"plan", r})
		return
	}
	if !p.text.quiet {
		p.text.line("%s %s of %s: %s to move, at most %d at a time", r.Kind, r.ID, r.Host, count(toMove(r), "workload"), r.Options.MaxParallel)
	}
}

func toMove(r *drain.Record) (n int) {
	for _, it := range r.Items {
		if it.State == drain.StatePending {
			n++
		}
	}
	return n
}

// plan prints what a dry run found.
func (p *drainPrinter) plan(r *drain.Record) {
	if p.json != nil {
		p.json.write(drainLine{"plan", r})
		return
	}
	rows := []row{}
	for i := range r.Items {
		rows = append(rows, planRow{&r.Items[i]})
	}
	p.text.list([]string{"WORKLOAD", "MEMORY", "FROM", "TO", "WHY"}, rows)
	for i := range r.Items {
		for _, x := range r.Items[i].Rejected {
			p.text.line("%s cannot go to %s: %s", r.Items[i].Ref, x.Target, x.What)
		}
	}
	if len(r.Others) > 0 {
		p.text.line("not selected: %s", strings.Join(r.Others, ", "))
	}
	if n := r.Blocked(); n > 0 {
		p.text.line("the drain would not begin: %s cannot be moved live", count(n, "workload"))
		p.text.hint("say what to do with it by --action skip, --action stop, or --action WORKLOAD=skip")
	}
}

// planRow is a workload of a plan.
type planRow struct{ it *drain.Item }

func (r planRow) cells() []string {
	to := r.it.Target
	switch r.it.State {
	case drain.StateStopping:
		to = "(stopped)"
	case drain.StateSkipped:
		to = "(stays)"
	case drain.StateBlocked:
		to = "(blocked)"
	case drain.StateEnded:
		to = "(ended)"
	}
	return []string{r.it.Ref, size(r.it.Memory), r.it.Source, to, r.it.Why}
}

// Step tells what begins or ends with one workload.
func (p *drainPrinter) Step(s drain.Step) {
	if s.Step == "begin" {
		p.running = append(p.running, s.Workload)
	} else {
		p.running = slices.DeleteFunc(p.running, func(w string) bool { return w == s.Workload })
		delete(p.moves, s.Workload)
	}
	if p.json != nil {
		p.json.write(s)
		return
	}
	if !p.text.quiet {
		p.text.line("%s", stepText(s))
	}
}

func stepText(s drain.Step) string {
	switch s.Step {
	case "begin":
		return fmt.Sprintf("%s: moving from %s to %s (migration %s)", s.Workload, s.Source, s.Target, s.Migration)
	case string(drain.StateMoved):
		if s.TotalTime == 0 { // found out later
			return fmt.Sprintf("%s: runs on %s", s.Workload, s.Target)
		}
		return fmt.Sprintf("%s: moved to %s in %s, downtime %s", s.Workload, s.Target, duration(s.TotalTime), duration(s.Downtime))
	case "retry":
		return fmt.Sprintf("%s: %s; it runs on %s and is tried again with %s", s.Workload, whatFailed(s.Failure), s.Source, s.Target)
	case string(drain.StateStopping):
		return fmt.Sprintf("%s: being stopped", s.Workload)
	case string(drain.StateEnded):
		return fmt.Sprintf("%s: ended by itself", s.Workload)
	}
	if s.Failure == nil {
		return fmt.Sprintf("%s: %s", s.Workload, s.Step)
	}
	return fmt.Sprintf("%s: %s: %s", s.Workload, s.Step, whatFailed(s.Failure))
}

func whatFailed(f *migrate.Failure) string {
	if f == nil {
		return "the move came to nothing"
	}
	if f.Cause == "" || f.Cause == f.What {
		return f.What
	}
	return f.What + ": " + f.Cause
}

// Move notes where a workload under way stands.
func (p *drainPrinter) Move(ref string, e migrate.Event) {
	switch {
	case p.json != nil:
		p.json.write(e)
	case e.Progress != nil && e.Progress.Total > 0:
		p.moves[ref] = progressLine(*e.Progress)
	case e.Phase != nil:
		p.moves[ref] = e.Phase.String()
	case e.Warning != nil && !p.text.quiet:
		p.text.line("%s: warning: %s", ref, e.Warning.What)
	}
}

// Progress draws all that is under way, on a terminal; in a pipe it is a line
// now and then.
func (p *drainPrinter) Progress(g drain.Progress) {
	switch {
	case p.json != nil:
		p.json.write(g)
	case p.text.quiet:
	case p.text.width > 0:
		var lines []string
		for _, w := range p.running {
			lines = append(lines, fmt.Sprintf("  %s  %s", w, p.moves[w]))
		}
		p.text.block(append(lines, "  "+totalLine(g)))
	case g.Elapsed-p.said >= pipeEvery:
		p.said = g.Elapsed
		p.text.line("%s", totalLine(g))
	}
}

// totalLine says where the drain stands.
func totalLine(g drain.Progress) string {
	parts := []string{fmt.Sprintf("%d of %d over, %d under way", g.Over, g.Workloads, g.Running), fmt.Sprintf("%s of %s", size(g.Done), size(g.Total))}
	if g.Mbps > 0 {
		parts = append(parts, fmt.Sprintf("%.0f Mbit/s", g.Mbps))
	}
	parts = append(parts, "for "+time.Duration(g.Elapsed).Round(time.Second).String())
	if g.ETA > 0 {
		parts = append(parts, "ETA "+time.Duration(g.ETA).Round(time.Second).String())
	}
	return strings.Join(parts, "  ")
}

// Warn tells of something that does not end the drain.
func (p *drainPrinter) Warn(f migrate.Finding) {
	if p.json != nil {
		p.json.write(migrate.Event{Type: "warning", Warning: &f})
		return
	}
	p.text.line("warning: %s", f.What)
	p.text.hint(f.Advice)
}

// interrupted answers the n-th signal.
func (p *drainPrinter) interrupted(n int) {
	if n == 1 {
		p.text.note("cancelling; what is on its way is rolled back, unless it is past its commit point")
		return
	}
	p.text.note("already rolling back")
}

// result tells how a drain has ended.
func (p *drainPrinter) result(r *drain.Record) {
	if p.json != nil {
		p.json.write(drainLine{"drain", r})
	} else {
		p.text.clear()
		fmt.Fprintln(p.app.stdout, plain(drainHeadline(r)))
	}
	for _, it := range r.Items {
		if it.Failure != nil && it.State != drain.StateMoved && it.State != drain.StateReturned && it.State != drain.StateStopped && it.State != drain.StateEnded {
			p.text.line("%s %s: %s", it.Ref, stateText(it), whatFailed(it.Failure))
			p.text.hint(it.Failure.Advice)
		}
	}
	if r.Error != nil {
		p.text.failure(*r.Error, 0)
	}
	if r.Status == drain.Failed || r.Status == drain.Cancelled || r.Status == drain.InDoubt {
		p.text.hint(fmt.Sprintf("go on with \"migrate %s --resume %s\"", r.Kind, r.ID))
	}
}

func stateText(it drain.Item) string {
	switch it.State {
	case drain.StateInDoubt:
		return "is in doubt"
	case drain.StateSkipped:
		return "stays on " + it.Source + " as was asked for"
	}
	return "runs on " + it.Source + " still"
}

// drainHeadline says in one line how a drain has ended.
func drainHeadline(r *drain.Record) string {
	took := duration(migrate.Millis(r.Ended.Sub(r.Started)))
	moved := fmt.Sprintf("%s moved", count(r.Moved(), "workload"))
	verb := map[string]string{drain.KindDrain: "drained", drain.KindUndrain: "undrained"}[r.Kind]
	switch r.Status {
	case drain.Planning, drain.Running:
		return fmt.Sprintf("%s is being %s, or was interrupted: %s, %d not (%s)", r.Host, verb, moved, r.Left(), r.ID)
	case drain.Completed:
		return fmt.Sprintf("%s %s: %s in %s (%s)", r.Host, verb, moved, took, r.ID)
	case drain.Blocked:
		return fmt.Sprintf("%s not %s: %s cannot be moved live; nothing was touched", r.Host, verb, count(r.Blocked(), "workload"))
	case drain.Cancelled:
		return fmt.Sprintf("%s not %s: cancelled; %s, %d not (%s)", r.Host, verb, moved, r.Left(), r.ID)
	case drain.InDoubt:
		return fmt.Sprintf("%s not %s: in doubt; %s, %d not (%s)", r.Host, verb, moved, r.Left(), r.ID)
	}
	return fmt.Sprintf("%s not %s: %s, %d not (%s)", r.Host, verb, moved, r.Left(), r.ID)
}
