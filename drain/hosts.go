package drain

import (
	"context"
	"time"

	"migrate"
)

// Source is a host that workloads are moved away from. Its methods may be
// called concurrently.
type Source interface {
	// State describes the host; blockers wants to know what keeps each workload
	// from moving.
	State(ctx context.Context, blockers bool) (migrate.HostState, error)
	// Check runs the preflight of a move. What is in the way is not an error.
	Check(ctx context.Context, o Order) ([]migrate.Finding, error)
	// Move moves a workload. Without a report the end of the move is not known.
	Move(ctx context.Context, o Order, emit func(migrate.Event)) (*migrate.Report, error)
	// Trace returns what the host has on record about a migration, as its source.
	Trace(ctx context.Context, id migrate.ID) (Trace, error)
	// Cap changes the bandwidth of a migration under way, in bytes per second.
	Cap(ctx context.Context, id migrate.ID, bandwidth int64) error
	// Stop ends a workload: kindly, and by force after timeout.
	Stop(ctx context.Context, ref string, timeout time.Duration) error
	// Cordon has the host refuse workloads and claims it for a drain, until ttl
	// is over; 0 gives up the claim.
	Cordon(ctx context.Context, id migrate.ID, ttl time.Duration, reason string) error
	// Uncordon has the host receive workloads again.
	Uncordon(ctx context.Context, id migrate.ID) error
}

// Target is a host that receives workloads. Its methods may be called
// concurrently.
type Target interface {
	// State describes the host; what is promised to the drain id counts as free.
	State(ctx context.Context, id migrate.ID) (migrate.HostState, error)
	// Trace returns what the host has on record about a migration, as its target.
	Trace(ctx context.Context, id migrate.ID) (Trace, error)
	// Reserve keeps bytes of memory for a drain in place of what it had; 0 gives
	// the room up.
	Reserve(ctx context.Context, id migrate.ID, bytes uint64, ttl time.Duration) error
}

// Order is one move as a source is to do it.
type Order struct {
	ID      migrate.ID
	Drain   migrate.ID
	Ref     string // KIND:ID
	Target  string // HOST or HOST:PORT
	Options migrate.Options
}

// Trace is what one side of a migration has on record.
type Trace struct {
	Known   bool // there is a record
	Busy    bool // a live process works on it, or is about to
	Damaged bool // the record cannot be read
	Phase   migrate.Phase
}

// Fate is what became of a migration.
type Fate int

// The fates.
const (
	Undecided Fate = iota // it goes on, or nobody who can be asked knows
	Stayed                // the workload runs on the source, or never began to move
	Moved                 // the target has it
	Unclear               // a record is damaged: an operator has to look
)

// Judge tells what became of a migration by what the hosts have on record; nil
// is a host that does not answer. The source knows best: past its commit point
// it never runs its copy again, and a migration that it has no record of, and
// is not about to make one, never began.
func Judge(source, target *Trace) Fate {
	arrived := target != nil && target.Known && (target.Phase == migrate.Finish || target.Phase == migrate.Done)
	switch {
	case source == nil && arrived:
		return Moved
	case source == nil:
		return Undecided
	case source.Damaged:
		return Unclear
	case !source.Known && source.Busy:
		return Undecided
	case !source.Known && arrived: // it lost its journal
		return Moved
	case !source.Known:
		return Stayed
	case source.Phase == migrate.Done || source.Phase == migrate.Finish:
		return Moved
	case source.Phase == migrate.RolledBack && !source.Busy:
		return Stayed
	}
	return Undecided
}
