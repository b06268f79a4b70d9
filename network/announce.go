package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Rounds says how often addresses are announced: once at once, then after Initial,
// and each time Step later than the time before, at most Max. They are QEMU's
// announce-rounds, -initial, -step and -max, with the same defaults. The first may
// get lost where a switch has only just seen the port.
type Rounds struct {
	Count   int           // default 5
	Initial time.Duration // default 50 ms
	Step    time.Duration // default 100 ms
	Max     time.Duration // default 550 ms
}

// pauses returns how long to wait ahead of each round.
func (r Rounds) pauses() []time.Duration {
	count := cmp.Or(r.Count, 5)
	pause := cmp.Or(r.Initial, 50*time.Millisecond)
	list := make([]time.Duration, 1, count)
	for len(list) < count {
		list = append(list, min(pause, cmp.Or(r.Max, 550*time.Millisecond)))
		pause += cmp.Or(r.Step, 100*time.Millisecond)
	}
	return list
}

// Announce tells the neighbours of every link that the addresses are here now: by
// gratuitous ARP, as request and as reply (RFC 5227 §3), and by unsolicited neighbour
// advertisements (RFC 4861 §7.2.6), from which switches learn the port as well. It
// returns after the last round or when ctx is done; its error is for a report, since
// the workload runs in any case.
func Announce(ctx context.Context, ns *Namespace, d Description, r Rounds) error {
	a, err := newAnnouncer(ns, d)
	if err != nil {
		return fmt.Errorf("announce addresses: %w", err)
	}
	defer a.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for _, pause := range r.pauses() {
		timer.Reset(pause)
		select {
		case <-ctx.Done():
			return errors.Join(a.errs...)
		case <-timer.C:
			a.send()
		}
	}
	return errors.Join(a.errs...)
}

// announcer has the frames ready, and a socket in the namespace.
type announcer struct {
	fd     int
	frames []frame
	errs   []error // the last round's
}

// frame goes out of one link.
type frame struct {
	link  string
	index int
	bytes []byte
}

func newAnnouncer(ns *Namespace, d Description) (*announcer, error) {
	a := &announcer{fd: -1}
	here, err := ns.handle()
	if err != nil {
		return nil, err
	}
	defer here.Close()
	for _, l := range d.Links {
		if !l.Up || !l.attached() || l.NoARP {
			continue
		}
		k, err := here.LinkByName(l.Name)
		if err != nil {
			a.errs = append(a.errs, fmt.Errorf("announce addresses of link %s: %w", l.Name, err))
			continue
		}
		for _, b := range l.announcements(k.Attrs().HardwareAddr) {
			a.frames = append(a.frames, frame{l.Name, k.Attrs().Index, b})
		}
	}
	err = ns.Do(func() (err error) {
		a.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: hears nothing
		return err
	})
	return a, err
}

// announcements returns the frames that a link sends in each round.
func (l Link) announcements(mac net.HardwareAddr) [][]byte {
	var list [][]byte
	for _, a := range l.Addresses {
		switch ip := a.Prefix.Addr(); {
		case len(mac) != macLen || ip.IsLoopback():
		case ip.Is4():
			list = append(list, gratuitousARP(mac, ip, arpRequest), gratuitousARP(mac, ip, arpReply))
		default:
			list = append(list, neighbourAdvertisement(mac, ip, l.Sysctls["ipv6/forwarding"] == "1"))
		}
	}
	return list
}

func (a *announcer) close() { unix.Close(a.fd) }

func (a *announcer) send() {
	a.errs = nil
	for _, f := range a.frames {
		if err := unix.Sendto(a.fd, f.bytes, 0, &unix.SockaddrLinklayer{Ifindex: f.index}); err != nil {
			a.errs = append(a.errs, fmt.Errorf("announce addresses of link %s: %w", f.link, err))
		}
	}
}
