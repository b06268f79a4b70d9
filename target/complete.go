package target

import (
	"context"
	"errors"

	"migrate"
	"migrate/journal"
	"migrate/supervisor"
)

// complete waits until a workload that runs has all its memory, and drops the
// store behind it. If the agent stops first, the next one goes on here.
func (r *receiver) complete(ctx context.Context) {
	lost := r.awaitFill(ctx)
	if ctx.Err() != nil {
		return
	}
	if err := r.cleanUp(lost); err != nil {
		r.log.Error("cleaning up behind a workload that runs", "migration", r.id, "cause", err)
	}
}

// awaitFill returns why the workload will never have all its memory; nil if it
// has, or ended by itself.
func (r *receiver) awaitFill(ctx context.Context) *migrate.Failure {
	if r.super == nil {
		return nil
	}
	err := r.super.AwaitFill(ctx)
	var never *supervisor.Error
	if ctx.Err() != nil || !errors.As(err, &never) {
		return nil
	}
	st, err := r.super.State(ctx)
	if err == nil && st.Fill != nil && st.Fill.Failure == nil {
		return nil
	}
	f := never.Failure()
	r.log.Error("the workload was lost: its memory could not be filled in", "migration", r.id, "workload", r.entry.Record().Name, "cause", f)
	return &f
}

// cleanUp drops the store behind a workload that runs, or was lost after it
// ran: the source has no copy any more.
func (r *receiver) cleanUp(lost *migrate.Failure) error {
	if err := errors.Join(r.dropStore(), r.finishTrees()); err != nil {
		return err
	}
	return r.entry.Step(migrate.Done, func(j *journal.Record) { j.Status, j.Reason = migrate.StatusCompleted, lost })
}
