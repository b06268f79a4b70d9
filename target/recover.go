package target

import (
	"context"
	"errors"
	"fmt"
	"time"

	"migrate"
	"migrate/journal"
	"migrate/supervisor"
	"migrate/transport"
)

// Recover goes on with what an earlier agent on this host left, by the
// recovery table. It returns at once; migrations in doubt are asked about in
// the background, for as long as ctx lives.
func (a *Agent) Recover(ctx context.Context) {
	records, err := a.journal.List()
	if err != nil {
		a.log.Error("journal", "cause", err)
	}
	for _, rec := range records {
		if rec.Side != migrate.Target || rec.Phase.Over() {
			continue
		}
		if err := a.recoverOne(ctx, rec.ID); err != nil && !errors.Is(err, journal.ErrBusy) {
			a.log.Error("recover", "migration", rec.ID, "cause", err)
		}
	}
}

// recoverEvery is the pace at which an agent looks for migrations that it gave
// up before it could put everything right: a disk that was full may have room.
const recoverEvery = 10 * time.Second

func (a *Agent) keepRecovering(ctx context.Context) {
	for {
		select {
		case <-time.After(recoverEvery):
			a.Recover(ctx)
		case <-ctx.Done():
			return
		}
	}
}

func (a *Agent) recoverOne(ctx context.Context, id migrate.ID) error {
	entry, err := a.journal.Take(id, migrate.Target)
	if err != nil {
		return err
	}
	rec := entry.Record()
	r := a.newReceiver(id, transport.Offer{})
	r.entry, r.dir = entry, rec.StoreDir
	r.super, err = supervisor.Connect(a.cfg.RunDir, rec.Name)
	if err != nil {
		r.super = nil
	}
	action := journal.Recovery(migrate.Target, rec.Phase)
	a.log.Info("recover", "migration", id, "phase", rec.Phase, "action", action)
	r.register()
	if action == journal.AskPeer && r.super != nil {
		a.work.Go(func() {
			defer r.unregister()
			if err := r.hold(ctx, nil); err != nil && ctx.Err() == nil {
				a.log.Error("recover", "migration", id, "cause", err)
			}
			if r.runs {
				r.complete(ctx)
			}
		})
		return nil
	}
	err = r.recover(ctx, action)
	if err != nil || !r.runs {
		r.unregister()
		return err
	}
	a.work.Go(func() {
		defer r.unregister()
		r.complete(ctx)
	})
	return nil
}

// recover does what needs no peer.
func (r *receiver) recover(ctx context.Context, action journal.Action) error {
	switch action {
	case journal.AskPeer: // voted, and the held copy is gone with its supervisor
		return r.discard(ctx, errHeldLost)
	case journal.Discard:
		return r.discard(ctx, errors.New("the agent ended in phase "+r.entry.Record().Phase.String()))
	case journal.Resume:
		return r.resumeAgain(ctx)
	case journal.Finish:
		r.runs = true
	}
	return nil
}

// resumeAgain finishes a commit that an earlier agent journaled.
func (r *receiver) resumeAgain(ctx context.Context) error {
	if r.super != nil {
		return r.resume(context.WithoutCancel(ctx), nil, verdict{})
	}
	if r.ranAfterAll(ctx) {
		r.runs = true
		return r.entry.Step(migrate.Finish, nil)
	}
	return r.discard(ctx, errHeldLost)
}

// Decide is an operator's word in place of a source that will never answer
// again: run lets the held copy run, otherwise it is removed.
func (a *Agent) Decide(ctx context.Context, id migrate.ID, run bool) error {
	a.mu.Lock()
	r := a.live[id]
	a.mu.Unlock()
	if r == nil {
		return fmt.Errorf("no migration %s waits for a verdict here", id)
	}
	_, err := r.decide(ctx, run)
	return err
}
