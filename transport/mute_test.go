package transport

import (
	"net"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

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
