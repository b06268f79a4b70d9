package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/quic-go/quic-go"

	"migrate/transport/pki"
)

// Dial opens a session with the agent at addr (HOST:PORT), trying each address
// of the host in turn. It returns only after the agent has judged this host's
// certificate, allowed it and sent its Hello. peer is the host that the agent's
// certificate must be for; with "" any host of a trusted authority will do. ctx
// bounds the dialling, not the session.
func Dial(ctx context.Context, addr, peer string, c Config) (*Session, error) {
	c = c.withDefaults()
	remotes, err := resolve(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w: %w", addr, ErrUnreachable, err)
	}
	for _, remote := range remotes {
		var s *Session
		if s, err = dial(ctx, remote, peer, c); err == nil {
			return s, nil
		}
		if !errors.Is(err, ErrUnreachable) {
			break
		}
	}
	return nil, fmt.Errorf("dialling %s: %w", addr, err)
}

func dial(ctx context.Context, remote *net.UDPAddr, peer string, c Config) (*Session, error) {
	silence()
	socket, err := net.ListenUDP(family(remote.IP), nil)
	if err != nil {
		return nil, err
	}
	transport := &quic.Transport{Conn: socket} // the bare socket: a wrapped one loses segmentation offload
	release := func() { transport.Close(); socket.Close() }
	tlsConfig := c.Identity.Client(peer)
	tlsConfig.NextProtos = []string{alpn}
	conn, err := transport.Dial(ctx, remote, tlsConfig, c.quicConfig(-1))
	if err != nil {
		release()
		return nil, unreachable(ctx, err)
	}
	context.AfterFunc(conn.Context(), release)

	ctx, cancel := context.WithTimeout(ctx, c.HandshakeTimeout)
	defer cancel()
	s, err := introduce(ctx, conn, c)
	if err == nil {
		return s, nil
	}
	conn.CloseWithError(quic.ApplicationErrorCode(codeOf(err)), err.Error())
	if errors.Is(err, context.DeadlineExceeded) { // it has the port, but does not speak
		err = fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return nil, err
}

// introduce opens the control stream and exchanges Hellos.
func introduce(ctx context.Context, conn *quic.Conn, c Config) (*Session, error) {
	name, err := pki.PeerName(conn.ConnectionState().TLS)
	if err != nil {
		return nil, err
	}
	control, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, translate(err)
	}
	s := newSession(conn, control, name, c)
	return s, s.greet(ctx, c.hello())
}

func resolve(ctx context.Context, addr string) ([]*net.UDPAddr, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return nil, err
	}
	var addrs []*net.UDPAddr
	same := func(a, b net.IPAddr) bool { return a.String() == b.String() } // a line of /etc/hosts can give one twice
	for _, ip := range slices.CompactFunc(ips, same) {                     // at least one, sorted by preference
		addrs = append(addrs, &net.UDPAddr{IP: ip.IP, Zone: ip.Zone, Port: port})
	}
	return addrs, nil
}

func family(ip net.IP) string {
	if ip.To4() != nil {
		return "udp4"
	}
	return "udp6"
}

// unreachable sorts the errors of a handshake: silence and a dead network are
// "no agent answers"; what TLS or the peer said stands for itself.
func unreachable(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Cause(ctx)
	}
	if t := translate(err); !errors.Is(t, ErrLost) {
		return t
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// codeOf is what to tell the peer about an error of our own.
func codeOf(err error) Code {
	switch {
	case errors.Is(err, ErrVersion):
		return CodeVersion
	case errors.Is(err, ErrProtocol):
		return CodeProtocol
	case errors.Is(err, pki.ErrUnusable):
		return CodeUnknownCertificate
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return CodeCancelled
	}
	return CodeInternal
}
