package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"migrate/transport/pki"
)

// A wire is a UDP path to a listener that a test can cut.
type wire struct {
	front *net.UDPConn // for the dialling side
	cut   atomic.Bool
}

func newWire(t *testing.T, to net.Addr) *wire {
	t.Helper()
	loopback := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	front, err := net.ListenUDP("udp4", loopback)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { front.Close() })
	w := &wire{front: front}
	back, err := net.DialUDP("udp4", nil, to.(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { back.Close() })
	var dialler atomic.Pointer[net.UDPAddr]
	go w.copy(func(b []byte) (int, error) {
		n, from, err := front.ReadFromUDP(b)
		dialler.Store(from)
		return n, err
	}, func(b []byte) { back.Write(b) })
	go w.copy(back.Read, func(b []byte) { front.WriteToUDP(b, dialler.Load()) })
	return w
}

func (w *wire) copy(read func([]byte) (int, error), write func([]byte)) {
	for b := make([]byte, 64<<10); ; {
		n, err := read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && !w.cut.Load() {
			write(b[:n])
		}
	}
}

// A cut link is worth dialling again, on both sides, whatever they were doing;
// once it is back a new session takes up where the old one ended.
func TestCutLinkIsBroken(t *testing.T) {
	ca := newAuthority(t)
	const idle = 700 * time.Millisecond
	l := listen(t, Config{Identity: ca.identity(t, "target"), AllowPeer: allow("source"), IdleTimeout: idle})
	source := Config{Identity: ca.identity(t, "source"), IdleTimeout: idle, HandshakeTimeout: idle}
	w := newWire(t, l.Addr())
	ctx := within(t, 20*time.Second)
	d, err := Dial(ctx, w.front.LocalAddr().String(), "target", source)
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sending := make(chan error, 1)
	go func() {
		_, err := sendRound(ctx, d, 2, 1000, 64)
		sending <- err
	}()
	reading := make(chan error, 1)
	var q Sequencer
	go func() {
		_, err := receiveRound(ctx, a, &q, 2, func(*Batch) error { return nil }, func(int) time.Duration { return time.Millisecond })
		reading <- err
	}()
	for q.Done() < 10 {
		time.Sleep(time.Millisecond)
	}
	w.cut.Store(true)
	_, receiveErr := d.Receive(ctx)
	for _, s := range []*Session{d, a} { // streams may learn of it first
		select {
		case <-s.Context().Done():
		case <-ctx.Done():
			t.Fatal("a session goes on over a link that is cut")
		}
	}
	for name, err := range map[string]error{
		"sender": <-sending, "reader": <-reading, "Receive": receiveErr,
		"source's session": context.Cause(d.Context()), "target's session": context.Cause(a.Context()),
	} {
		if !Broken(err) {
			t.Errorf("%s: Broken(%v) = false", name, err)
		}
	}
	if _, err := Dial(ctx, w.front.LocalAddr().String(), "target", source); !Broken(err) {
		t.Errorf("Broken(%v) = false while the link is cut", err)
	}
	w.cut.Store(false)
	d, err = Dial(ctx, w.front.LocalAddr().String(), "target", source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(CodeNone, "") })
	resume := Resume{ID: "0123456789abcdef"}
	if err := d.Send(ctx, resume); err != nil {
		t.Fatal(err)
	}
	if a, err = l.Accept(ctx); err != nil {
		t.Fatal(err)
	}
	if m, err := a.Receive(ctx); err != nil || m != resume {
		t.Errorf("Receive = %v, %v", m, err)
	}
}

// A network that is gone is told by the kernel at once.
func TestClosedPortIsBroken(t *testing.T) {
	gone := &net.OpError{Op: "write", Net: "udp", Err: errors.New("network is unreachable")}
	for err, want := range map[error]bool{
		translate(gone):                       true,
		fmt.Errorf("sending: %w", ErrLost):    true,
		fmt.Errorf("dialling x: %w", ErrLost): true,
		ErrUnreachable:                        true,
		fmt.Errorf("%w: %w", ErrUnreachable, alertNoApplicationProtocol): false,
		&PeerError{Code: CodeCancelled}:                                  false,
		&PeerError{Code: CodeNotAllowed}:                                 false,
		&PeerError{Code: CodeShutdown}:                                   false,
		&PeerError{Code: CodeNone}:                                       false,
		&AbortError{}:                                                    false,
		&VersionError{}:                                                  false,
		ErrProtocol:                                                      false,
		ErrClosed:                                                        false,
		ErrOurCertificate:                                                false,
		pki.ErrUnknownAuthority:                                          false,
		context.Canceled:                                                 false,
		context.DeadlineExceeded:                                         false,
		errors.New("something else"):                                     false,
	} {
		if Broken(err) != want {
			t.Errorf("Broken(%v) = %v", err, !want)
		}
	}
	if Broken(nil) {
		t.Error("Broken(nil)")
	}
}

// What the peer says ends a session for good.
func TestPeerEndsSessionIsNotBroken(t *testing.T) {
	for _, code := range []Code{CodeNone, CodeProtocol, CodeCancelled, CodeShutdown, CodeInternal} {
		d, a := pair(t, nil)
		a.Close(code, "enough")
		if _, err := d.Receive(within(t, 5*time.Second)); err == nil || Broken(err) {
			t.Errorf("%v: Broken(%v)", code, err)
		}
		<-d.Context().Done()
		if err := context.Cause(d.Context()); Broken(err) {
			t.Errorf("%v: Broken(%v)", code, err)
		}
		if err := d.Send(within(t, 5*time.Second), Commit{}); err == nil || Broken(err) {
			t.Errorf("%v: Broken(%v)", code, err)
		}
	}
}
