package target

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"migrate"
	"migrate/internal/failpoint"
	"migrate/internal/inquiry"
	"migrate/journal"
	"migrate/supervisor"
	"migrate/transport"
)

// askEvery is the pace of questions to a source that fell silent after our
// vote.
const askEvery = time.Second

// undoTimeout bounds everything done to remove a copy.
const undoTimeout = 30 * time.Second

// hold waits for the verdict, which may come on the session that brought the
// workload, on another, or as the answer to our own question. Without one it
// waits for ever: after a yes vote only the source decides.
func (r *receiver) hold(ctx context.Context, s *transport.Session) error {
	done, stop := context.WithCancel(ctx)
	defer stop()
	if s != nil {
		r.work.Go(func() { r.listen(done, s) })
	} else {
		r.work.Go(func() { r.askUntilDone(done) })
	}
	select {
	case v := <-r.verdicts:
		return r.carryOut(ctx, s, v)
	case <-r.super.Lost():
		return r.lost(ctx, s)
	case <-ctx.Done():
		return nil // the agent stops, and the next one goes on here: no word to the source
	}
}

// listen reads the source's verdict from the session, and asks when that ends
// without one.
func (r *receiver) listen(ctx context.Context, s *transport.Session) {
	for decided := false; ; {
		m, err := s.Receive(ctx)
		if err != nil {
			if !decided && ctx.Err() == nil {
				r.askUntilDone(ctx)
			}
			return
		}
		switch m.(type) {
		case transport.Commit:
			decided = true
			r.submit(ctx, verdict{commit: true})
		case transport.Abort:
			decided = true
			r.submit(ctx, verdict{commit: false})
		case transport.Finished:
			close(r.finished)
			return
		}
	}
}

func (r *receiver) submit(ctx context.Context, v verdict) {
	select {
	case r.verdicts <- v:
	case <-ctx.Done():
	case <-r.over:
	}
}

// decide hands in a verdict from another session and waits for its outcome.
func (r *receiver) decide(ctx context.Context, commit bool) (transport.VerdictDone, error) {
	done := make(chan transport.VerdictDone, 1)
	r.submit(ctx, verdict{commit, done})
	select {
	case d := <-done:
		return d, nil
	case <-r.over: // another verdict was first
		rec, err := r.journal.Get(r.id, migrate.Target)
		return transport.VerdictDone{Phase: rec.Phase}, err
	case <-ctx.Done():
		return transport.VerdictDone{}, ctx.Err()
	}
}

// askUntilDone asks the source's agent what became of the migration.
func (r *receiver) askUntilDone(ctx context.Context) {
	address := r.entry.Record().Peer
	for warned := false; ; {
		v, err := r.askSource(ctx, address)
		switch {
		case err == nil && v != nil:
			r.submit(ctx, *v)
			return
		case !warned:
			r.log.Warn("in doubt: asking the source", "migration", r.id, "peer", address, "cause", err)
			warned = true
		}
		select {
		case <-time.After(askEvery):
		case <-ctx.Done():
			return
		}
	}
}

var errNobody = errors.New("the source has no agent to ask: it must call again (\"migrate recover\" there)")

// askSource returns nil while the answer decides nothing.
func (r *receiver) askSource(ctx context.Context, address string) (*verdict, error) {
	if address == "" {
		return nil, errNobody
	}
	state, err := r.stateOfSource(ctx, address)
	if err != nil {
		return nil, err
	}
	switch action := journal.Verdict(migrate.Target, migrate.Held, inquiry.Peer(state)); action {
	case journal.Resume:
		return &verdict{commit: true}, nil
	case journal.Discard:
		return &verdict{commit: false}, nil
	default:
		return nil, fmt.Errorf("its answer decides nothing (%s, %s)", state.Phase, action)
	}
}

// stateOfSource asks the agent of the host that the workload came from.
func (r *receiver) stateOfSource(ctx context.Context, address string) (transport.State, error) {
	s, err := transport.Dial(ctx, address, r.entry.Record().PeerName, r.sessions())
	if err != nil {
		return transport.State{}, err
	}
	defer s.Close(transport.CodeNone, "")
	return transport.Call[transport.State](ctx, s, transport.Ask{ID: r.id, Side: migrate.Source})
}

// carryOut does as the verdict says.
func (r *receiver) carryOut(ctx context.Context, s *transport.Session, v verdict) error {
	ctx = context.WithoutCancel(ctx)
	if !v.commit {
		err := r.discard(ctx, errRolledBack)
		r.answer(v, nil)
		return err
	}
	if err := r.entry.Step(migrate.Commit, nil); err != nil {
		return err
	}
	return r.resume(ctx, s, v)
}

var errRolledBack = errors.New("the source rolled back")

// resume lets the held tree run, past the commit point. If the held copy is
// gone before it ever ran, that is journaled and the source told: its frozen
// copy is then the only one.
func (r *receiver) resume(ctx context.Context, s *transport.Session, v verdict) error {
	running, err := r.super.Resume(ctx)
	if err != nil && !r.ranAfterAll(ctx) {
		return r.lostBecause(ctx, s, v, err)
	}
	failpoint.Reach("target:resumed")
	if err := r.entry.Step(migrate.Finish, func(j *journal.Record) { j.RootPID = running.PID }); err != nil {
		return err
	}
	if s != nil {
		err := s.Send(ctx, transport.Running{ResumedAt: running.ResumedAt, Clock: r.clock, PID: running.PID})
		if err != nil {
			r.log.Warn("the source may not know that the workload runs", "migration", r.id, "cause", err)
		}
	}
	r.answer(v, nil)
	r.runs = true
	r.awaitFinished(ctx, s)
	return nil
}

// awaitFinished gives the source a little time to say that its copy is gone,
// so that the session ends in order. Nothing depends on it.
func (r *receiver) awaitFinished(ctx context.Context, s *transport.Session) {
	if s == nil {
		return
	}
	select {
	case <-r.finished:
	case <-s.Context().Done():
	case <-time.After(endTimeout):
	}
}

func (r *receiver) answer(v verdict, f *migrate.Failure) {
	if v.done == nil {
		return
	}
	d := transport.VerdictDone{Phase: r.entry.Record().Phase}
	if f != nil {
		d.Failure = *f
	}
	v.done <- d
}

func (r *receiver) dropStore() error {
	if r.store != nil {
		r.store.Close()
	}
	return os.RemoveAll(r.dir)
}

// ranAfterAll tells, when the supervisor died while it let the tree go,
// whether the tree runs without it.
func (r *receiver) ranAfterAll(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	name := r.entry.Record().Name
	if !supervisor.Ran(ctx, r.cfg.StateDir, r.cfg.RunDir, name) {
		return false
	}
	r.log.Warn("the workload runs without its supervisor, which died as it let it go", "migration", r.id)
	if err := supervisor.Remember(r.cfg.StateDir, r.cfg.RunDir, name); err != nil {
		r.log.Error("recording the workload", "migration", r.id, "cause", err)
	}
	return true
}

// lost gives up a held copy that died before any verdict.
func (r *receiver) lost(ctx context.Context, s *transport.Session) error {
	return r.lostBecause(ctx, s, verdict{}, errHeldLost)
}

var errHeldLost = errors.New("the restored copy was lost before it ran: its supervisor or CRIU died")

func (r *receiver) lostBecause(ctx context.Context, s *transport.Session, v verdict, cause error) error {
	ctx = context.WithoutCancel(ctx)
	if err := r.discard(ctx, cause); err != nil {
		return err // not journaled as gone: nobody may be told so
	}
	f, _ := migrate.FailureOf(cause)
	r.answer(v, &f)
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	return s.Send(ctx, transport.Refused{Failure: f})
}

// statusOf tells a move that was cancelled from one that failed.
func statusOf(cause error) migrate.Status {
	var a *aborted
	if errors.As(cause, &a) && a.status == migrate.StatusCancelled {
		return a.status
	}
	return migrate.StatusFailed
}

// discard removes every trace of the copy here, then journals that.
func (r *receiver) discard(ctx context.Context, cause error) error {
	if r.entry == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if r.super != nil {
		if err := r.super.Discard(ctx); err != nil {
			r.log.Warn("discard", "migration", r.id, "cause", err)
		}
	}
	if err := supervisor.Cleanup(ctx, r.cfg.StateDir, r.cfg.RunDir, r.entry.Record().Name); err != nil {
		return fmt.Errorf("remove the copy on the target: %w", err)
	}
	if err := removeNetwork(r.entry.Record()); err != nil {
		return err
	}
	if err := r.dropStore(); err != nil {
		return err
	}
	if err := r.discardTrees(); err != nil {
		return err
	}
	r.removeMade()
	return r.entry.Step(migrate.RolledBack, func(j *journal.Record) {
		f, _ := migrate.FailureOf(cause)
		j.Status, j.Reason = statusOf(cause), &f
	})
}
