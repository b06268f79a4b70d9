package migrate

import (
	"errors"
	"strings"
	"time"
)

// Status is how a migration stands or ended.
type Status string

// The statuses. Only the last five are final.
const (
	StatusActive    Status = "active"
	StatusCompleted Status = "completed" // runs on the target
	StatusBlocked   Status = "blocked"   // preflight said no; never left the source
	StatusFailed    Status = "failed"    // rolled back; runs on the source
	StatusCancelled Status = "cancelled" // rolled back on request; runs on the source
	StatusInDoubt   Status = "in-doubt"  // commit was sent, no answer came; frozen
)

// Owner says where the workload runs.
type Owner string

// The owners.
const (
	OwnerSource  Owner = "source"
	OwnerTarget  Owner = "target"
	OwnerInDoubt Owner = "in-doubt"
)

// Millis is a duration that is written to JSON as milliseconds, a number with
// at most three decimals.
type Millis time.Duration

// Report is the result of one move. Field names follow QEMU's where it has
// them; docs/json.md is the contract, and golden tests hold it.
type Report struct {
	Type          string        `json:"type"` // always "result"
	ID            ID            `json:"id"`
	Workload      string        `json:"workload"` // KIND:ID as asked for
	SourceHost    string        `json:"source"`
	TargetHost    string        `json:"target"`
	Status        Status        `json:"status"`
	Owner         Owner         `json:"owner"`
	Started       time.Time     `json:"started"`
	TotalTime     Millis        `json:"total-time-ms"`
	Downtime      Millis        `json:"downtime-ms"`    // freeze on the source to resume on the target
	FrozenTime    Millis        `json:"frozen-time-ms"` // freeze to kill, or to thaw, on the source
	Transferred   uint64        `json:"transferred-bytes"`
	MemoryBytes   uint64        `json:"memory-bytes"`
	Tracker       Tracker       `json:"tracker"`
	TrackerWhy    string        `json:"tracker-reason,omitempty"` // why not a better one
	Expected      Millis        `json:"expected-downtime-ms"`     // as predicted just before the freeze
	Restore       RestoreMode   `json:"restore"`                  // what the target did: "eager" or "lazy"; "" if it did not get so far
	Throttle      int           `json:"throttle-percentage"`      // the most that the workload was slowed by
	Verified      uint64        `json:"verified-pages"`           // compared while frozen; 0 without --verify
	Redials       int           `json:"redials"`                  // broken links that were taken up again
	Rounds        []Round       `json:"rounds"`
	Files         []Tree        `json:"files,omitempty"`          // that the workload uses beside those that every host has
	FileBytes     int64         `json:"file-bytes,omitempty"`     // of content of files, sent in all passes
	VerifiedFiles int64         `json:"verified-files,omitempty"` // names in trees that were compared while frozen; 0 without --verify
	Clock         Clock         `json:"clock"`
	Phases        []PhaseTiming `json:"phases"`
	Warnings      []Finding     `json:"warnings"`
	Blockers      []Finding     `json:"blockers"`
	Error         *Failure      `json:"error,omitempty"`
}

// Round is one pass over memory. The last one is the stop-and-copy.
type Round struct {
	Round       int     `json:"round"` // from 1
	Final       bool    `json:"final"`
	Pages       uint64  `json:"pages"`           // looked at
	Sent        uint64  `json:"sent-pages"`      // in full
	Delta       uint64  `json:"delta-pages"`     // as a difference to what was sent before
	Duplicate   uint64  `json:"duplicate-pages"` // as a reference to a page with the same content
	Zero        uint64  `json:"zero-pages"`
	Unchanged   uint64  `json:"unchanged-pages"` // the target had them already
	Transferred uint64  `json:"transferred-bytes"`
	Duration    Millis  `json:"duration-ms"`
	Mbps        float64 `json:"mbps"`                   // wire throughput of the round
	DirtyRate   uint64  `json:"dirty-bytes-per-second"` // pages that changed since the round before, by its length; 0 in the first
	Expected    Millis  `json:"expected-downtime-ms"`   // if the freeze came after this round; 0 in the last
	Throttle    int     `json:"throttle-percentage"`    // by how much the workload was slowed meanwhile
}

// Dirty returns how many pages were found changed and had to be told of.
func (r Round) Dirty() uint64 { return r.Sent + r.Delta + r.Duplicate + r.Zero }

// Clock is what happened to the workload's monotonic clocks.
type Clock struct {
	Policy    ClockPolicy `json:"policy"`
	Outage    Millis      `json:"outage-ms"`           // how long the workload stood still: what continue adds to its clocks and pause hides
	Offset    int64       `json:"monotonic-offset-ns"` // of the workload's time namespace on the target
	Bound     int64       `json:"error-bound-ns"`      // of the host-to-host clock comparison
	Namespace bool        `json:"time-namespace"`      // false: the target has none, the host's clock is used
}

// PhaseTiming is when a phase began, since the start, and how long it took.
type PhaseTiming struct {
	Name     string `json:"name"`
	Start    Millis `json:"start-ms"`
	Duration Millis `json:"duration-ms"`
}

// Failure is an error in three lines: what failed, why, what to do.
type Failure struct {
	What   string `json:"what"`
	Cause  string `json:"cause,omitempty"`
	Advice string `json:"advice,omitempty"`
}

// FailureOf puts an error into three lines: its own, if it or one that it wraps
// has a method that tells them, or else what it says. own tells which.
func FailureOf(err error) (f Failure, own bool) {
	var e interface{ Failure() Failure }
	if errors.As(err, &e) {
		return e.Failure(), true
	}
	return Failure{What: strings.ReplaceAll(err.Error(), "\n", "; ")}, false // joined errors have a line each
}
