package predump

import (
	"context"

	"migrate"
)

// A Tracker copies memory in rounds and knows, when the workload is frozen,
// which pages need not be copied again. One goroutine at a time may use it; Close
// waits for what is under way.
type Tracker interface {
	Name() migrate.Tracker
	// Round gives sink what changed since the round before, and in the first
	// everything, while the workload runs. Tasks that end or execute another
	// program meanwhile, and memory that goes, are no error. After an error what
	// sink did not get is given to it in the next round.
	Round(ctx context.Context, tasks func() []Task, sink Sink) (Stats, error)
	// Freeze is called once, after the last Round, when every task of the tree is
	// frozen. What the answer calls clean stays so as long as they are.
	Freeze(ctx context.Context, tasks []Task) (Frozen, error)
	// Close leaves no trace of the tracker in the workload. It may be called at
	// any time, also after an error, and more than once.
	Close() error
}

// Frozen tells which pages of a frozen workload the target has as they are. It is
// safe for concurrent use.
type Frozen interface {
	// Clean cuts a range of pages in front: its first n, at least one, are all
	// unchanged since they were last given to the sink, and known to the Table,
	// or may all have changed.
	Clean(im Image, addr, pages uint64) (n uint64, clean bool)
}

// NewHash returns the tracker that makes a whole [Pass] each round. It can vouch
// for no page: all have to be read when frozen, and compared with the Table.
func NewHash(t *Table) Tracker { return hashTracker{t} }

type hashTracker struct{ table *Table }

func (h hashTracker) Name() migrate.Tracker { return migrate.TrackerHash }

// Round needs no list of what was forgotten: it compares everything.
func (h hashTracker) Round(ctx context.Context, tasks func() []Task, sink Sink) (Stats, error) {
	h.table.dropForgotten()
	return Pass(ctx, tasks, h.table, sink)
}

func (h hashTracker) Freeze(context.Context, []Task) (Frozen, error) { return allDirty{}, nil }

func (h hashTracker) Close() error { return nil }

type allDirty struct{}

func (allDirty) Clean(_ Image, _, pages uint64) (uint64, bool) { return pages, false }
