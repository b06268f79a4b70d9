package drain

import (
	"time"

	"migrate"
)

// Watcher is told how a drain goes on. Its methods are called one at a time and
// must not block.
type Watcher interface {
	// Planned tells the plan, which is not changed while it looks.
	Planned(r *Record)
	// Step tells what begins or ends with one workload.
	Step(s Step)
	// Move passes on an event of the migration of a workload.
	Move(ref string, e migrate.Event)
	// Progress tells where the drain stands, about twice a second.
	Progress(p Progress)
	// Warn tells of something that does not end the drain.
	Warn(f migrate.Finding)
}

// Step is what begins or ends with one workload of a drain.
type Step struct {
	Type      string           `json:"type"` // always "step"
	Drain     migrate.ID       `json:"drain"`
	Workload  string           `json:"workload"`
	Step      string           `json:"step"` // "begin", "retry", or the state it has come to
	Source    string           `json:"source"`
	Target    string           `json:"target"`
	Migration migrate.ID       `json:"migration,omitempty"`
	Running   int              `json:"running"` // migrations under way, after this
	TotalTime migrate.Millis   `json:"total-time-ms"`
	Downtime  migrate.Millis   `json:"downtime-ms"`
	Failure   *migrate.Failure `json:"failure,omitempty"`
}

// Progress is where a drain stands.
type Progress struct {
	Type      string         `json:"type"` // always "drain-progress"
	Drain     migrate.ID     `json:"drain"`
	Workloads int            `json:"workloads"`
	Over      int            `json:"over"` // of them, whatever their end
	Running   int            `json:"running"`
	Done      uint64         `json:"done-bytes"`  // of memory
	Total     uint64         `json:"total-bytes"` // of memory
	Mbps      float64        `json:"mbps"`        // of all that run
	Elapsed   migrate.Millis `json:"elapsed-ms"`
	ETA       migrate.Millis `json:"eta-ms"` // of the drain; 0 when not known
}

// flight is a migration under way.
type flight struct {
	ref      string
	id       migrate.ID
	target   string
	memory   uint64
	cap      int64 // bytes per second
	progress migrate.Progress
}

// done returns about how much of the workload's memory is on the target.
func (f *flight) done() uint64 {
	switch {
	case f.progress.Round > 1:
		return f.memory
	case f.progress.Total == 0:
		return 0
	}
	return uint64(float64(f.memory) * f.progress.Percent() / 100)
}

// progressOf sums up where a drain stands.
func progressOf(r *Record, flights map[string]*flight, since time.Time) Progress {
	p := Progress{Type: "drain-progress", Drain: r.ID, Workloads: len(r.Items), Running: len(flights), Elapsed: migrate.Millis(time.Since(since))}
	for i := range r.Items {
		it := &r.Items[i]
		p.Total += it.Memory
		if it.over() {
			p.Over++
			p.Done += it.Memory
		}
	}
	for _, f := range flights {
		p.Done += f.done()
		p.Mbps += f.progress.Mbps
	}
	if p.Done > 0 && p.Done < p.Total {
		p.ETA = migrate.Millis(float64(p.Elapsed) * float64(p.Total-p.Done) / float64(p.Done))
	}
	return p
}
