package vm

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"migrate"
)

// Row is what came of one scenario between two kernels; an array of them is
// build/vm-report.json.
type Row struct {
	Scenario  string  `json:"scenario"`
	Kernels   string  `json:"kernels"` // of A and B, such as "6.12 to 7.2"
	Verdict   string  `json:"verdict"` // "pass" or "fail"
	Seconds   float64 `json:"seconds"`
	Processor float64 `json:"processor-seconds"` // used by the machines, emulated: what Seconds would be if nobody else used this one, at most
	Moves     []Move  `json:"moves"`
}

// Move is what a report says of one move.
type Move struct {
	From        string          `json:"from"`
	To          string          `json:"to"`
	Status      migrate.Status  `json:"status"`
	Tracker     migrate.Tracker `json:"tracker"`
	Downtime    migrate.Millis  `json:"downtime-ms"`
	Frozen      migrate.Millis  `json:"frozen-time-ms"`
	Rounds      int             `json:"rounds"`
	Transferred uint64          `json:"transferred-bytes"`
	DirtyPages  []uint64        `json:"dirty-pages"` // of each round: what had to be told of
}

func moveOf(r migrate.Report) Move {
	m := Move{From: r.SourceHost, To: r.TargetHost, Status: r.Status, Tracker: r.Tracker,
		Downtime: r.Downtime, Frozen: r.FrozenTime, Rounds: len(r.Rounds), Transferred: r.Transferred}
	for _, round := range r.Rounds {
		m.DirtyPages = append(m.DirtyPages, round.Dirty())
	}
	return m
}

// writeRows writes the report of a run.
func writeRows(path string, rows []Row) error {
	b, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// ReadRows reads the report of a run.
func ReadRows(path string) (rows []Row, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &rows); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return rows, nil
}

// Table shows rows for people, in Markdown: those of one scenario together. Of
// several moves it gives each one's figures.
func Table(rows []Row) string {
	var names []string
	for _, r := range rows {
		if !slices.Contains(names, r.Scenario) {
			names = append(names, r.Scenario)
		}
	}
	rows = slices.Clone(rows)
	slices.SortStableFunc(rows, func(a, b Row) int {
		return cmp.Or(slices.Index(names, a.Scenario)-slices.Index(names, b.Scenario), strings.Compare(a.Kernels, b.Kernels))
	})
	var b strings.Builder
	fmt.Fprintln(&b, "| scenario | kernels | downtime (ms) | rounds | MiB | verdict |\n|---|---|---|---|---|---|")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", r.Scenario, r.Kernels,
			r.each(func(m Move) string { return fmt.Sprint(time.Duration(m.Downtime).Milliseconds()) }),
			r.each(func(m Move) string { return fmt.Sprint(m.Rounds) }),
			r.each(func(m Move) string { return fmt.Sprintf("%.1f", float64(m.Transferred)/(1<<20)) }), r.Verdict)
	}
	return b.String()
}

// each joins what f says of the moves. One that did not end on the target has
// no downtime, and may have no rounds.
func (r Row) each(f func(Move) string) string {
	var words []string
	for _, m := range r.Moves {
		words = append(words, f(m))
	}
	return strings.Join(words, ", ")
}
