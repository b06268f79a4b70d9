package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"migrate"
	"migrate/transport"
)

// join makes s the session of the move. v.linked ends with it, or with the move.
func (v *move) join(s *transport.Session) {
	if v.session != nil {
		v.wireBefore.Add(v.session.BytesSent())
		v.session.Close(transport.CodeNone, "")
	}
	linked, lost := context.WithCancelCause(v.ctx)
	v.session, v.linked = s, linked
	v.current.Store(s)
	v.settings.onBandwidth(s.SetBandwidth)
	v.inbox = receive(v.ctx, s, lost, v.cancel)
}

// wire returns the bytes sent so far, over all sessions of the move.
func (v *move) wire() uint64 {
	if s := v.current.Load(); s != nil {
		return v.wireBefore.Load() + s.BytesSent()
	}
	return 0
}

// An inbox reads the control stream for the whole life of a session, so that
// an Abort is seen while the move is busy elsewhere.
type inbox struct {
	messages chan transport.Message
	passes   chan transport.PassAck // apart, as they come beside the others
	err      error                  // valid once messages is closed
}

// receive calls lost when the session breaks and abort when the target gives up.
func receive(ctx context.Context, s *transport.Session, lost, abort context.CancelCauseFunc) *inbox {
	in := &inbox{messages: make(chan transport.Message, 16), passes: make(chan transport.PassAck, transport.MaxTrees)}
	ctx = context.WithoutCancel(ctx) // the answer to a commit is read whatever happens; closing the session ends it
	go func() {
		defer close(in.messages)
		for {
			m, err := s.Receive(ctx)
			if err != nil {
				in.err = err
				if !errors.Is(err, io.EOF) { // else the last word is in the channel, and may be the answer that is waited for
					lost(fmt.Errorf("connection to the target: %w", err))
				}
				return
			}
			if p, ok := m.(transport.PassAck); ok {
				in.takePass(p)
				continue
			}
			in.messages <- m
			if a, ok := m.(transport.Abort); ok {
				abort(&transport.AbortError{Reason: a.Failure})
			}
		}
	}()
	return in
}

// takePass hands on that a pass is applied. A target that says so more often than
// there are trees is not listened to.
func (in *inbox) takePass(p transport.PassAck) {
	select {
	case in.passes <- p:
	default:
	}
}

// awaitReason waits for the target's own words when all that has come of them
// is that it gives up a stream.
func (v *move) awaitReason(err error) {
	if !errors.Is(err, transport.ErrCancelled) {
		return
	}
	select {
	case <-v.linked.Done():
	case <-time.After(reasonTime):
	}
}

// reasonTime is how much later than the end of a stream an Abort may come.
const reasonTime = 2 * time.Second

const (
	// redialEvery is the pace of attempts to reach a target whose link broke.
	redialEvery = 500 * time.Millisecond
	// redialFor is how long they go on; the target waits a little longer.
	redialFor = 50 * time.Second
)

// redial takes the move up again after its link broke, and returns what the
// target has. The workload runs on meanwhile.
func (v *move) redial(ctx context.Context, why error) (transport.Resumed, error) {
	v.log.Warn("the link broke; dialling again", "cause", why)
	w := migrate.Finding{Code: "redial", What: "the link to the target broke; dialling again: " + why.Error()}
	v.events.send(migrate.Event{Type: "warning", Warning: &w})
	ctx, cancel := context.WithTimeoutCause(ctx, redialFor, fmt.Errorf("the target cannot be reached again: %w", why))
	defer cancel()
	for {
		got, err := v.redialOnce(ctx)
		if err == nil {
			v.report.Redials++
			return got, nil
		}
		if !transport.Broken(err) {
			return got, err
		}
		select {
		case <-time.After(redialEvery):
		case <-ctx.Done():
			return got, context.Cause(ctx)
		}
	}
}

func (v *move) redialOnce(ctx context.Context) (transport.Resumed, error) {
	s, err := v.dial(ctx, Address(v.target), v.session.Peer())
	if err != nil {
		return transport.Resumed{}, err
	}
	got, err := transport.Call[transport.Resumed](ctx, s, transport.Resume{ID: v.id})
	if err != nil {
		s.Close(transport.CodeNone, "")
		return got, err
	}
	v.join(s)
	return got, nil
}
