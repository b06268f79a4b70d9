package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"

	"migrate/transport/pki"
)

// Listener takes sessions from hosts that the configuration allows. Its
// methods may be called from any goroutine.
type Listener struct {
	config    Config
	socket    *net.UDPConn
	transport *quic.Transport
	quic      *quic.Listener
	ready     chan *Session
	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	running   sync.WaitGroup
	pending   atomic.Int64 // handshakes under way

	mu       sync.Mutex
	sessions map[*quic.Conn]struct{}
}

// Listen starts to take sessions on a UDP address such as ":7420".
func Listen(addr string, c Config) (*Listener, error) {
	c = c.withDefaults()
	local, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	silence()
	socket, err := net.ListenUDP("udp", local)
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	l := &Listener{config: c, socket: socket, ready: make(chan *Session), sessions: map[*quic.Conn]struct{}{}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.transport = &quic.Transport{
		Conn:                socket, // the bare socket: a wrapped one loses segmentation offload
		ConnContext:         l.admitHandshake,
		VerifySourceAddress: func(net.Addr) bool { return l.pending.Load() > int64(c.MaxHandshakes/2) },
	}
	tlsConfig := c.Identity.Server()
	tlsConfig.NextProtos = []string{alpn}
	l.quic, err = l.transport.Listen(tlsConfig, c.quicConfig(1))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listening: %w", err), socket.Close())
	}
	l.running.Go(l.run)
	return l, nil
}

// Addr returns the address the listener has.
func (l *Listener) Addr() net.Addr { return l.socket.LocalAddr() }

// Accept returns the next session of a peer that showed a good certificate, is
// allowed and speaks a common version. Peers are greeted beside each other, so
// a slow or hostile one holds up nobody.
func (l *Listener) Accept(ctx context.Context) (*Session, error) {
	select {
	case s := <-l.ready:
		return s, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-l.ctx.Done():
		return nil, ErrClosed
	}
}

// Close ends the listener and every session it gave out, telling the peers.
func (l *Listener) Close() error {
	l.cancel()
	err := l.quic.Close()
	for _, conn := range l.open() {
		conn.CloseWithError(quic.ApplicationErrorCode(CodeShutdown), "")
	}
	l.running.Wait()
	return errors.Join(err, l.transport.Close(), l.socket.Close())
}

func (l *Listener) run() {
	for {
		conn, err := l.quic.Accept(l.ctx)
		if err != nil {
			return
		}
		l.running.Go(func() { l.greet(conn) })
	}
}

// handshake counts as pending until it is over.
type handshake struct {
	over    atomic.Bool
	pending *atomic.Int64
}

// end reports whether it was this call that ended the handshake.
func (h *handshake) end() bool {
	if !h.over.CompareAndSwap(false, true) {
		return false
	}
	h.pending.Add(-1)
	return true
}

type handshakeKey struct{}

var errTooMany = errors.New("too many handshakes under way")

// admitHandshake bounds what peers can make this host do before they have
// shown a certificate. ctx ends with the connection.
func (l *Listener) admitHandshake(ctx context.Context, peer *quic.ClientInfo) (context.Context, error) {
	if l.pending.Add(1) > int64(l.config.MaxHandshakes) {
		l.pending.Add(-1)
		return nil, errTooMany
	}
	h := &handshake{pending: &l.pending}
	context.AfterFunc(ctx, func() {
		if h.end() { // anybody can cause this, so it must not fill a log
			l.config.Logger.Debug("handshake failed", slog.String("address", peer.RemoteAddr.String()), slog.Any("error", context.Cause(ctx)))
		}
	})
	return context.WithValue(ctx, handshakeKey{}, h), nil
}

// greet takes a connection whose TLS handshake is good through the rest, and
// hands over its session.
func (l *Listener) greet(conn *quic.Conn) {
	s, err := l.welcome(conn)
	if err != nil {
		l.config.Logger.Warn("peer turned away", slog.String("address", conn.RemoteAddr().String()), slog.Any("error", err))
		return
	}
	select {
	case l.ready <- s:
	case <-conn.Context().Done():
	case <-l.ctx.Done():
		s.Close(CodeShutdown, "")
	}
}

func (l *Listener) welcome(conn *quic.Conn) (*Session, error) {
	refuse := func(c Code, reason string, err error) (*Session, error) {
		conn.CloseWithError(quic.ApplicationErrorCode(c), reason)
		return nil, err
	}
	conn.Context().Value(handshakeKey{}).(*handshake).end()
	name, err := pki.PeerName(conn.ConnectionState().TLS)
	if err != nil {
		return refuse(CodeUnknownCertificate, err.Error(), err)
	}
	// Before anything that the peer sent is read.
	if !l.config.AllowPeer(name) {
		return refuse(CodeNotAllowed, fmt.Sprintf("%q is not on the allow list of %s", name, l.config.Host), fmt.Errorf("%q is not allowed", name))
	}
	if !l.admitSession(conn) {
		return refuse(CodeBusy, "", fmt.Errorf("%q: %d sessions are open already", name, l.config.MaxSessions))
	}
	ctx, cancel := context.WithTimeout(l.ctx, l.config.HandshakeTimeout)
	defer cancel()
	control, err := conn.AcceptStream(ctx)
	if err != nil {
		return refuse(CodeProtocol, "no hello", translate(err))
	}
	s := newSession(conn, control, name, l.config)
	err = s.greet(ctx, l.config.hello())
	if errors.Is(err, ErrVersion) {
		// The peer has our Hello and comes to the same end: let it read that first.
		select {
		case <-ctx.Done():
		case <-conn.Context().Done():
		}
	}
	if err != nil {
		return refuse(codeOf(err), err.Error(), fmt.Errorf("%q: %w", name, err))
	}
	return s, nil
}

// admitSession counts conn against the limit of sessions until it ends.
func (l *Listener) admitSession(conn *quic.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sessions) >= l.config.MaxSessions {
		return false
	}
	l.sessions[conn] = struct{}{}
	context.AfterFunc(conn.Context(), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.sessions, conn)
	})
	return true
}

func (l *Listener) open() []*quic.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	conns := make([]*quic.Conn, 0, len(l.sessions))
	for c := range l.sessions {
		conns = append(conns, c)
	}
	return conns
}
