package migrate

import (
	"fmt"
	"slices"
)

// Side is one of the two hosts of a migration.
type Side string

// The sides of a migration.
const (
	Source Side = "source"
	Target Side = "target"
)

// Phase is how far one side of a migration has come. Values are stored on
// disk and sent to the peer, so they are spelled out and never renumbered.
type Phase uint8

// The phases, in order. On the target, Restore is entered before CRIU starts
// and Held when the restored tree waits for the verdict; on the source, Restore
// is the wait for that vote and Commit is the commit point.
const (
	Connect     Phase = 1  // dialled; nothing is known to the peer
	Preflight   Phase = 2  // facts compared
	Prepare     Phase = 3  // resources reserved on the target
	PreCopy     Phase = 4  // memory copied, workload running
	Freeze      Phase = 5  // cgroup being frozen
	StopAndCopy Phase = 6  // frozen; last memory and images copied
	Restore     Phase = 7  // target restores
	Held        Phase = 8  // target only: restored, not running, voted yes
	Commit      Phase = 9  // the source never runs its copy again
	Finish      Phase = 10 // target runs; source removes its copy
	Done        Phase = 11 // the target owns the workload
	RolledBack  Phase = 12 // the source owns the workload; the target holds nothing
)

var phaseNames = map[Phase]string{
	Connect: "connect", Preflight: "preflight", Prepare: "prepare", PreCopy: "pre-copy",
	Freeze: "freeze", StopAndCopy: "stop-and-copy", Restore: "restore", Held: "held",
	Commit: "commit", Finish: "finish", Done: "done", RolledBack: "rolled-back",
}

// String returns the phase's name as it stands in reports.
func (p Phase) String() string {
	if s, ok := phaseNames[p]; ok {
		return s
	}
	return fmt.Sprintf("phase(%d)", uint8(p))
}

// MarshalText writes the phase's name.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a phase's name.
func (p *Phase) UnmarshalText(b []byte) error {
	for k, v := range phaseNames {
		if v == string(b) {
			*p = k
			return nil
		}
	}
	return fmt.Errorf("unknown phase %.40q", b)
}

// Over reports whether nothing is left to do in this phase.
func (p Phase) Over() bool { return p == Done || p == RolledBack }

// next lists every legal step. Anything absent is a bug in the caller.
//
// Prepare and PreCopy go to Restore on a target, which takes no part in the
// freeze. Commit to RolledBack is legal only when the target has journaled that it
// never ran its copy and never will (its store was lost before it could), so
// that running the source again cannot make two.
var next = map[Phase][]Phase{
	Connect:     {Preflight, RolledBack},
	Preflight:   {Prepare, RolledBack},
	Prepare:     {PreCopy, Freeze, Restore, RolledBack},
	PreCopy:     {PreCopy, Freeze, Restore, RolledBack},
	Freeze:      {StopAndCopy, RolledBack},
	StopAndCopy: {Restore, RolledBack},
	Restore:     {Held, Commit, RolledBack},
	Held:        {Commit, RolledBack},
	Commit:      {Finish, RolledBack},
	Finish:      {Done},
}

// CanFollow reports whether a side may come to p from q.
func (p Phase) CanFollow(q Phase) bool { return slices.Contains(next[q], p) }
