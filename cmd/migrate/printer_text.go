package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"migrate"
)

// textPrinter writes for people: the result to out, the rest to err. On a
// terminal, width is its columns, and progress is one line that is written
// again and again; in a pipe width is 0 and progress is plain lines.
type textPrinter struct {
	out, err io.Writer
	quiet    bool
	width    int

	drawn int            // status lines are on the screen, the cursor is in the last
	said  migrate.Millis // when progress was last told in a pipe
	phase migrate.Phase
}

// pipeEvery is the distance of progress lines in a pipe.
const pipeEvery = migrate.Millis(5 * time.Second)

func (p *textPrinter) event(e migrate.Event) {
	if p.quiet {
		return
	}
	switch {
	case e.Phase != nil:
		p.phase = *e.Phase
		p.step(string(e.ID), *e.Phase)
	case e.Round != nil:
		p.line("%s", roundLine(*e.Round))
	case e.Progress != nil:
		p.progress(*e.Progress)
	case e.Warning != nil:
		p.line("warning: %s", e.Warning.What)
		p.hint(e.Warning.Advice)
	}
}

// step tells that a phase begins.
func (p *textPrinter) step(id string, phase migrate.Phase) {
	switch {
	case phase == migrate.Connect:
		p.line("migration %s", id)
	case p.width > 0:
		p.status(phase.String())
	default:
		p.line("%s", phase)
	}
}

func (p *textPrinter) progress(g migrate.Progress) {
	if p.width > 0 {
		p.status(progressLine(g))
		return
	}
	if g.Elapsed-p.said >= pipeEvery {
		p.said = g.Elapsed
		p.line("%s", progressLine(g))
	}
}

// progressLine says where a move stands, what is not known left out.
func progressLine(g migrate.Progress) string {
	parts := []string{fmt.Sprintf("%s round %d  %.0f%%", g.Phase, g.Round, g.Percent())}
	if g.Files > 0 {
		parts = append(parts, filesText(g))
	}
	if g.Mbps > 0 {
		parts = append(parts, fmt.Sprintf("%.0f Mbit/s", g.Mbps))
	}
	if g.DirtyRate > 0 {
		parts = append(parts, "dirty "+size(g.DirtyRate)+"/s")
	}
	if g.Expected > 0 {
		parts = append(parts, "downtime ~"+duration(g.Expected))
	}
	if g.Throttle > 0 {
		parts = append(parts, fmt.Sprintf("slowed %d%%", g.Throttle))
	}
	if g.ETA > 0 {
		parts = append(parts, "ETA "+duration(g.ETA))
	}
	return strings.Join(parts, "  ")
}

func filesText(g migrate.Progress) string {
	if g.FilesTotal == 0 {
		return "files " + size(g.Files)
	}
	return fmt.Sprintf("files %s of %s", size(g.Files), size(g.FilesTotal))
}

func roundLine(r migrate.Round) string {
	kind := fmt.Sprintf("round %d", r.Round)
	if r.Final {
		kind += " (final)"
	}
	parts := []string{
		fmt.Sprintf("%s: %d of %d pages sent%s", kind, r.Sent, r.Pages, otherPages(r)),
		fmt.Sprintf("%s on the wire in %s", size(r.Transferred), duration(r.Duration)),
	}
	if r.DirtyRate > 0 {
		parts = append(parts, "dirty rate "+size(r.DirtyRate)+"/s")
	}
	if r.Expected > 0 {
		parts = append(parts, "downtime ~"+duration(r.Expected))
	}
	if r.Throttle > 0 {
		parts = append(parts, fmt.Sprintf("slowed %d%%", r.Throttle))
	}
	return strings.Join(parts, ", ")
}

// otherPages counts the pages that changed and did not go in full.
func otherPages(r migrate.Round) string {
	var parts []string
	for _, c := range []struct {
		n    uint64
		word string
	}{{r.Delta, "as a difference"}, {r.Duplicate, "as a duplicate"}, {r.Zero, "zero"}} {
		if c.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", c.n, c.word))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

// status replaces the status line.
func (p *textPrinter) status(s string) {
	p.block([]string{s})
}

// block replaces the status lines.
func (p *textPrinter) block(lines []string) {
	var b strings.Builder
	b.WriteString(p.erase())
	for i, s := range lines {
		if r := []rune(plain(s)); len(r) >= p.width {
			s = string(r[:p.width-1])
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(plain(s))
	}
	fmt.Fprint(p.err, b.String())
	p.drawn = len(lines)
}

// erase returns what clears the status lines and puts the cursor where they
// began.
func (p *textPrinter) erase() string {
	return "\r\x1b[K" + strings.Repeat("\x1b[A\x1b[K", max(0, p.drawn-1))
}

// line writes one line that stays.
func (p *textPrinter) line(format string, args ...any) {
	p.clear()
	fmt.Fprintf(p.err, "migrate: %s\n", plain(fmt.Sprintf(format, args...)))
}

func (p *textPrinter) clear() {
	if p.drawn > 0 {
		fmt.Fprint(p.err, p.erase())
		p.drawn = 0
	}
}

func (p *textPrinter) hint(advice string) {
	if advice != "" {
		p.line("hint: %s", advice)
	}
}

func (p *textPrinter) note(format string, args ...any) { p.line(format, args...) }

func (p *textPrinter) failure(f migrate.Failure, _ int) {
	p.line("%s", f.What)
	if f.Cause != "" && f.Cause != f.What {
		p.line("cause: %s", f.Cause)
	}
	p.hint(f.Advice)
}

func (p *textPrinter) list(head []string, rows []row) {
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(head, "\t"))
	for _, r := range rows {
		cells := r.cells()
		for i := range cells {
			cells[i] = plain(cells[i])
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	w.Flush()
}

// size writes a number of bytes in binary units.
func size(n uint64) string {
	units := []string{"KiB", "MiB", "GiB", "TiB"}
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	v := float64(n)
	unit := ""
	for _, unit = range units {
		v /= 1 << 10
		if v < 1000 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// duration writes m with three digits that matter.
func duration(m migrate.Millis) string {
	d := time.Duration(m)
	switch {
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
