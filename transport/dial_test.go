package transport

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"migrate/transport/pki"
)

// Every way in which a session does not come about is one clear error.
func TestDialRefused(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	good := Config{Identity: ours.identity(t, "target"), AllowPeer: allow("source")}
	source := Config{Identity: ours.identity(t, "source")}
	tests := []struct {
		name     string
		peer     string
		dialler  Config
		listener func(c *Config)
		want     error
		what     string
	}{
		{name: "not allowed", dialler: Config{Identity: ours.identity(t, "stranger")}, want: ErrNotAllowed, what: "the peer does not allow this host"},
		{name: "nobody allowed", dialler: source, listener: func(c *Config) { c.AllowPeer = nil }, want: ErrNotAllowed, what: "the peer does not allow this host"},
		{
			name: "both of other authorities", dialler: Config{Identity: other.identity(t, "source")},
			want: pki.ErrUnknownAuthority, what: "the peer's certificate is not from an authority this host trusts",
		},
		{
			name:    "ours is not trusted there",
			dialler: Config{Identity: pki.Identity{Name: "source", Certificate: other.identity(t, "source").Certificate, Roots: source.Identity.Roots}},
			want:    ErrOurCertificate, what: "the peer does not accept this host's certificate",
		},
		{name: "another host answers", peer: "elsewhere", dialler: source, want: pki.ErrWrongName, what: "the peer's certificate is for another host"},
		{name: "newer", dialler: Config{Identity: source.Identity, MinVersion: MaxVersion + 1, MaxVersion: MaxVersion + 2}, want: ErrVersion, what: "no protocol version that both hosts speak"},
		{name: "older", dialler: source, listener: func(c *Config) { c.MinVersion, c.MaxVersion = 5, 9 }, want: ErrVersion, what: "no protocol version that both hosts speak"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := good
			if tt.listener != nil {
				tt.listener(&c)
			}
			l := listen(t, c)
			_, err := Dial(within(t, 8*time.Second), l.Addr().String(), tt.peer, tt.dialler)
			if !errors.Is(err, tt.want) {
				t.Fatalf("Dial = %v, want %v", err, tt.want)
			}
			f := Failure(err)
			if f.What != tt.what || f.Cause == "" || f.Advice == "" {
				t.Errorf("Failure = %+v, want %q", f, tt.what)
			}
			t.Logf("%+v", f)
			if s, err := l.Accept(within(t, 50*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Accept = %v, %v", s, err)
			}
		})
	}
}

func TestDialVersionErrorHasBothRanges(t *testing.T) {
	ca := newAuthority(t)
	l := listen(t, Config{Identity: ca.identity(t, "target"), AllowPeer: allow("source"), MinVersion: 1, MaxVersion: 4})
	_, err := Dial(within(t, 5*time.Second), l.Addr().String(), "", Config{Identity: ca.identity(t, "source"), MinVersion: 7, MaxVersion: 7})
	var v *VersionError
	if !errors.As(err, &v) || *v != (VersionError{OurMin: 7, OurMax: 7, TheirMin: 1, TheirMax: 4}) {
		t.Errorf("Dial = %v", err)
	}
}

func TestHighestCommonVersion(t *testing.T) {
	d, a := pair(t, func(d, a *Config) { d.MinVersion, d.MaxVersion, a.MinVersion, a.MaxVersion = 1, 9, 3, 5 })
	if d.Version() != 5 || a.Version() != 5 {
		t.Errorf("versions %d and %d, want 5", d.Version(), a.Version())
	}
}

func TestDialNobodyThere(t *testing.T) {
	silent, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	source := Config{Identity: newAuthority(t).identity(t, "source"), HandshakeTimeout: 300 * time.Millisecond}
	for name, addr := range map[string]string{
		"silent": silent.LocalAddr().String(), "no such name": "host.invalid:7420", "no port": "127.0.0.1",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Dial(within(t, 5*time.Second), addr, "", source)
			if !errors.Is(err, ErrUnreachable) || Failure(err).What != "no agent answers" {
				t.Errorf("Dial = %v", err)
			}
		})
	}
	t.Run("mute", func(t *testing.T) {
		ca := newAuthority(t)
		server := ca.identity(t, "target").Server()
		server.NextProtos = []string{alpn}
		l, err := quic.ListenAddr("127.0.0.1:0", server, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c := Config{Identity: ca.identity(t, "source"), HandshakeTimeout: 300 * time.Millisecond}
		if _, err := Dial(within(t, 5*time.Second), l.Addr().String(), "", c); !errors.Is(err, ErrUnreachable) {
			t.Errorf("Dial = %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("the operator left")
		cancel(cause)
		if _, err := Dial(ctx, silent.LocalAddr().String(), "", source); !errors.Is(err, cause) || errors.Is(err, ErrUnreachable) {
			t.Errorf("Dial = %v", err)
		}
	})
}

// A peer that stops after the TLS handshake, and one that never goes that far,
// hold up nobody else.
func TestSlowPeersBlockNobody(t *testing.T) {
	ca := newAuthority(t)
	l := listen(t, Config{Identity: ca.identity(t, "target"), AllowPeer: allow("source")})
	source := Config{Identity: ca.identity(t, "source")}
	for range 3 {
		mute(t, l.Addr(), source)
	}
	ctx := within(t, 3*time.Second)
	d, err := Dial(ctx, l.Addr().String(), "target", source)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close(CodeNone, "")
	if _, err := l.Accept(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestSessionLimit(t *testing.T) {
	ca := newAuthority(t)
	l := listen(t, Config{Identity: ca.identity(t, "target"), AllowPeer: allow("source"), MaxSessions: 1})
	source := Config{Identity: ca.identity(t, "source")}
	ctx := within(t, 5*time.Second)
	first, err := Dial(ctx, l.Addr().String(), "", source)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(ctx, l.Addr().String(), "", source); !errors.Is(err, ErrBusy) {
		t.Fatalf("second Dial = %v, want %v", err, ErrBusy)
	}
	a, err := l.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	first.Close(CodeNone, "")
	<-a.Context().Done()
	third, err := Dial(ctx, l.Addr().String(), "", source)
	for errors.Is(err, ErrBusy) && ctx.Err() == nil { // the listener hears of it at the same time as a does
		third, err = Dial(ctx, l.Addr().String(), "", source)
	}
	if err != nil {
		t.Fatalf("Dial after the first session ended = %v", err)
	}
	third.Close(CodeNone, "")
}

func TestListenerCloseTellsPeers(t *testing.T) {
	ca := newAuthority(t)
	l := listen(t, Config{Identity: ca.identity(t, "target"), AllowPeer: allow("source")})
	ctx := within(t, 5*time.Second)
	d, err := Dial(ctx, l.Addr().String(), "", Config{Identity: ca.identity(t, "source")})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	if _, err := d.Receive(ctx); !errors.Is(err, ErrShutdown) {
		t.Errorf("Receive = %v, want %v", err, ErrShutdown)
	}
	if _, err := l.Accept(ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("Accept = %v, want %v", err, ErrClosed)
	}
}

// Handshakes under way are counted, told apart from sessions, and forgotten
// when they fail. Above half the limit a peer must first prove its address.
func TestHandshakeLimit(t *testing.T) {
	ca := newAuthority(t)
	l := listen(t, Config{Identity: ca.identity(t, "target"), AllowPeer: allow("source"), MaxHandshakes: 4})
	source := Config{Identity: ca.identity(t, "source")}
	ctx := within(t, 5*time.Second)
	settled := func(want int64) {
		t.Helper()
		for l.pending.Load() != want {
			select {
			case <-ctx.Done():
				t.Fatalf("%d handshakes pending, want %d", l.pending.Load(), want)
			case <-time.After(time.Millisecond):
			}
		}
	}
	stranger := Config{Identity: newAuthority(t).identity(t, "source")}
	if _, err := Dial(ctx, l.Addr().String(), "", stranger); !errors.Is(err, pki.ErrUnknownAuthority) {
		t.Errorf("Dial of a stranger = %v", err)
	}
	settled(0)
	l.pending.Store(3)
	s, err := Dial(ctx, l.Addr().String(), "", source)
	if err != nil {
		t.Fatal(err)
	}
	settled(3)
	s.Close(CodeNone, "")
	l.pending.Store(4)
	if _, err := Dial(ctx, l.Addr().String(), "", source); !errors.Is(err, ErrBusy) {
		t.Errorf("Dial at the limit = %v, want %v", err, ErrBusy)
	}
	settled(4)
}

// mute makes a peer that finishes the TLS handshake and then says nothing.
func mute(t testing.TB, addr net.Addr, c Config) *quic.Conn {
	t.Helper()
	c = c.withDefaults()
	tlsConfig := c.Identity.Client("")
	tlsConfig.NextProtos = []string{alpn}
	conn, err := quic.DialAddr(within(t, 5*time.Second), addr.String(), tlsConfig, c.quicConfig(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseWithError(0, "") })
	return conn
}
