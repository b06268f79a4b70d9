package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"migrate"
)

// longReport is a move with many rounds, as the policy makes them.
func longReport() *migrate.Report {
	r := fixedReport()
	r.Rounds = nil
	left := 262144.0
	for n := 1; n <= 17; n++ {
		took := 0.15 + left/29000
		r.Rounds = append(r.Rounds, migrate.Round{
			Round: n, Final: n == 17, Pages: 262144, Sent: uint64(left), Unchanged: 262144 - uint64(left), Transferred: uint64(left) * 4096,
			Duration: migrate.Millis(took * 1e9), Mbps: 940 - 20*math.Abs(float64(n-9)), DirtyRate: uint64(left * 4096 / took),
			Expected: migrate.Millis((0.06 + left/29000) * 1e9),
		})
		left *= 0.7
	}
	r.Rounds[16].Expected = 0
	return r
}

func pageWith(t *testing.T, r *migrate.Report, limit time.Duration) string {
	t.Helper()
	var b bytes.Buffer
	if err := writePage(&b, r, limit); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestPageHoldsEverything looks for what a reader wants to find.
func TestPageHoldsEverything(t *testing.T) {
	text := pageWith(t, fixedReport(), 300*time.Millisecond)
	for _, want := range []string{
		"capsule:web moved from hostA to hostB", "84.3ms", "80ms", "it was 5% longer", "frozen on the source for 61ms", "hash (no soft-dirty)", "lazy",
		"256.0 MiB", "96.0 MiB", "0.38 of the memory", "30%", "65536 pages of the target", "lost and taken up again", "the kernel of hostB is older",
		"Timeline", "While it stood still", "Dirty rate", "Throughput", "Predicted downtime", "limit 300ms", "was 84.3ms",
		"<td>1500</td>", "<td>250</td>", "<td>60750</td>", "3 final", "round 2: 80ms",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q on the page", want)
		}
	}
}

// TestPageStandsAlone: it runs nothing and loads nothing, whatever a peer says.
func TestPageStandsAlone(t *testing.T) {
	r := fixedReport()
	r.Workload, r.TargetHost = `<script src="//evil">`, `"><img src=x>`
	r.Warnings[0].What = "</svg><style>*{display:none}</style>"
	r.Phases[0].Name = `x" onload="y`
	r.Error = &migrate.Failure{What: "<b>", Cause: "javascript:alert(1)"}
	text := pageWith(t, r, 0)
	for _, no := range []string{"<script", "<img", "<link", "@import", "url(", "ZgotmplZ", " onload=\"y"} {
		if strings.Contains(text, no) {
			t.Errorf("%q is on the page", no)
		}
	}
	for _, no := range []string{"src=", "href=", "://"} {
		if strings.Contains(pageWith(t, fixedReport(), 0), no) {
			t.Errorf("%q is on the page", no)
		}
	}
	if strings.Count(text, "<style>") != 1 {
		t.Error("a style came in")
	}
}

// TestPageOfOtherEnds: reports that lack things make pages too.
func TestPageOfOtherEnds(t *testing.T) {
	blocked := migrate.Report{ID: "00000000000000bb", Status: migrate.StatusBlocked, Workload: "process:1", Blockers: []migrate.Finding{{Code: "x", What: "in the way"}}}
	cancelled := *fixedReport()
	cancelled.Status, cancelled.Downtime, cancelled.Rounds = migrate.StatusCancelled, 0, cancelled.Rounds[:1]
	cancelled.Phases = cancelled.Phases[:3]
	cancelled.FrozenTime, cancelled.Expected = 0, 0
	cancelled.Error = &migrate.Failure{What: "the move was cancelled", Advice: "move it again"}
	for name, c := range map[string]struct {
		report    migrate.Report
		want, not string
	}{
		"blocked":   {blocked, "in the way", "<svg"},
		"cancelled": {cancelled, "move it again", "While it stood still"},
		"nothing":   {migrate.Report{}, "it was never frozen", "<svg"},
	} {
		text := pageWith(t, &c.report, 0)
		if !strings.Contains(text, c.want) || strings.Contains(text, c.not) {
			t.Errorf("%s: want %q and no %q in\n%s", name, c.want, c.not, text)
		}
		drawn(t, text)
	}
}

// drawn parses the drawings of a page and checks that everything is inside of
// its view box, and no text on another one of its kind.
func drawn(t *testing.T, text string) (drawings int) {
	t.Helper()
	for rest := text; ; drawings++ {
		_, after, ok := strings.Cut(rest, "<svg")
		if !ok {
			return drawings
		}
		svg, tail, _ := strings.Cut(after, "</svg>")
		rest = tail
		checkDrawing(t, "<svg"+svg+"</svg>")
	}
}

func checkDrawing(t *testing.T, svg string) {
	t.Helper()
	var width, height float64
	d := xml.NewDecoder(strings.NewReader(svg))
	seen := map[string]bool{}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%v in %s", err, svg)
		}
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		at := map[string]float64{}
		for _, a := range e.Attr {
			if a.Name.Local == "viewBox" {
				fmt.Sscanf(a.Value, "0 0 %f %f", &width, &height)
			}
			if v, err := strconv.ParseFloat(a.Value, 64); err == nil {
				at[a.Name.Local] = v
			} else if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
				t.Errorf("%s=%q", a.Name.Local, a.Value)
			}
		}
		right, bottom := at["x"]+at["width"], at["y"]+at["height"]
		for _, v := range []float64{at["x"], at["x1"], at["x2"], at["cx"], right} {
			if v < 0 || v > width {
				t.Errorf("%s at x %v of %v", e.Name.Local, v, width)
			}
		}
		for _, v := range []float64{at["y"], at["y1"], at["y2"], at["cy"], bottom} {
			if v < 0 || v > height {
				t.Errorf("%s at y %v of %v", e.Name.Local, v, height)
			}
		}
		if e.Name.Local == "text" {
			place := fmt.Sprint(at["x"], at["y"])
			if seen[place] {
				t.Errorf("two texts at %s", place)
			}
			seen[place] = true
		}
	}
}

func TestDrawingsOfPages(t *testing.T) {
	still := fixedReport()
	for i := range still.Rounds {
		still.Rounds[i] = migrate.Round{Round: i + 1}
	}
	for name, c := range map[string]struct {
		report *migrate.Report
		want   int
	}{"short": {fixedReport(), 5}, "long": {longReport(), 5}, "no figures": {still, 4}} {
		if n := drawn(t, pageWith(t, c.report, 300*time.Millisecond)); n != c.want {
			t.Errorf("%s: %d drawings, want %d", name, n, c.want)
		}
	}
}

// TestTimelineGeometry: bars are where their phases are.
func TestTimelineGeometry(t *testing.T) {
	r := fixedReport()
	lines := timelines(r)
	if len(lines) != 2 || len(lines[0].Bars) != len(r.Phases) || len(lines[1].Bars) != 4 {
		t.Fatalf("%d timelines", len(lines))
	}
	whole, zoomed := lines[0], lines[1]
	if first := whole.Bars[0]; first.X != lineLeft || first.Class != "runs" {
		t.Errorf("the first bar: %+v", first)
	}
	last := whole.Bars[len(whole.Bars)-1]
	if end := last.X + last.Width; math.Abs(end-lineRight) > 2 {
		t.Errorf("the last bar ends at %v, want %v", end, lineRight)
	}
	for i, b := range zoomed.Bars {
		if b.Class != "stands" || i > 0 && math.Abs(b.X-zoomed.Bars[i-1].X-zoomed.Bars[i-1].Width) > 0.5 {
			t.Errorf("bar %d: %+v", i, b)
		}
	}
	if part := zoomed.Band.Width / (lineRight - lineLeft); math.Abs(part-84.25/84.5) > 0.01 {
		t.Errorf("the downtime takes %.2f of the drawing", part)
	}
}

func TestAxis(t *testing.T) {
	for _, c := range []struct {
		values    []float64
		low, high float64
		log       bool
	}{
		{nil, 0, 1, false}, {[]float64{0}, 0, 1, false}, {[]float64{3, 87}, 0, 100, false}, {[]float64{100}, 0, 100, false},
		{[]float64{80, 300, 9000}, 10, 10000, true}, {[]float64{0, 5, 7}, 0, 8, false}, {[]float64{0.001}, 0, 0.001, false},
	} {
		a := axisOf(c.values, 100, 0)
		if math.Abs(a.low-c.low) > 1e-9 || math.Abs(a.high-c.high) > 1e-9 || a.log != c.log {
			t.Errorf("axisOf(%v) = %+v", c.values, a)
		}
		ticks := a.ticks(4)
		if len(ticks) < 2 || len(ticks) > 6 || a.at(ticks[0]) != 100 || a.at(ticks[len(ticks)-1]) != 0 {
			t.Errorf("ticks of %v: %v", c.values, ticks)
		}
	}
}
