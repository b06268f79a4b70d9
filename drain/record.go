package drain

import (
	"slices"
	"time"

	"migrate"
)

// Status is how a drain stands or ended.
type Status string

// The statuses. The first two are not final. All but Completed and Blocked can
// be gone on with.
const (
	Planning  Status = "planning" // nothing is begun
	Running   Status = "running"
	Completed Status = "completed" // nothing that was to leave is on the host
	Blocked   Status = "blocked"   // it did not begin: nothing was touched
	Failed    Status = "failed"    // something still runs on the host
	Cancelled Status = "cancelled" // by somebody, or by --timeout
	InDoubt   Status = "in-doubt"  // it is not known of a workload where it runs
)

// Kinds of a record.
const (
	KindDrain   = "drain"
	KindUndrain = "undrain" // brings back what a drain moved away
)

// State is how a workload of a drain stands.
type State string

// The states.
const (
	StatePending  State = "pending"
	StateMoving   State = "moving"
	StateMoved    State = "moved"
	StateStopping State = "stopping"
	StateStopped  State = "stopped" // as was asked for
	StateSkipped  State = "skipped" // as was asked for
	StateBlocked  State = "blocked" // cannot be moved live; it runs where it was
	StateFailed   State = "failed"  // all tries failed; it runs where it was
	StateEnded    State = "ended"   // by itself, before its turn
	StateInDoubt  State = "in-doubt"
	StateReturned State = "returned" // moved, and brought back since
)

// Record is what is kept of a drain, and its result. Fields are only ever added.
type Record struct {
	ID      migrate.ID       `json:"id"`
	Kind    string           `json:"kind"`
	Of      migrate.ID       `json:"of,omitempty"` // the drain that an undrain takes back
	Host    string           `json:"host"`         // that is emptied, or gets back
	By      string           `json:"by"`           // name of the machine it was asked for on
	Status  Status           `json:"status"`
	Started time.Time        `json:"started"`
	Updated time.Time        `json:"updated"`
	Ended   time.Time        `json:"ended,omitzero"`
	Options Options          `json:"options"`
	Sources []Host           `json:"sources"` // that workloads leave; an address of "" is the machine the command runs on
	Targets []Host           `json:"targets"`
	Others  []string         `json:"not-selected,omitempty"` // KIND:ID of what is on the host and not to leave it
	Items   []Item           `json:"workloads"`
	Error   *migrate.Failure `json:"error,omitempty"` // why it ended before its time
}

// Item is one workload of a drain.
type Item struct {
	Ref      string            `json:"workload"`
	Name     string            `json:"name"`
	Kind     string            `json:"kind"`
	Source   string            `json:"source"` // host
	Start    uint64            `json:"start"`  // see [migrate.Listed]
	Memory   uint64            `json:"memory-bytes"`
	CPU      float64           `json:"cpus"`
	Labels   map[string]string `json:"labels,omitempty"`
	Action   Action            `json:"action"` // if it cannot be moved live
	Target   string            `json:"target,omitempty"`
	Why      string            `json:"why"`
	Rejected []Rejection       `json:"rejected"`
	State    State             `json:"state"`
	Attempts []Attempt         `json:"attempts"`
	Tries    int               `json:"tries"` // since the drain began, or was gone on with
	Failure  *migrate.Failure  `json:"failure,omitempty"`
}

// Attempt is one migration of a workload.
type Attempt struct {
	ID          migrate.ID       `json:"id"`
	Target      string           `json:"target"`
	Status      migrate.Status   `json:"status"`
	Started     time.Time        `json:"started"`
	TotalTime   migrate.Millis   `json:"total-time-ms"`
	Downtime    migrate.Millis   `json:"downtime-ms"`
	Transferred uint64           `json:"transferred-bytes"`
	Failure     *migrate.Failure `json:"failure,omitempty"`
}

// last returns the attempt under way, or the latest; nil if there is none.
func (it *Item) last() *Attempt {
	if len(it.Attempts) == 0 {
		return nil
	}
	return &it.Attempts[len(it.Attempts)-1]
}

// over reports whether nothing more is to be done with the workload.
func (it *Item) over() bool {
	return it.State != StatePending && it.State != StateMoving && it.State != StateStopping
}

// left reports whether the workload still runs on the host, or may.
func (it *Item) left() bool {
	return !slices.Contains([]State{StateMoved, StateStopped, StateEnded, StateReturned}, it.State)
}

// count returns how many workloads are in one of some states.
func (r *Record) count(states ...State) (n int) {
	for i := range r.Items {
		if slices.Contains(states, r.Items[i].State) {
			n++
		}
	}
	return n
}

// Left returns how many workloads still run on the host, or may.
func (r *Record) Left() (n int) {
	for i := range r.Items {
		if r.Items[i].left() {
			n++
		}
	}
	return n
}

// Blocked returns how many workloads cannot be moved live, and nobody said what
// else to do with them.
func (r *Record) Blocked() int { return r.count(StateBlocked) }

// Moved returns how many workloads have moved.
func (r *Record) Moved() int { return r.count(StateMoved, StateReturned) }

// named returns the host of that name.
func named(list []Host, name string) Host {
	for _, h := range list {
		if h.Name == name {
			return h
		}
	}
	return Host{Name: name, Address: name}
}

// outcome is the final status by what became of the workloads.
func (r *Record) outcome(cancelled bool) Status {
	switch {
	case r.count(StateInDoubt, StateMoving) > 0:
		return InDoubt
	case r.Left() == 0:
		return Completed
	case cancelled:
		return Cancelled
	}
	return Failed
}
