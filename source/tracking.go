package source

import (
	"context"
	"errors"
	"fmt"

	"migrate"
	"migrate/internal/hostinfo"
	"migrate/predump"
	"migrate/source/pages"
)

// startTracker makes what pre-copy needs. Without pre-copy there is only the
// path. A tracker that does not work after all is replaced, and that is said.
func (v *move) startTracker() error {
	v.table = predump.NewTable()
	var err error
	lowest, highest := v.codecs()
	v.path, err = pages.New(pages.Options{Table: v.table, DeltaCache: v.deltaCache(), Lowest: lowest, Highest: highest})
	if err != nil {
		return err
	}
	switch v.report.Tracker {
	case migrate.TrackerSoftDirty:
		v.tracker = predump.NewSoftDirty(v.table, v)
	case migrate.TrackerUffdWP:
		v.tracker, err = predump.NewUffd(v.table, v.pause)
	case migrate.TrackerHash:
		v.tracker = predump.NewHash(v.table)
	}
	if err != nil {
		v.fallBack(err)
	}
	if v.tracker != nil {
		v.tracker = wrapTracker(v.tracker)
	}
	return nil
}

// wrapTracker is another one in a program built to test --verify.
var wrapTracker = func(t predump.Tracker) predump.Tracker { return t }

func (v *move) fallBack(why error) {
	v.tracker = predump.NewHash(v.table)
	v.report.Tracker, v.report.TrackerWhy = migrate.TrackerHash, why.Error()
	w := migrate.Finding{Code: "tracker", What: fmt.Sprintf("using the %s tracker: %v", v.report.Tracker, why)}
	v.report.Warnings = append(v.report.Warnings, w)
	v.events.send(migrate.Event{Type: "warning", Warning: &w})
}

// pause stops every task of the tree, for a look at its memory.
func (v *move) pause(ctx context.Context) (resume func() error, err error) {
	resume = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return v.group.Thaw(ctx)
	}
	if err := v.group.Freeze(ctx); err != nil {
		return nil, errors.Join(err, resume())
	}
	return resume, nil
}

// The default of the delta cache is a share of free memory, and never more
// than pre-copy of the workload could use.
const deltaShare = 8

func (v *move) deltaCache() uint64 {
	switch n := v.opts.DeltaCache; {
	case n < 0 || v.report.Tracker == migrate.TrackerNone:
		return 0
	case n > 0:
		return uint64(n)
	}
	free, err := hostinfo.MemoryAvailable()
	if err != nil {
		v.log.Info("free memory", "cause", err)
		return 0
	}
	return min(free/deltaShare, v.facts.MemoryBytes)
}

// untilHurry returns ctx, which also ends when the time for pre-copy is up.
func (v *move) untilHurry(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(v.hurry, func() { cancel(errHurry) })
	return ctx, func() { stop(); cancel(nil) }
}
