package transport

import (
	"cmp"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"migrate/transport/pki"
)

// alpn is the protocol's name in the TLS handshake (RFC 7301). It changes only
// if the Hello did, which it never does.
const alpn = "migrate/1"

// Config sets up a side. Identity is required, and AllowPeer to be of any use
// as a listener; everything else has a default.
type Config struct {
	Identity  pki.Identity
	AllowPeer func(name string) bool // listener: may the host of this certificate name come in? nil allows nobody

	Host                   string        // this host's name in the Hello; default: the identity's
	MinVersion, MaxVersion uint16        // default: all that the package speaks
	HandshakeTimeout       time.Duration // longest wait for any step before a session is up; default 5 s
	IdleTimeout            time.Duration // silence after which the peer counts as dead; default 6 s, the shorter of both sides holds
	MaxHandshakes          int           // listener: unfinished handshakes at once; default 32
	MaxSessions            int           // listener: sessions at once; default 64
	MaxStreams             int           // page and file streams that the peer may have open at once; default 16
	MaxFileBytes           int64         // all files of one file stream together; default 1 GiB
	Bandwidth              int64         // bytes per second given to the session's streams; 0 is no cap
	Logger                 *slog.Logger  // nil discards
}

func (c Config) withDefaults() Config {
	c.Host = cmp.Or(c.Host, c.Identity.Name)
	c.MinVersion = cmp.Or(c.MinVersion, MinVersion)
	c.MaxVersion = cmp.Or(c.MaxVersion, MaxVersion)
	c.HandshakeTimeout = cmp.Or(c.HandshakeTimeout, 5*time.Second)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 6*time.Second)
	c.MaxHandshakes = cmp.Or(c.MaxHandshakes, 32)
	c.MaxSessions = cmp.Or(c.MaxSessions, 64)
	c.MaxStreams = cmp.Or(c.MaxStreams, 16)
	c.MaxFileBytes = cmp.Or(c.MaxFileBytes, 1<<30)
	if c.AllowPeer == nil {
		c.AllowPeer = func(string) bool { return false }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) hello() hello { return hello{Min: c.MinVersion, Max: c.MaxVersion, Host: c.Host} }

// keepAlive is short against the default idle timeout, so that a single lost
// packet never looks like a dead peer. quic-go lowers it for shorter timeouts.
const keepAlive = 1500 * time.Millisecond

// quicConfig holds the settings of both sides. The windows cover 1 Gbit/s at
// 130 ms round-trip time; before the handshake is over a peer can open no
// stream at all, so they are no way to fill our memory.
func (c Config) quicConfig(bidirectional int64) *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           c.HandshakeTimeout,
		MaxIdleTimeout:                 c.IdleTimeout,
		KeepAlivePeriod:                keepAlive,
		InitialStreamReceiveWindow:     4 << 20,
		MaxStreamReceiveWindow:         16 << 20,
		InitialConnectionReceiveWindow: 8 << 20,
		MaxConnectionReceiveWindow:     32 << 20,
		MaxIncomingStreams:             bidirectional,
		MaxIncomingUniStreams:          int64(c.MaxStreams),
	}
}

// silence stops quic-go from writing to the standard logger when the kernel
// grants it less than 7 MiB of socket buffers: above 1 MiB they gain nothing.
var silence = sync.OnceFunc(func() {
	_ = os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
})
