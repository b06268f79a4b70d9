package main

import (
	"slices"

	"migrate"
)

// timeline is a drawing of when each phase was, a row for each. Positions are
// in units of the SVG's view box.
type timeline struct {
	Title, Note   string
	Key           bool // explain the colours
	Width, Height float64
	Ticks         []mark
	Bars          []phaseBar
	Band          *band
}

// mark is a place on an axis with what it stands for.
type mark struct {
	At, Base, Foot float64
	Text           string
}

// phaseBar is the row of one phase.
type phaseBar struct {
	Name, Class, Text, Start string
	NameX, TextX, TextY      float64
	X, Y, Width, Height      float64
}

// band is the downtime, behind the bars.
type band struct {
	X, Width, Height, TextX, TextY float64
	Text                           string
}

// The geometry of a timeline: names on the left, durations behind the bars.
const (
	lineWidth  = 880.0
	lineLeft   = 110.0
	lineRight  = 790.0
	lineRow    = 26.0
	lineBar    = 16.0
	lineFooter = 22.0
)

// frozenPhases are those in which the workload stands still.
var frozenPhases = []string{
	migrate.Freeze.String(), migrate.StopAndCopy.String(), migrate.Restore.String(), migrate.Held.String(), migrate.Commit.String(),
}

func standsStill(t migrate.PhaseTiming) bool { return slices.Contains(frozenPhases, t.Name) }

// timelines draws the whole move, and the time in which the workload stood
// still once more, larger.
func timelines(r *migrate.Report) []timeline {
	if len(r.Phases) == 0 {
		return nil
	}
	list := []timeline{draw(r.Phases, 0)}
	list[0].Title, list[0].Note, list[0].Key = "Timeline", "since the start of the move", true
	first := slices.IndexFunc(r.Phases, standsStill)
	if first < 0 {
		return list
	}
	frozen := slices.DeleteFunc(slices.Clone(r.Phases), func(t migrate.PhaseTiming) bool { return !standsStill(t) })
	zoomed := draw(frozen, r.Downtime)
	zoomed.Title, zoomed.Note = "While it stood still", "since the freeze began, "+duration(frozen[0].Start)+" after the start"
	return append(list, zoomed)
}

// draw makes a row for each phase, on a scale that begins with the first one.
// downtime, if not 0, is drawn behind them from there.
func draw(phases []migrate.PhaseTiming, downtime migrate.Millis) timeline {
	begin, end := phases[0].Start, phases[0].Start+max(1, downtime)
	for _, t := range phases {
		begin, end = min(begin, t.Start), max(end, t.Start+t.Duration)
	}
	a := axis{low: 0, high: float64(end - begin), from: lineLeft, to: lineRight}
	rows := lineRow * float64(len(phases))
	line := timeline{Width: lineWidth, Height: rows + lineFooter}
	if downtime > 0 {
		line.Height += lineRow
		x := a.at(float64(phases[0].Start - begin))
		line.Band = &band{
			X: x, Width: a.at(float64(phases[0].Start-begin+downtime)) - x, Height: rows + lineRow,
			TextX: x + 6, TextY: rows + lineRow - 9, Text: "downtime " + duration(downtime),
		}
	}
	for i, t := range phases {
		line.Bars = append(line.Bars, barOf(t, begin, a, lineRow*float64(i)))
	}
	for _, v := range a.ticks(6) {
		line.Ticks = append(line.Ticks, mark{At: a.at(v), Base: line.Height - lineFooter, Foot: line.Height - 6, Text: duration(migrate.Millis(v))})
	}
	return line
}

func barOf(t migrate.PhaseTiming, begin migrate.Millis, a axis, y float64) phaseBar {
	const thinnest = 2
	x := a.at(float64(t.Start - begin))
	b := phaseBar{
		Name: t.Name, Class: "runs", Text: duration(t.Duration), Start: duration(t.Start),
		NameX: lineLeft - 8, TextY: y + lineRow - 9,
		X: x, Y: y + (lineRow-lineBar)/2, Width: max(thinnest, a.at(float64(t.Start-begin+t.Duration))-x), Height: lineBar,
	}
	if standsStill(t) {
		b.Class = "stands"
	}
	b.TextX = b.X + b.Width + 6
	return b
}
