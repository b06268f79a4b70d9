package source

import (
	"context"
	"errors"
	"fmt"
	"time"

	"migrate"
	"migrate/internal/inquiry"
	"migrate/journal"
	"migrate/transport"
)

// decide waits for the target's vote, passes the commit point and waits for
// the word that the workload runs. It returns nil when this copy is to be
// killed, an error when it is to run again, and errInDoubt when it must do
// neither.
func (d *dump) decide(ctx context.Context) error {
	held, err := expect[transport.Held](ctx, d.inbox)
	if err != nil {
		return err
	}
	d.report.Clock, d.report.Restore = held.Clock, held.Restore
	if err := d.passCommitPoint(ctx); err != nil {
		return err
	}
	return d.commit(context.WithoutCancel(ctx))
}

// passCommitPoint journals the commit, unless a cancel came first.
func (v *move) passCommitPoint(ctx context.Context) error {
	v.gate.Lock()
	defer v.gate.Unlock()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	v.enter(migrate.Commit)
	if err := v.entry.Step(migrate.Commit, nil); err != nil {
		return err
	}
	v.committed = true
	return nil
}

// commit is past the commit point: ctx carries no cancellation any more.
func (v *move) commit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, v.opts.CommitTimeout)
	defer cancel()
	err := v.session.Send(ctx, transport.Commit{})
	if err == nil {
		err = v.awaitRunning(ctx)
	}
	if err == nil || errors.As(err, new(*refusal)) {
		return v.settle(ctx, err)
	}
	v.log.Warn("no answer to the commit; asking again", "cause", err)
	return v.settle(ctx, v.ask(ctx))
}

// A refusal is the target's journaled word that it never ran its copy and
// never will.
type refusal struct{ failure migrate.Failure }

func (r *refusal) Error() string { return "the target could not run its copy: " + r.failure.What }

func (r *refusal) Failure() migrate.Failure { return r.failure }

// errInDoubt means: commit was sent, no answer came.
var errInDoubt = errors.New("commit was sent and the target does not answer")

// awaitRunning waits for the answer on the session that carried the commit.
func (v *move) awaitRunning(ctx context.Context) error {
	for {
		select {
		case m, ok := <-v.inbox.messages:
			if !ok {
				return v.inbox.err
			}
			switch m := m.(type) {
			case transport.Running:
				v.resumed(m)
				return nil
			case transport.Refused:
				return &refusal{m.Failure}
			case transport.Abort: // decides nothing any more
				return &transport.AbortError{Reason: m.Failure}
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// resumed computes the downtime across the two hosts' clocks.
func (v *move) resumed(m transport.Running) {
	v.report.Clock = m.Clock
	if m.ResumedAt.Monotonic == 0 {
		return // it runs, but who let it go died before it could say when
	}
	here := m.ResumedAt.Monotonic - v.diff.Monotonic.Offset
	v.report.Downtime = migrate.Millis(here - v.frozenAt.Monotonic)
}

// settle journals the outcome of the commit.
func (v *move) settle(ctx context.Context, err error) error {
	var refused *refusal
	switch {
	case err == nil:
		return v.handOver(ctx)
	case errors.As(err, &refused):
		return err
	}
	v.inDoubt = true
	return fmt.Errorf("%w: %w", errInDoubt, err)
}

// handOver kills the frozen copy, which the target has in its place. A downtime
// that nobody could tell is at most the time until now.
func (v *move) handOver(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	v.enter(migrate.Finish)
	v.finishing = true
	if v.report.Downtime <= 0 {
		v.report.Downtime = migrate.Millis(time.Since(v.frozenSince))
	}
	v.report.Clock.Outage = v.report.Downtime
	if v.super != nil {
		if err := v.super.MovedAway(ctx, v.session.Peer(), v.id); err != nil {
			v.log.Warn("tell the supervisor", "cause", err)
		}
	}
	if err := v.entry.Step(migrate.Finish, nil); err != nil {
		return err
	}
	// Before CRIU goes on: it would wait for ever for tasks that a v1 freezer
	// does not let die.
	return v.group.Kill(ctx)
}

// askEvery is the pace of questions to a silent target.
const askEvery = time.Second

// ask dials the target again and again until it tells what became of the
// commit, or ctx ends.
func (v *move) ask(ctx context.Context) error {
	for {
		action, err := v.askOnce(ctx, v.id, Address(v.target), v.session.Peer())
		switch action {
		case journal.Finish:
			return nil
		case journal.Thaw:
			return &refusal{migrate.Failure{What: "the target journaled that it never ran its copy"}}
		}
		v.log.Warn("still in doubt", "cause", err)
		select {
		case <-time.After(askEvery):
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// askOnce asks the target for its record and, where that says that it still
// holds, tells it to run its copy.
func (m *Mover) askOnce(ctx context.Context, id migrate.ID, address, name string) (journal.Action, error) {
	s, err := m.dial(ctx, address, name)
	if err != nil {
		return journal.AskPeer, err
	}
	defer s.Close(transport.CodeNone, "")
	state, err := transport.Call[transport.State](ctx, s, transport.Ask{ID: id, Side: migrate.Target})
	if err != nil {
		return journal.AskPeer, err
	}
	action := journal.Verdict(migrate.Source, migrate.Commit, inquiry.Peer(state))
	if action != journal.SendCommit {
		return action, nil
	}
	done, err := transport.Call[transport.VerdictDone](ctx, s, transport.Verdict{ID: id, Commit: true})
	if err != nil {
		return journal.AskPeer, err
	}
	return journal.Verdict(migrate.Source, migrate.Commit, journal.Peer{Answer: journal.Present, Phase: done.Phase}), nil
}
