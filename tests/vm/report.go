package vm

import (
	"encoding/json"
	"os"
	"path/filepath"

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
