package programs

import (
	"testing"

	"migrate/internal/redisload"
	"migrate/internal/testhost"
)

// TestRedis moves a server that is written to all the time: every write that
// was acknowledged is there, and every record whole.
func TestRedis(t *testing.T) {
	const keys = 50_000
	s := newSite(t)
	pid := s.start(t, program(t, "/usr/bin/redis-server"), "--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no",
		"--save", "", "--appendonly", "no", "--dir", s.dir)
	at := func(h *testhost.Host) string { return h.Address() + ":6379" }
	if err := redisload.Fill(t.Context(), s.c.Dial, at(s.a), keys); err != nil {
		t.Fatal(err)
	}
	client := redisload.Start(redisload.Options{Dial: s.c.Dial, Addresses: []string{at(s.a), at(s.b)}, Keys: keys, Rate: 2000})
	defer client.Close() // told of by Check
	for _, hop := range [][2]*testhost.Host{{s.a, s.b}, {s.b, s.a}} {
		client.Reset()
		move(t, hop[0], pid, hop[1])
		await(t, "the client finds the server again", func() bool { return client.Gaps().Switch > 0 })
		t.Logf("the client saw %+v", client.Gaps())
		if err := client.Check(t.Context(), at(hop[1])); err != nil {
			t.Error(err)
		}
	}
}
