//go:build lyingtracker

package source

import (
	"context"

	"migrate/predump"
)

// A program built with the tag lyingtracker has trackers that lose pages that
// changed, for the test that --verify notices. It loses the first page of each
// run: one alone would often be written to, and sent, again.
func init() { wrapTracker = func(t predump.Tracker) predump.Tracker { return &liar{Tracker: t} } }

type liar struct {
	predump.Tracker
	rounds int
}

// Round implements [predump.Tracker].
func (l *liar) Round(ctx context.Context, tasks func() []predump.Task, sink predump.Sink) (predump.Stats, error) {
	l.rounds++
	if l.rounds > 1 {
		sink = forgetful{sink}
	}
	return l.Tracker.Round(ctx, tasks, sink)
}

type forgetful struct{ predump.Sink }

// Data implements [predump.Sink].
func (f forgetful) Data(ctx context.Context, im predump.Image, address uint64, data []byte) error {
	if len(data) == pageSize {
		return nil
	}
	return f.Sink.Data(ctx, im, address+pageSize, data[pageSize:])
}
