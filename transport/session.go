package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// Session is an authenticated connection between two hosts: a control stream
// for messages, and any number of page and file streams in either direction.
//
// Send and the opening and accepting of streams may be called from any
// goroutine; Receive from one at a time.
type Session struct {
	conn         *quic.Conn
	control      *quic.Stream
	peer         string
	peerHost     string
	version      uint16
	maxFileBytes int64
	bucket       *bucket
	ctx          context.Context // ends with the connection

	sent, received atomic.Uint64

	sendMu  sync.Mutex
	sendErr error // a frame was cut off: nothing can follow it
	inbox   frameBuffer
}

func newSession(conn *quic.Conn, control *quic.Stream, peer string, c Config) *Session {
	control.SetPriority(controlUrgency, false)
	ctx, cancel := context.WithCancelCause(context.Background())
	context.AfterFunc(conn.Context(), func() { cancel(translate(context.Cause(conn.Context()))) })
	return &Session{
		conn: conn, control: control, peer: peer,
		maxFileBytes: c.MaxFileBytes, bucket: newBucket(c.Bandwidth), ctx: ctx,
	}
}

// controlUrgency puts messages before pages and files (3, the default) when
// packets are filled; lower goes first (RFC 9218, section 4.1).
const controlUrgency = 0

// greet exchanges Hellos and settles the version.
func (s *Session) greet(ctx context.Context, ours hello) error {
	err := interruptible(ctx, s.control.SetWriteDeadline, func() error {
		_, err := s.control.Write(ours.appendTo(nil))
		return err
	})
	if err != nil {
		return fmt.Errorf("sending hello: %w", err)
	}
	var theirs hello
	err = interruptible(ctx, s.control.SetReadDeadline, func() (err error) {
		theirs, err = readHello(s.control)
		return err
	})
	if err != nil {
		return fmt.Errorf("waiting for the peer's hello: %w", err)
	}
	s.peerHost = theirs.Host
	s.version, err = common(ours, theirs)
	return err
}

// Peer returns the name in the peer's certificate.
func (s *Session) Peer() string { return s.peer }

// PeerHost returns what the peer's Hello calls its host. Unlike Peer, nobody
// vouches for it.
func (s *Session) PeerHost() string { return s.peerHost }

// Version returns the protocol version that both sides speak.
func (s *Session) Version() uint16 { return s.version }

// LocalAddr returns this side's address.
func (s *Session) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// RemoteAddr returns the peer's address.
func (s *Session) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// Context returns a context that ends with the connection; its cause says why:
// an error of this package.
func (s *Session) Context() context.Context { return s.ctx }

// BytesSent returns the bytes given to the session's streams so far, frame
// headers included.
func (s *Session) BytesSent() uint64 { return s.sent.Load() }

// BytesReceived returns the bytes taken from the session's streams so far.
func (s *Session) BytesReceived() uint64 { return s.received.Load() }

// SetBandwidth caps what the session's streams send, in bytes per second; 0
// lifts the cap. It takes effect at once. Messages count, but are not delayed.
func (s *Session) SetBandwidth(bytesPerSecond int64) { s.bucket.set(bytesPerSecond) }

// Close ends the session at once and tells the peer why. Data on their way in
// either direction are lost: see [Session.Finish].
func (s *Session) Close(c Code, reason string) error {
	return s.conn.CloseWithError(quic.ApplicationErrorCode(c), reason)
}

// Finish ends a session whose last message must arrive: it tells the peer that
// no more messages come (its Receive returns io.EOF, upon which it closes),
// waits for that until ctx ends, and closes.
func (s *Session) Finish(ctx context.Context) error {
	s.sendMu.Lock()
	err := s.control.Close()
	s.sendMu.Unlock()
	if err != nil {
		return translate(err)
	}
	select {
	case <-s.ctx.Done():
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return errors.Join(err, s.Close(CodeNone, ""))
}

// Send sends a message. When it returns the message is on its way, not
// necessarily received. If ctx ends with the message half sent, the control
// stream is lost and every later Send fails. A message that the peer is too old
// for is an [*OldPeerError], and nothing is sent.
func (s *Session) Send(ctx context.Context, m Message) error {
	if !m.FrameType().spoken(s.version) {
		return &OldPeerError{Peer: s.peer, Frame: m.FrameType(), Version: s.version}
	}
	frame, err := encodeMessage(m)
	if err != nil {
		return err
	}
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	if s.sendErr != nil {
		return s.sendErr
	}
	s.bucket.debit(len(frame))
	var n int
	err = interruptible(ctx, s.control.SetWriteDeadline, func() (err error) {
		n, err = s.control.Write(frame)
		return err
	})
	s.sent.Add(uint64(n))
	if err != nil {
		err = fmt.Errorf("sending %v: %w", m.FrameType(), err)
		if n > 0 {
			s.sendErr = err
		}
	}
	return err
}

// Receive returns the peer's next message. Interrupted by ctx it loses
// nothing: the next call goes on. It returns io.EOF after the last message of
// a peer that called Finish, and ends the session if the peer broke the
// protocol.
func (s *Session) Receive(ctx context.Context) (Message, error) {
	var m Message
	err := interruptible(ctx, s.control.SetReadDeadline, func() error {
		f, err := s.inbox.next(countingReader{s.control, &s.received})
		if err != nil {
			return err
		}
		m, err = decodeMessage(s.version, FrameType(f[0]), f[headerLen:])
		return err
	})
	if errors.Is(err, ErrProtocol) {
		s.Close(CodeProtocol, err.Error())
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("receiving: %w", err)
	}
	return m, err
}

// countingReader adds what it reads to a session's counter.
type countingReader struct {
	r io.Reader
	n *atomic.Uint64
}

// Read reads and counts.
func (c countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(uint64(n))
	return n, err
}

// interruptible runs op, a read or write of a stream, until it ends or ctx
// does, and makes its error one of this package or ctx's cause.
func interruptible(ctx context.Context, setDeadline func(time.Time) error, op func() error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = setDeadline(time.Unix(1, 0)) // quic-go has no error to return
	})
	err := op()
	if !stop() {
		<-interrupted
		_ = setDeadline(time.Time{})
	}
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, ErrProtocol):
		return err
	case ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded):
		return context.Cause(ctx)
	}
	return translate(err)
}
