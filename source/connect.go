package source

import (
	"context"
	"fmt"
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
	s, err := v.dial(ctx, Address(v.target), PeerName(v.target))
	if err != nil {
		return err
	}
	v.join(s)
	v.events.watch(v.wire)
	return v.compareClocks(v.linked)
}

func (m *Mover) dial(ctx context.Context, address, name string) (*transport.Session, error) {
	return transport.Dial(ctx, address, name, transport.Config{
		Identity: m.cfg.Identity, IdleTimeout: m.cfg.IdleTimeout, Logger: m.log,
	})
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
