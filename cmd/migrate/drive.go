package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"migrate"
	"migrate/source"
	"migrate/transport"
)

// driver has another host's agent move one of its workloads, and tells how it
// goes. When the connection breaks on the way the outcome is unknown here, so
// it asks again until the agent can tell.
type driver struct {
	address  string
	config   transport.Config
	patience time.Duration // of asking for the outcome
	emit     func(migrate.Event)
}

// unknownError is a driven move whose end was not heard of.
type unknownError struct {
	host  string
	id    migrate.ID
	cause error
}

func (e *unknownError) Error() string {
	return fmt.Sprintf("connection to %s lost: how the move ended is not known", e.host)
}

func (e *unknownError) Unwrap() error { return e.cause }

// Failure returns the error in three lines.
func (e *unknownError) Failure() migrate.Failure {
	what := "history"
	if e.id != "" {
		what = "report " + string(e.id)
	}
	return migrate.Failure{
		What: e.Error(), Cause: e.cause.Error(),
		Advice: fmt.Sprintf("it rolls the move back unless the commit point is passed; see \"migrate %s\" there", what),
	}
}

func (d driver) drive(ctx context.Context, order transport.Drive) (*migrate.Report, error) {
	s, err := transport.Dial(ctx, d.address, source.PeerName(d.address), d.config)
	if err != nil {
		return nil, err
	}
	defer s.Close(transport.CodeNone, "")
	if err := s.Send(ctx, order); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() {
		_ = s.Send(context.WithoutCancel(ctx), transport.Cancel{Reason: "the operator interrupted the command"}) // a lost session cancels too
	})
	defer stop()
	id, report, err := d.watch(context.WithoutCancel(ctx), s)
	var refused *refusedError
	if err == nil || errors.As(err, &refused) {
		return report, err
	}
	if order.CheckOnly {
		return nil, err // nothing was at stake
	}
	d.config.Logger.Warn("asking for the outcome", "host", d.address, "cause", err)
	if report := d.outcome(context.WithoutCancel(ctx), id); report != nil {
		return report, nil
	}
	return nil, &unknownError{d.address, id, err}
}

// refusedError is the agent's reason not to do it.
type refusedError struct{ failure migrate.Failure }

func (e *refusedError) Error() string { return e.failure.What }

// Failure returns the agent's words.
func (e *refusedError) Failure() migrate.Failure { return e.failure }

// watch reads what the agent tells until the report comes.
func (d driver) watch(ctx context.Context, s *transport.Session) (id migrate.ID, _ *migrate.Report, _ error) {
	for {
		m, err := s.Receive(ctx)
		if errors.Is(err, io.EOF) {
			err = errors.New("the agent ended the session without a result")
		}
		if err != nil {
			return id, nil, err
		}
		switch m := m.(type) {
		case transport.Progress:
			id = m.Event.ID
			if m.Event.Report != nil {
				return id, m.Event.Report, nil
			}
			d.emit(m.Event)
		case transport.Abort:
			return id, nil, &refusedError{m.Failure}
		default:
			return id, nil, fmt.Errorf("the agent sent an unexpected %v", m.FrameType())
		}
	}
}

// askEvery is the pace of questions to an agent that does not answer.
const askEvery = time.Second

// outcome asks for the report of a move whose connection broke; nil if the
// agent cannot tell in time.
func (d driver) outcome(ctx context.Context, id migrate.ID) *migrate.Report {
	if id == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	for ctx.Err() == nil {
		if r := d.ask(ctx, id); r != nil {
			return r
		}
		select {
		case <-time.After(askEvery):
		case <-ctx.Done():
		}
	}
	return nil
}

func (d driver) ask(ctx context.Context, id migrate.ID) *migrate.Report {
	s, err := transport.Dial(ctx, d.address, source.PeerName(d.address), d.config)
	if err != nil {
		return nil
	}
	defer s.Close(transport.CodeNone, "")
	reply, err := transport.Call[transport.StatusReply](ctx, s, transport.Status{})
	if err != nil {
		return nil
	}
	for _, r := range reply.Reports {
		if r.ID == id && r.Status != migrate.StatusActive {
			return &r
		}
	}
	return nil
}
