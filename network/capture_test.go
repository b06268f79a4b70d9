package network

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// capture keeps every frame that a link sends or receives.
type capture struct {
	file   *os.File
	mu     sync.Mutex
	frames []packet
	more   chan struct{} // has something after a frame came
}

// packet is a captured frame.
type packet struct {
	bytes []byte
	out   bool // sent by the link
	at    time.Time
}

func (p packet) kind() uint16 { return binary.BigEndian.Uint16(p.bytes[12:]) }
func (p packet) body() []byte { return p.bytes[14:] }
func (p packet) from() string { return net.HardwareAddr(p.bytes[6:12]).String() }
func (p packet) isARP() bool  { return p.kind() == unix.ETH_P_ARP }
func (p packet) isAdvert() bool {
	return p.kind() == unix.ETH_P_IPV6 && p.body()[6] == 58 && p.body()[40] == 136
}

func newCapture(t testing.TB, ns *Namespace, link string) *capture {
	t.Helper()
	index := linkIndex(t, ns, link)
	var fd int
	must(t, ns.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: index})) // ETH_P_ALL in network order
	c := &capture{file: os.NewFile(uintptr(fd), "capture"), more: make(chan struct{}, 1)}
	t.Cleanup(func() { c.file.Close() })
	go c.read()
	return c
}

func linkIndex(t testing.TB, ns *Namespace, link string) int {
	t.Helper()
	k, err := handleIn(t, ns).LinkByName(link)
	must(t, err)
	return k.Attrs().Index
}

func (c *capture) read() {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return
	}
	b := make([]byte, 4096)
	for {
		var n int
		var from unix.Sockaddr
		var errno error
		err := raw.Read(func(fd uintptr) bool {
			n, from, errno = unix.Recvfrom(int(fd), b, 0)
			return !errors.Is(errno, unix.EAGAIN)
		})
		if err != nil || errno != nil {
			return
		}
		c.mu.Lock()
		out := from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING
		c.frames = append(c.frames, packet{append([]byte(nil), b[:n]...), out, time.Now()})
		c.mu.Unlock()
		select {
		case c.more <- struct{}{}:
		default:
		}
	}
}

// all returns what was captured so far, of what is chosen.
func (c *capture) all(choose func(packet) bool) []packet {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []packet
	for _, p := range c.frames {
		if choose(p) {
			list = append(list, p)
		}
	}
	return list
}

// await returns the first chosen frame.
func (c *capture) await(t testing.TB, what string, choose func(packet) bool) packet {
	t.Helper()
	deadline := time.After(patience)
	for {
		if list := c.all(choose); len(list) > 0 {
			return list[0]
		}
		select {
		case <-c.more:
		case <-deadline:
			t.Fatalf("no %s within %v", what, patience)
		}
	}
}
