package transport

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"migrate"
	"migrate/transport/pki"
)

// authority is a certificate authority in a directory of the test.
type authority struct{ dir string }

func newAuthority(t testing.TB) authority {
	t.Helper()
	a := authority{t.TempDir()}
	if err := pki.Init(a.dir, "test-ca"); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a authority) identity(t testing.TB, name string) pki.Identity {
	t.Helper()
	dir := t.TempDir()
	if err := pki.Issue(a.dir, dir, name, []string{"127.0.0.1"}, time.Hour); err != nil {
		t.Fatal(err)
	}
	id, err := pki.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func allow(names ...string) func(string) bool {
	return func(n string) bool {
		for _, a := range names {
			if a == n {
				return true
			}
		}
		return false
	}
}

func listen(t testing.TB, c Config) *Listener {
	t.Helper()
	if testing.Verbose() {
		c.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	l, err := Listen("127.0.0.1:0", c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// pair returns both ends of a session.
func pair(t testing.TB, change func(dialler, listener *Config)) (dialled, accepted *Session) {
	t.Helper()
	ca := newAuthority(t)
	d, a := Config{Identity: ca.identity(t, "source")}, Config{Identity: ca.identity(t, "target"), AllowPeer: allow("source")}
	if change != nil {
		change(&d, &a)
	}
	l := listen(t, a)
	ctx := within(t, 10*time.Second)
	dialled, err := Dial(ctx, l.Addr().String(), "target", d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(CodeNone, "") })
	accepted, err = l.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return dialled, accepted
}

func TestSession(t *testing.T) {
	d, a := pair(t, nil)
	if d.Peer() != "target" || d.PeerHost() != "target" || a.Peer() != "source" || d.Version() != MaxVersion || a.Version() != MaxVersion {
		t.Errorf("peers %q (%q) and %q, versions %d and %d", d.Peer(), d.PeerHost(), a.Peer(), d.Version(), a.Version())
	}
	if d.RemoteAddr().String() != a.LocalAddr().String() && a.LocalAddr().(*net.UDPAddr).Port != d.RemoteAddr().(*net.UDPAddr).Port {
		t.Errorf("addresses %v and %v", d.RemoteAddr(), a.LocalAddr())
	}
	ctx := within(t, 5*time.Second)
	want := ClockPing{Seq: 7, Sent: migrate.ClockReading{Monotonic: 123456789, Boottime: 987654321}}
	for range 3 {
		if err := d.Send(ctx, want); err != nil {
			t.Fatal(err)
		}
		got, err := a.Receive(ctx)
		if err != nil || got != want {
			t.Fatalf("Receive = %v, %v, want %v", got, err, want)
		}
		if err := a.Send(ctx, Commit{}); err != nil {
			t.Fatal(err)
		}
		if got, err := d.Receive(ctx); err != nil || got != (Commit{}) {
			t.Fatalf("Receive = %v, %v, want Commit", got, err)
		}
	}
	if d.BytesSent() == 0 || d.BytesSent() != a.BytesReceived() || a.BytesSent() != d.BytesReceived() {
		t.Errorf("sent %d received %d; back %d and %d", d.BytesSent(), a.BytesReceived(), a.BytesSent(), d.BytesReceived())
	}
}

// A Receive that was interrupted in the middle of a message goes on with it.
func TestReceiveResumes(t *testing.T) {
	d, a := pair(t, nil)
	ctx := within(t, 5*time.Second)
	frame, err := encodeMessage(Cancel{Reason: "changed my mind"})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range [][]byte{frame[:3], frame[3:10], frame[10:]} {
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		if m, err := a.Receive(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Receive = %v, %v, want deadline exceeded", m, err)
		}
		cancel()
		if _, err := d.control.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := a.Receive(ctx); err != nil || m != (Cancel{Reason: "changed my mind"}) {
		t.Fatalf("Receive = %v, %v", m, err)
	}
}

func TestFinishDeliversTheLastMessage(t *testing.T) {
	d, a := pair(t, nil)
	ctx := within(t, 5*time.Second)
	finished := make(chan error, 1)
	go func() {
		err := a.Send(ctx, Finished{})
		finished <- errors.Join(err, a.Finish(ctx))
	}()
	if m, err := d.Receive(ctx); err != nil || m != (Finished{}) {
		t.Fatalf("Receive = %v, %v", m, err)
	}
	if m, err := d.Receive(ctx); err != io.EOF {
		t.Fatalf("Receive = %v, %v, want EOF", m, err)
	}
	d.Close(CodeNone, "")
	if err := <-finished; err != nil {
		t.Errorf("Finish = %v", err)
	}
}

func TestClose(t *testing.T) {
	d, a := pair(t, nil)
	ctx := within(t, 5*time.Second)
	d.Close(CodeCancelled, "operator\x1b[31m said so")
	_, err := a.Receive(ctx)
	var peer *PeerError
	if !errors.As(err, &peer) || peer.Code != CodeCancelled || peer.Reason != "operator?[31m said so" {
		t.Errorf("peer's Receive = %v", err)
	}
	<-a.Context().Done()
	if cause := context.Cause(a.Context()); !errors.Is(cause, ErrCancelled) {
		t.Errorf("peer's cause = %v", cause)
	}
	if err := d.Send(ctx, Commit{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Send after Close = %v", err)
	}
}

func TestPeerBreaksProtocol(t *testing.T) {
	tests := map[string][]byte{
		"unknown type":    {0xee, 0, 0, 0, 0, 2, '{', '}'},
		"flags":           {byte(FrameCommit), 1, 0, 0, 0, 2, '{', '}'},
		"oversized":       {byte(FrameCommit), 0, 0xff, 0xff, 0xff, 0xff},
		"not JSON":        {byte(FrameCommit), 0, 0, 0, 0, 2, '{', '{'},
		"page frame":      {byte(FramePagesStart), 0, 0, 0, 0, 0},
		"bad id":          append([]byte{byte(FramePrepare), 0, 0, 0, 0, 17}, `{"id":"../../up"}`...),
		"trailing object": append([]byte{byte(FrameCommit), 0, 0, 0, 0, 4}, "{}{}"...),
	}
	for name, raw := range tests {
		t.Run(name, func(t *testing.T) {
			d, a := pair(t, nil)
			ctx := within(t, 5*time.Second)
			if _, err := d.control.Write(raw); err != nil {
				t.Fatal(err)
			}
			if m, err := a.Receive(ctx); !errors.Is(err, ErrProtocol) {
				t.Errorf("Receive = %v, %v, want a protocol error", m, err)
			}
			var peer *PeerError
			if _, err := d.Receive(ctx); !errors.As(err, &peer) || peer.Code != CodeProtocol {
				t.Errorf("the peer learns %v, want code protocol", err)
			}
		})
	}
}

func TestPeerDies(t *testing.T) {
	ca := newAuthority(t)
	l := listen(t, Config{Identity: ca.identity(t, "target"), AllowPeer: allow("source")})
	ctx := within(t, 10*time.Second)
	d, err := Dial(ctx, l.Addr().String(), "", Config{Identity: ca.identity(t, "source"), IdleTimeout: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	l.transport.Close() // as a killed process: nothing is said to the peer
	_, err = d.Receive(ctx)
	if !errors.Is(err, ErrLost) {
		t.Errorf("Receive = %v, want %v", err, ErrLost)
	}
	<-d.Context().Done()
	if cause := context.Cause(d.Context()); !errors.Is(cause, ErrLost) {
		t.Errorf("cause = %v", cause)
	}
}

// Keep-alives hold a session in which nobody says anything.
func TestIdleSessionLives(t *testing.T) {
	d, a := pair(t, func(d, a *Config) { d.IdleTimeout, a.IdleTimeout = 400*time.Millisecond, 400*time.Millisecond })
	select {
	case <-d.Context().Done():
		t.Fatal(context.Cause(d.Context()))
	case <-a.Context().Done():
		t.Fatal(context.Cause(a.Context()))
	case <-time.After(1200 * time.Millisecond):
	}
}
