package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"migrate"
	"migrate/transport"
)

// DefaultPort is the agents' UDP port.
const DefaultPort = "7420"

// Address completes HOST or HOST:PORT.
func Address(target string) string {
	if _, _, err := net.SplitHostPort(target); err == nil {
		return target
	}
	return net.JoinHostPort(target, DefaultPort)
}

// PeerName returns the name that the certificate of the host at target must be
// for: the host as it was asked for, or "" (any host of our authority) where
// that is only an IP address.
func PeerName(target string) string {
	host, _, err := net.SplitHostPort(Address(target))
	if err != nil || net.ParseIP(host) != nil {
		return ""
	}
	return host
}

func (v *move) connect(ctx context.Context) error {
	v.enter(migrate.Connect)
	var err error
	if v.session, err = v.dial(ctx, Address(v.target), PeerName(v.target)); err != nil {
		return err
	}
	v.settings.onBandwidth(v.session.SetBandwidth)
	v.events.watch(v.session.BytesSent)
	v.inbox = receive(ctx, v.session, v.cancel)
	return v.compareClocks(ctx)
}

func (m *Mover) dial(ctx context.Context, address, name string) (*transport.Session, error) {
	return transport.Dial(ctx, address, name, transport.Config{
		Identity: m.cfg.Identity, IdleTimeout: m.cfg.IdleTimeout, Logger: m.log,
	})
}

// An inbox reads the control stream for the whole life of a session, so that
// an Abort is seen while the move is busy elsewhere.
type inbox struct {
	messages chan transport.Message
	err      error // valid once messages is closed
}

func receive(ctx context.Context, s *transport.Session, cancel context.CancelCauseFunc) *inbox {
	in := &inbox{messages: make(chan transport.Message, 16)}
	ctx = context.WithoutCancel(ctx) // the answer to a commit is read whatever happens; closing the session ends it
	go func() {
		defer close(in.messages)
		for {
			m, err := s.Receive(ctx)
			if err != nil {
				in.err = err
				if !errors.Is(err, io.EOF) { // else the last word is in the channel, and may be the answer that is waited for
					cancel(fmt.Errorf("connection to the target: %w", err))
				}
				return
			}
			in.messages <- m
			if a, ok := m.(transport.Abort); ok {
				cancel(&transport.AbortError{Reason: a.Failure})
			}
		}
	}()
	return in
}

// expect returns the next message, which must be a T.
func expect[T transport.Message](ctx context.Context, in *inbox) (T, error) {
	var want T
	select {
	case m, ok := <-in.messages:
		if !ok {
			return want, fmt.Errorf("connection to the target: %w", in.err)
		}
		return transport.Expect[T](m)
	case <-ctx.Done():
		return want, context.Cause(ctx)
	}
}
