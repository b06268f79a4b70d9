package containers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate"
	"migrate/internal/redisload"
	"migrate/internal/testhost"
)

// TestConnections moves redis with fifty clients who count, there and back: no
// connection breaks, no number is missing or comes twice. It runs by itself, as it tells
// how long they waited.
func TestConnections(t *testing.T) {
	l := newLAN(t, testhost.Options{Rate: "1gbit"}, "br0")
	c := l.redis(t, l.a, "runc", "redis", true, "10.77.0.50/24", "fd77::50/64")
	const address = "10.77.0.50:6379"
	if err := redisload.Fill(t.Context(), l.client.Dial, address, 200_000); err != nil {
		t.Fatal(err)
	}
	clients := count(t, l.client, address, 50, 0)
	for _, hop := range [][2]*testhost.Host{{l.a, l.b}, {l.b, l.a}} {
		clients.hop(t, c, hop[0], hop[1])
		_, pid := c.state(hop[1])
		if got, want := offsets(c.exec(t, hop[1], "cat", "/proc/self/timens_offsets")), offsets(hop[1].Run(t, "cat", procFile(pid, "timens_offsets"))); got != want {
			t.Errorf("exec'd with clock offsets %s, the container has %s", got, want)
		}
	}
	clients.stop(t)
	c.remove(l.a)
	await(t, "the name of the namespace goes with the container", func() bool { return l.a.Run(t, "ls", "/run/netns") == "" })
}

// hop moves what the clients are connected to and demands that they notice nothing but
// a pause.
func (c *counters) hop(t *testing.T, redis container, from, to *testhost.Host, flags ...string) {
	t.Helper()
	c.check(t)
	c.gap()
	r := redis.move(t, from, to, append([]string{"--tcp", "established"}, flags...)...)
	c.check(t)
	t.Logf("%s to %s: %d MiB, downtime %v, frozen %v; the longest that any client waited: %v", from.Name, to.Name,
		r.MemoryBytes>>20, time.Duration(r.Downtime), time.Duration(r.FrozenTime), c.gap())
	for _, p := range r.Phases {
		t.Logf("  %s: %v", p.Name, time.Duration(p.Duration))
	}
	traceless(t, from)
}

// TestConnectionsElsewhere has the other runtime, a namespace without a name, IPv6, and
// another name for the bridge, to which the way back leads too.
func TestConnectionsElsewhere(t *testing.T) {
	t.Parallel()
	l := newLAN(t, testhost.Options{}, "lan0")
	c := l.redis(t, l.a, "crun", "six", false, "10.77.0.50/24", "fd77::50/64")
	clients := count(t, l.client, "[fd77::50]:6379", 10, restful)
	r, _, err := c.tryMove(l.a, l.b, "--tcp", "established")
	if err == nil || len(r.Blockers) != 1 || r.Blockers[0].Code != "network-bridge" || !strings.Contains(r.Blockers[0].Advice, "--map-bridge br0=NAME") {
		t.Errorf("without a mapping: %v, %+v", err, r.Blockers)
	}
	clients.hop(t, c, l.a, l.b, "--map-bridge", "br0=lan0")
	clients.hop(t, c, l.b, l.a, "--map-bridge", "lan0=br0")
	clients.hop(t, c, l.a, l.b, "--map-bridge", "br0=lan0")
	clients.stop(t)
	c.remove(l.b)
	traceless(t, l.b)
}

// TestDatagrams moves a server that is asked over UDP, and over TCP by one client
// after the other, on a macvlan: its address goes with it though nothing is connected.
func TestDatagrams(t *testing.T) {
	t.Parallel()
	l := newLAN(t, testhost.Options{}, "br0")
	l.a.Run(t, "sh", "-c", `ip netns add udp && ip link add link br0 name eth0 netns udp address 02:77:00:00:00:51 type macvlan mode bridge &&
		ip -n udp link set lo up && ip -n udp link set eth0 up && ip -n udp addr add 10.77.0.51/24 dev eth0 && ip -n udp route add default via 10.77.0.3`)
	c := load(t, l.a, "runc", "udp", func(s *specs.Spec) { inNetwork(s, "/run/netns/udp") }, "--memory", "8")
	conn, err := l.client.Dial(t.Context(), "udp", "10.77.0.51:7001")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	echo(t, conn)
	for _, hop := range [][2]*testhost.Host{{l.a, l.b}, {l.b, l.a}} {
		from, to := hop[0], hop[1]
		c.move(t, from, to)
		traceless(t, from)
		echo(t, conn)
		c.verify(t, to)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		tcp, err := l.client.Dial(ctx, "tcp", "10.77.0.51:7001")
		cancel()
		if err != nil {
			t.Fatalf("a new client of %s: %v", to.Name, err)
		}
		tcp.Close()
		if got := to.Run(t, "ip", "-n", "udp", "route", "show", "default"); !strings.Contains(got, "via 10.77.0.3") {
			t.Errorf("routes on %s: %q", to.Name, got)
		}
	}
	c.remove(l.a)
	traceless(t, l.a)
}

// echo sends datagrams until one comes back.
func echo(t *testing.T, conn net.Conn) {
	t.Helper()
	b := make([]byte, 64)
	await(t, "a datagram comes back", func() bool {
		conn.SetDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := conn.Write([]byte("ping")); err != nil {
			return false
		}
		n, err := conn.Read(b)
		return err == nil && string(b[:n]) == "ping"
	})
}

// TestConnectionsRefused demands that what cannot move is named before anything is
// touched.
func TestConnectionsRefused(t *testing.T) {
	t.Parallel()
	l := newLAN(t, testhost.Options{}, "br0")
	c := l.redis(t, l.a, "runc", "named", true, "10.77.0.50/24")
	clients := count(t, l.client, "10.77.0.50:6379", 2, restful)
	blocked := func(c container, code, what string, flags ...string) {
		t.Helper()
		r, stderr, err := c.tryMove(l.a, l.b, flags...)
		if err == nil || !slices.ContainsFunc(r.Blockers, func(b migrate.Finding) bool { return b.Code == code && strings.Contains(b.What, what) }) {
			t.Errorf("want %s (%s): %v, %+v\n%s", code, what, err, r.Blockers, stderr)
		}
	}
	blocked(c, "tcp-connected", "10.77.0.50:6379")
	l.b.Run(t, "ip", "netns", "add", "named")
	blocked(c, "network-name", "/run/netns/named", "--tcp", "established")
	l.b.Run(t, "ip", "netns", "delete", "named")
	l.b.Run(t, "ip", "addr", "add", "10.77.0.50/32", "dev", "br0")
	blocked(c, "network-address", "10.77.0.50", "--tcp", "established")
	l.b.Run(t, "ip", "addr", "del", "10.77.0.50/32", "dev", "br0")
	l.a.Run(t, "ip", "-n", "named", "tuntap", "add", "tun7", "mode", "tun")
	blocked(c, "network-link", "tun7", "--tcp", "established")
	l.a.Run(t, "ip", "-n", "named", "link", "delete", "tun7")
	other, err := l.a.Start(t.Context(), "nsenter", "--net=/run/netns/named", "sleep", "600")
	if err != nil {
		t.Fatal(err)
	}
	await(t, "it is in the namespace", func() bool {
		return l.a.Run(t, "readlink", procFile(other, "ns/net")) != l.a.Run(t, "readlink", "/proc/1/ns/net")
	})
	blocked(c, "network-shared", "sleep", "--tcp", "established")
	l.a.Run(t, "kill", itoa(other))
	host := load(t, l.a, "runc", "host", func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	}, "--memory", "8")
	blocked(host, "tcp-established", "the network of its host", "--tcp", "established")
	host.remove(l.a)
	clients.hop(t, c, l.a, l.b)
}

// TestStream moves a server that sends without being asked, to a client that only reads.
// Nothing of the stream is missing, and it does not wait for a time-out of TCP's once the
// server runs again.
func TestStream(t *testing.T) {
	t.Parallel()
	l := newLAN(t, testhost.Options{}, "br0")
	l.a.Run(t, "ip", "netns", "add", "stream")
	l.attach(t, l.a, "stream", "veth-stream", "10.77.0.52/24")
	c := start(t, l.a, "runc", "stream", func(s *specs.Spec) { inNetwork(s, "/run/netns/stream") },
		"busybox", "nc", "-ll", "-p", "7000", "-e", "sh", "-c", "n=0; while :; do n=$((n+1)); echo $n; done")
	var conn net.Conn
	await(t, "it listens", func() (up bool) {
		var err error
		conn, err = l.client.Dial(t.Context(), "tcp", "10.77.0.52:7000")
		return err == nil
	})
	s := &stream{}
	done := make(chan error, 1)
	go func() { done <- s.read(conn) }()
	for _, hop := range [][2]*testhost.Host{{l.a, l.b}, {l.b, l.a}} {
		n := s.lines.Load()
		await(t, "the stream goes on", func() bool { return s.lines.Load() > n+1000 })
		s.longest.Store(0)
		r := c.move(t, hop[0], hop[1], "--tcp", "established")
		n = s.lines.Load()
		await(t, "the stream goes on", func() bool { return s.lines.Load() > n+1000 })
		gap, downtime := time.Duration(s.longest.Load()), time.Duration(r.Downtime)
		t.Logf("downtime %v, the client waited %v", downtime, gap)
		if gap > downtime+500*time.Millisecond {
			t.Errorf("the stream stopped for %v, of which the server was stopped for %v", gap, downtime)
		}
	}
	conn.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	c.remove(l.a)
}

// A stream is one of lines that count.
type stream struct {
	lines, longest atomic.Int64 // longest in nanoseconds
}

func (s *stream) read(conn net.Conn) error {
	r := bufio.NewScanner(conn)
	for n, last := 1, time.Now(); r.Scan(); n++ {
		if r.Text() != itoa(n) {
			return fmt.Errorf("line %d is %q", n, r.Text())
		}
		s.lines.Store(int64(n))
		now := time.Now()
		s.longest.Store(max(s.longest.Load(), int64(now.Sub(last))))
		last = now
	}
	if r.Err() == nil {
		return io.EOF
	}
	return r.Err()
}
