package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrate"
)

// Nothing comes out of a locked namespace, whatever is sent to it: no reset, no answer
// to a question for an address, no echo. What is inside cannot talk to itself either.
func TestLockedIsSilent(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	w := workload(t, n.a, bridgeA, "10.77.0.50/24", "fd77::50/64")
	serve(t, w, "a")
	inside := newAsker(t, w, "127.0.0.1")
	for _, address := range []string{"10.77.0.50", "fd77::50"} {
		if got := newAsker(t, n.client, address).ask(t, patience); got != "a" {
			t.Fatalf("before the lock %q answers at %s", got, address)
		}
	}
	id := migrate.NewID()
	must(t, Lock(w, id))
	must(t, Lock(w, id))
	seen := newCapture(t, w, "eth0")

	heard := listen(t, w, "10.77.0.50:4446")
	provoke(t, n.client)
	must(t, w.Do(func() error { // what the kernel would send for the workload
		c, err := net.Dial("udp", "10.77.0.9:9")
		if err == nil {
			c.Write([]byte("leak"))
			c.Close()
		}
		return nil
	}))
	if got := inside.ask(t, silence); got != "" {
		t.Errorf("locked, %q answers over lo", got)
	}
	seen.await(t, "segment from the client", func(p packet) bool { return !p.out && isTCP(p) })
	seen.await(t, "question for an address", func(p packet) bool { return !p.out && p.isARP() })
	seen.await(t, "datagram for the listener", func(p packet) bool { return !p.out && isUDP(p) && destinationPort(p) == 4446 })
	heard.SetReadDeadline(time.Now().Add(silence))
	if n, from, err := heard.ReadFrom(make([]byte, 64)); err == nil {
		t.Errorf("%d bytes from %v came into a locked namespace", n, from)
	}
	if out := seen.all(func(p packet) bool { return p.out }); len(out) > 0 {
		t.Errorf("%d frames leaked out of a locked namespace, the first: % x", len(out), out[0].bytes)
	}

	must(t, Unlock(w, id))
	must(t, Unlock(w, id))
	if got := newAsker(t, n.client, "10.77.0.50").ask(t, patience); got != "a" {
		t.Errorf("unlocked again, %q answers", got)
	}
	if got := tables(t, w); got != "" {
		t.Errorf("unlocking left %s", got)
	}
}

// provoke sends a workload what a kernel without a socket for it refuses loudly.
func provoke(t *testing.T, client *Namespace) {
	t.Helper()
	ip(t, client, "neigh flush dev eth0") // asks for the addresses anew
	for _, address := range []string{"10.77.0.50", "fd77::50"} {
		must(t, client.Do(func() error {
			if c, err := net.Dial("udp", net.JoinHostPort(address, "4444")); err == nil { // nobody listens
				c.Write([]byte("?"))
				c.Close()
			}
			return nil
		}))
		err := client.Do(func() error {
			d := net.Dialer{Timeout: silence}
			c, err := d.DialContext(context.Background(), "tcp", net.JoinHostPort(address, "4444"))
			if err == nil {
				c.Close()
			}
			return err
		})
		if !errors.Is(err, os.ErrDeadlineExceeded) && !isTimeout(err) {
			t.Errorf("connecting to a locked %s: %v, want no answer at all", address, err)
		}
	}
	// A segment of a connection, with the address known, as of a client that goes on talking.
	ip(t, client, "neigh replace 10.77.0.50 lladdr 02:77:00:00:00:50 dev eth0 nud permanent",
		"neigh replace fd77::50 lladdr 02:77:00:00:00:50 dev eth0 nud permanent")
	must(t, client.Do(func() error {
		c, err := (&net.Dialer{Timeout: silence}).Dial("tcp", "10.77.0.50:4445")
		if err == nil {
			c.Close()
		}
		return nil
	}))
	must(t, client.Do(func() error {
		c, err := net.Dial("udp", "10.77.0.50:4446")
		if err == nil {
			c.Write([]byte("leak"))
			c.Close()
		}
		return err
	}))
	ip(t, client, "neigh del 10.77.0.50 dev eth0", "neigh del fd77::50 dev eth0")
}

func listen(t *testing.T, ns *Namespace, address string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	must(t, ns.Do(func() (err error) {
		c, err = net.ListenPacket("udp", address)
		return err
	}))
	t.Cleanup(func() { c.Close() })
	return c
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func isTCP(p packet) bool { return p.carries(unix.IPPROTO_TCP) }
func isUDP(p packet) bool { return p.carries(unix.IPPROTO_UDP) }

func (p packet) carries(protocol byte) bool {
	return p.kind() == unix.ETH_P_IP && p.body()[9] == protocol || p.kind() == unix.ETH_P_IPV6 && p.body()[6] == protocol
}

func tables(t *testing.T, ns *Namespace) string {
	t.Helper()
	return strings.TrimSpace(run(t, ns, "", "nft", "list", "tables"))
}

// CRIU brings half-closed connections into their state by packets over lo, with a mark
// of its own.
func TestLockLetsCRIUPass(t *testing.T) {
	t.Parallel()
	w := scratch(t)
	ip(t, w, "link set lo up")
	serve(t, w, "lo")
	must(t, Lock(w, migrate.NewID()))
	asked := newAsker(t, w, "127.0.0.1")
	heard := newCapture(t, w, "lo")
	raw, err := asked.Conn.(*net.UDPConn).SyscallConn()
	must(t, err)
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, criuMark) })
	must(t, err)
	asked.Write([]byte("?"))
	heard.await(t, "packet with CRIU's mark", func(p packet) bool { return !p.out && p.kind() == unix.ETH_P_IP })
}

// Of a namespace that is shared, only the given connections are locked: their peer
// gets neither data nor a reset, others go on.
func TestLockConnections(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"10.77.0.50", "fd77::50"} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			n := newLAN(t)
			host := workload(t, n.a, bridgeA, "10.77.0.50/24", "fd77::50/64")
			locked, free := connect(t, host, n.client, address), connect(t, host, n.client, address)
			id := migrate.NewID()
			must(t, LockConnections(host, id, []Connection{{
				Local:  locked.server.LocalAddr().(*net.TCPAddr).AddrPort(),
				Remote: locked.server.RemoteAddr().(*net.TCPAddr).AddrPort(),
			}}))
			seen := newCapture(t, host, "eth0")
			locked.client.Write([]byte("ping"))
			locked.server.Write([]byte("pong"))
			abandon(t, locked.server) // as the end of the frozen process: it would send a reset
			seen.await(t, "segment of the locked connection", func(p packet) bool { return !p.out && isTCP(p) })
			if err := free.echo(); err != nil {
				t.Errorf("a connection that is not locked: %v", err)
			}
			port := uint16(locked.client.LocalAddr().(*net.TCPAddr).Port)
			if out := seen.all(func(p packet) bool { return p.out && isTCP(p) && destinationPort(p) == port }); len(out) > 0 {
				t.Errorf("%d segments of a locked connection leaked", len(out))
			}
			must(t, Unlock(host, id))
			if got := tables(t, host); got != "" {
				t.Errorf("unlocking left %s", got)
			}
		})
	}
}

type pair struct{ client, server net.Conn }

// connect makes a connection between two namespaces.
func connect(t *testing.T, host, client *Namespace, address string) pair {
	t.Helper()
	var l net.Listener
	must(t, host.Do(func() (err error) {
		l, err = net.Listen("tcp", ":0")
		return err
	}))
	defer l.Close()
	var p pair
	must(t, client.Do(func() (err error) {
		to := netip.AddrPortFrom(netip.MustParseAddr(address), uint16(l.Addr().(*net.TCPAddr).Port))
		p.client, err = net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
		return err
	}))
	var err error
	p.server, err = l.Accept()
	must(t, err)
	t.Cleanup(func() { p.client.Close(); p.server.Close() })
	return p
}

// echo sends something to and fro.
func (p pair) echo() error {
	p.client.SetDeadline(time.Now().Add(patience))
	p.server.SetDeadline(time.Now().Add(patience))
	b := make([]byte, 4)
	if _, err := p.client.Write([]byte("ping")); err != nil {
		return err
	}
	if _, err := io.ReadFull(p.server, b); err != nil {
		return err
	}
	if _, err := p.server.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(p.client, b)
	return err
}

// abandon closes a connection with a reset.
func abandon(t *testing.T, c net.Conn) {
	t.Helper()
	must(t, c.(*net.TCPConn).SetLinger(0))
	must(t, c.Close())
}

func destinationPort(p packet) uint16 {
	header := 40
	if p.kind() == unix.ETH_P_IP {
		header = int(p.body()[0]&0xf) * 4
	}
	return uint16(p.body()[header+2])<<8 | uint16(p.body()[header+3])
}

// A crash leaves locks, which go by their name; others' tables stay.
func TestSweep(t *testing.T) {
	t.Parallel()
	w := scratch(t)
	ours, theirs := migrate.NewID(), migrate.NewID()
	must(t, Lock(w, ours))
	must(t, Lock(w, theirs))
	run(t, w, "add table inet migrate-me\nadd table ip CRIU-17\nadd table inet CRIU-abc\nadd table inet mine\n", "nft", "-f", "-")
	gone, err := Sweep(w, func(id migrate.ID) bool { return id == theirs })
	if err != nil || len(gone) != 1 || gone[0] != ours {
		t.Fatalf("Sweep() = %v, %v, want %s", gone, err, ours)
	}
	must(t, DropCRIUTables(w, func(run string) bool { return run == "17" }))
	if got := tables(t, w); !strings.Contains(got, "CRIU-abc") || strings.Contains(got, "CRIU-17") {
		t.Errorf("tables left: %s", got)
	}
	must(t, Release(w, Description{}))
	if got := tables(t, w); got != "table inet migrate-me\ntable inet mine" {
		t.Errorf("tables left: %s", got)
	}
}
