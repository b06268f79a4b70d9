package source

import (
	"context"
	"errors"
	"fmt"
	"time"

	"migrate"
	"migrate/internal/failpoint"
	"migrate/transport"
	"migrate/workload/cgroup"
)

// undoTimeout bounds everything done to put a host right again.
const undoTimeout = 30 * time.Second

// finish removes this host's copy, which CRIU has killed or the cgroup now
// kills, and ends the journal.
func (v *move) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	failpoint.Reach("source:finishing")
	if err := removeCopy(ctx, v.group); err != nil {
		return err
	}
	v.report.FrozenTime = migrate.Millis(time.Since(v.frozenSince))
	if err := v.releaseNetwork(); err != nil {
		return err
	}
	if err := errors.Join(removeContainer(ctx, v.entry.Record()), v.removeNetworkName()); err != nil {
		return err
	}
	if err := v.session.Send(ctx, transport.Finished{}); err != nil {
		v.log.Debug("say goodbye", "cause", err) // the target needs it for nothing
	}
	return nil
}

// removeCopy kills what is left of the frozen tree without letting any of it
// run, and removes the cgroup.
func removeCopy(ctx context.Context, g *cgroup.Group) error {
	if err := g.Kill(ctx); err != nil {
		return fmt.Errorf("kill the copy on the source: %w", err)
	}
	return g.Remove()
}

// conclude turns how run ended into the report, rolling back where the commit
// point was not passed.
func (v *move) conclude(err error) *migrate.Report {
	r := v.report
	switch {
	case err == nil || v.finishing:
		r.Status, r.Owner = migrate.StatusCompleted, migrate.OwnerTarget
		if err != nil { // the target runs it; only this host's cleaning failed
			r.Warnings = append(r.Warnings, migrate.Finding{Code: "cleanup", What: err.Error(), Advice: "run \"migrate recover\""})
		}
	case v.inDoubt:
		r.Status, r.Owner = migrate.StatusInDoubt, migrate.OwnerInDoubt
		f := doubt(v.id, v.target, err)
		r.Error = &f
	default:
		err = v.explain(err)
		err = errors.Join(err, v.rollBack(err))
		r.Status, r.Owner = statusOf(err), migrate.OwnerSource
		if r.Status != migrate.StatusBlocked {
			f := Failure(err)
			r.Error = &f
		}
	}
	if v.session != nil {
		r.Transferred = v.wire()
	}
	r.Files = v.fileReport()
	r.TotalTime = migrate.Millis(time.Since(r.Started))
	v.watch.Stop()
	r.Phases = v.watch.Timings()
	v.record(err)
	v.events.send(migrate.Event{Type: "result", Report: r})
	return r
}

// doubt explains what an operator can do.
func doubt(id migrate.ID, target string, err error) migrate.Failure {
	return migrate.Failure{
		What:   "commit was sent to " + target + " and no answer came: the copy here stays frozen",
		Cause:  err.Error(),
		Advice: fmt.Sprintf("when %s answers again, \"migrate recover %s\" finishes by itself; if it never will, see \"migrate recover --help\"", target, id),
	}
}

// rollBack thaws the tree and puts everything back as it was. It must work
// even when the context's end is the reason for it.
func (v *move) rollBack(cause error) error {
	if v.entry == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(v.ctx), undoTimeout)
	defer cancel()
	err := v.letGo(ctx)
	if err == nil {
		err = v.entry.Step(migrate.RolledBack, nil)
	}
	v.tellAbort(ctx, cause)
	return err
}

// letGo thaws the tree and gives it its cgroups back.
func (v *move) letGo(ctx context.Context) error {
	if v.group == nil {
		return nil
	}
	unlocked := v.unlockNetwork(ctx)
	if err := errors.Join(unlocked, v.group.Thaw(ctx)); err != nil {
		return fmt.Errorf("thaw: %w", err)
	}
	if !v.frozenSince.IsZero() {
		v.report.FrozenTime = migrate.Millis(time.Since(v.frozenSince))
	}
	err := v.unthrottle(ctx)
	if v.placement == nil {
		return err
	}
	return errors.Join(err, v.placement.Restore(ctx), v.group.Remove())
}

func (v *move) tellAbort(ctx context.Context, cause error) {
	if v.session == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := v.session.Send(ctx, transport.Abort{Status: statusOf(cause), Failure: Failure(cause)}); err != nil {
		v.log.Debug("tell the target", "cause", err) // it asks, or finds the session gone
	}
}
