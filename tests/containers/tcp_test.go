package containers

import (
	"testing"
	"time"

	"migrate/internal/redisload"
	"migrate/internal/testhost"
)

// TestConnections moves redis with fifty clients who count, there and back.
func TestConnections(t *testing.T) {
	l := newLAN(t, testhost.Options{Rate: "1gbit"})
	c := l.redis(t, l.a, "runc", "redis", true, "10.77.0.50/24", "fd77::50/64")
	const address = "10.77.0.50:6379"
	if err := redisload.Fill(t.Context(), l.client.Dial, address, 200_000); err != nil {
		t.Fatal(err)
	}
	clients := count(t, l.client, address, 50)
	clients.check(t)
	clients.gap()
	for _, hop := range [][2]*testhost.Host{{l.a, l.b}, {l.b, l.a}} {
		from, to := hop[0], hop[1]
		r := c.move(t, from, to, "--tcp", "established")
		clients.check(t)
		t.Logf("%s to %s: %d MiB, downtime %v, frozen %v; the longest that any client waited: %v", from.Name, to.Name,
			r.MemoryBytes>>20, time.Duration(r.Downtime), time.Duration(r.FrozenTime), clients.gap())
		traceless(t, from)
		c.exec(t, to, "ls", "/")
	}
}
