package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"migrate"
	"migrate/drain"
	"migrate/internal/cordon"
	"migrate/journal"
	"migrate/source"
	"migrate/workload"
)

// localHost is this host as the source of a drain that runs on it: like
// "migrate move", it needs no agent here.
type localHost struct {
	app   *app
	mover *source.Mover
}

var _ drain.Source = (*localHost)(nil)

// State describes the host.
func (h *localHost) State(ctx context.Context, blockers bool) (migrate.HostState, error) {
	return h.app.hostState(ctx, blockers)
}

func (h *localHost) request(o drain.Order, emit func(migrate.Event)) (source.Request, error) {
	ref, err := workload.Parse(o.Ref)
	return source.Request{ID: o.ID, Drain: o.Drain, Ref: ref, Target: o.Target, Options: o.Options, Emit: emit}, err
}

// Check runs the preflight of a move.
func (h *localHost) Check(ctx context.Context, o drain.Order) ([]migrate.Finding, error) {
	r, err := h.request(o, nil)
	if err != nil {
		return nil, err
	}
	c, err := h.mover.Check(ctx, r)
	return c.Blockers, err
}

// Move moves a workload. The end of ctx is somebody's wish.
func (h *localHost) Move(ctx context.Context, o drain.Order, emit func(migrate.Event)) (*migrate.Report, error) {
	r, err := h.request(o, func(e migrate.Event) {
		if e.Report == nil {
			emit(e)
		}
	})
	if err != nil {
		return nil, &drain.NotBegun{Err: err}
	}
	wished, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { cancel(source.ErrCancelled) })()
	return h.mover.Move(wished, r), nil
}

// Trace returns what the host has on record as a source, once what a dead
// process left has been put right as far as can be.
func (h *localHost) Trace(ctx context.Context, id migrate.ID) (drain.Trace, error) {
	_, err := h.mover.Recover(ctx, id)
	if err != nil && !errors.Is(err, journal.ErrBusy) && !errors.Is(err, fs.ErrNotExist) {
		h.app.logger().Warn("recover", "migration", id, "cause", err)
	}
	s, err := h.mover.State(ctx, id)
	return traceOf(s), err
}

// Cap changes the bandwidth of a migration.
func (h *localHost) Cap(_ context.Context, id migrate.ID, bandwidth int64) error {
	_, err := source.Change(h.app.runDir, id, source.Settings{Bandwidth: &bandwidth})
	return err
}

// Stop ends a workload.
func (h *localHost) Stop(ctx context.Context, ref string, timeout time.Duration) error {
	r, err := workload.Parse(ref)
	if err != nil {
		return err
	}
	return h.app.end(ctx, r, timeout)
}

// Cordon has the host refuse workloads, and claims it.
func (h *localHost) Cordon(_ context.Context, id migrate.ID, ttl time.Duration, reason string) error {
	return h.app.cordon(cordon.Wish{Drain: id, TTL: ttl, Reason: reason})
}

// Uncordon has the host receive workloads again.
func (h *localHost) Uncordon(_ context.Context, id migrate.ID) error {
	return h.app.cordon(cordon.Wish{Off: true, Drain: id})
}

// cordon carries out a wish of somebody on this host.
func (a *app) cordon(w cordon.Wish) error {
	w.By, _ = os.Hostname() // nobody is "this host"
	_, err := cordon.Set(a.stateDir, w)
	return err
}
