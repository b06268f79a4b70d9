package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"migrate"
)

// chart is one figure by round. Positions are in units of the SVG's view box.
type chart struct {
	Title, Unit   string
	Width, Height float64
	X             []mark
	Y             []rule
	Rules         []rule
	Path          string
	Dots          []dot
}

// rule is a line across a chart.
type rule struct {
	Class, Text                string
	From, To, At, TextX, TextY float64
}

// dot is the figure of one round.
type dot struct {
	X, Y float64
	Text string
}

// The geometry of a chart.
const (
	chartWidth  = 290.0
	chartHeight = 170.0
	chartLeft   = 48.0
	chartRight  = 278.0
	chartTop    = 14.0
	chartBottom = 144.0
)

// point is a figure of a round.
type point struct {
	round int // index
	value float64
	text  string
}

// charts draws dirty rate, throughput and predicted downtime, each on its own
// scale; one of which nothing is known is left out.
func charts(r *migrate.Report, limit time.Duration) []chart {
	var dirty, wire, expected []point
	for i, round := range r.Rounds {
		if i > 0 {
			dirty = append(dirty, point{i, float64(round.DirtyRate) / (1 << 20), size(round.DirtyRate) + "/s"})
		}
		wire = append(wire, point{i, round.Mbps, fmt.Sprintf("%.1f Mbit/s", round.Mbps)})
		if round.Expected > 0 {
			expected = append(expected, point{i, millis(round.Expected), duration(round.Expected)})
		}
	}
	var rules []rule
	if limit > 0 {
		rules = append(rules, rule{Class: "dashed", At: millis(migrate.Millis(limit)), Text: "limit " + duration(migrate.Millis(limit))})
	}
	if r.Downtime > 0 {
		rules = append(rules, rule{Class: "rule", At: millis(r.Downtime), Text: "was " + duration(r.Downtime)})
	}
	var list []chart
	for _, c := range []struct {
		title, unit string
		points      []point
		rules       []rule
	}{{"Dirty rate", "MiB/s", dirty, nil}, {"Throughput", "Mbit/s", wire, nil}, {"Predicted downtime", "ms", expected, rules}} {
		if len(c.points) > 0 {
			list = append(list, plot(c.title, c.unit, c.points, c.rules, r.Rounds))
		}
	}
	return list
}

func millis(m migrate.Millis) float64 { return float64(m) / float64(time.Millisecond) }

// plot draws points, and rules whose At is a value, over all rounds.
func plot(title, unit string, points []point, rules []rule, rounds []migrate.Round) chart {
	var values []float64
	for _, p := range points {
		values = append(values, p.value)
	}
	for _, r := range rules {
		values = append(values, r.At)
	}
	y := axisOf(values, chartBottom, chartTop)
	c := chart{Title: title, Unit: unit, Width: chartWidth, Height: chartHeight}
	if y.log {
		c.Unit += ", logarithmic"
	}
	for _, v := range y.ticks(4) {
		c.Y = append(c.Y, rule{From: chartLeft, To: chartRight, At: y.at(v), TextX: chartLeft - 6, TextY: y.at(v) + 4, Text: number(v)})
	}
	for _, r := range rules {
		text := -4.0 // above; that of the lowest one below it, where the curve is not
		if len(rules) > 1 && r.At == slices.Min(values[len(points):]) {
			text = 14
		}
		r.From, r.To, r.At = chartLeft, chartRight, y.at(r.At)
		r.TextX, r.TextY = chartLeft+4, r.At+text
		c.Rules = append(c.Rules, r)
	}
	x := func(i int) float64 {
		return chartLeft + (chartRight-chartLeft)*(float64(i)+0.5)/float64(len(rounds))
	}
	c.X = roundMarks(rounds, x)
	for _, p := range points {
		c.Dots = append(c.Dots, dot{X: x(p.round), Y: y.at(p.value), Text: fmt.Sprintf("round %d: %s", rounds[p.round].Round, p.text)})
	}
	c.Path = path(c.Dots)
	return c
}

// roundMarks numbers the rounds, no more of them than fit.
func roundMarks(rounds []migrate.Round, x func(int) float64) (list []mark) {
	const most = 10
	each := (len(rounds) + most - 1) / most
	for i := 0; i < len(rounds); i += each {
		list = append(list, mark{At: x(i), Foot: chartBottom + 18, Text: strconv.Itoa(rounds[i].Round)})
	}
	return list
}

// path joins dots with a line; one alone needs none.
func path(dots []dot) string {
	if len(dots) < 2 {
		return ""
	}
	var b strings.Builder
	for i, d := range dots {
		fmt.Fprintf(&b, "%c%.1f %.1f", "ML"[min(i, 1)], d.X, d.Y)
	}
	return b.String()
}

// number writes a tick's value, of which the digits that matter are few.
func number(v float64) string {
	v, _ = strconv.ParseFloat(strconv.FormatFloat(v, 'g', 4, 64), 64) // its own text
	return strconv.FormatFloat(v, 'f', -1, 64)
}

// axis maps values from low to high onto positions.
type axis struct {
	low, high float64
	from, to  float64
	log       bool
}

// axisOf begins at 0, unless the values are so far apart that the small ones
// could not be told from it.
func axisOf(values []float64, from, to float64) axis {
	const far = 50
	most, least := 0.0, math.Inf(1)
	for _, v := range values {
		most = max(most, v)
		if v > 0 {
			least = min(least, v)
		}
	}
	if most > far*least {
		return axis{math.Pow(10, math.Floor(math.Log10(least))), math.Pow(10, math.Ceil(math.Log10(most))), from, to, true}
	}
	if most <= 0 {
		most = 1
	}
	s := step(most, 4)
	return axis{0, math.Ceil(most/s-1e-9) * s, from, to, false}
}

// at returns the position of v.
func (a axis) at(v float64) float64 {
	part := (v - a.low) / (a.high - a.low)
	if a.log {
		part = math.Log(max(v, a.low)/a.low) / math.Log(a.high/a.low)
	}
	return math.Round(10*(a.from+part*(a.to-a.from))) / 10
}

// ticks returns about n round values on the scale.
func (a axis) ticks(n int) (list []float64) {
	if a.log {
		for v := a.low; v <= a.high*1.001; v *= 10 {
			list = append(list, v)
		}
		return list
	}
	d := step(a.high-a.low, n)
	for i := 0.0; a.low+i*d <= a.high*1.000001; i++ {
		list = append(list, a.low+i*d)
	}
	return list
}

// step returns 1, 2 or 5 times a power of ten, which fits into span at most n times.
func step(span float64, n int) float64 {
	power := math.Pow(10, math.Floor(math.Log10(span/float64(n))))
	for _, f := range []float64{1, 2, 5} {
		if power*f*float64(n) >= span*0.999999 {
			return power * f
		}
	}
	return power * 10
}
