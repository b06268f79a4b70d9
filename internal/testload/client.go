package testload

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Seen is what a client saw of a workload.
type Seen struct {
	Sent         uint64  `json:"sent"`
	Answered     uint64  `json:"answered"`
	LargestGap   float64 `json:"largest_gap_ms"` // between two answers
	LargestGapAt int64   `json:"largest_gap_at"` // wall clock at its end, ns
}

// Watch asks the workload by datagram once every interval, at each of the
// addresses that it may have, until ctx ends. No connection is open meanwhile,
// so that a client is not in the way of a move.
func Watch(ctx context.Context, interval time.Duration, addresses ...string) (Seen, error) {
	c, err := net.ListenPacket("udp", ":0")
	if err != nil {
		return Seen{}, err
	}
	var to []net.Addr
	for _, a := range addresses {
		addr, err := net.ResolveUDPAddr("udp", a)
		if err != nil {
			return Seen{}, errors.Join(err, c.Close())
		}
		to = append(to, addr)
	}
	w := watch{conn: c}
	var wg sync.WaitGroup
	wg.Go(w.receive)
	w.send(ctx, interval, to)
	c.Close()
	wg.Wait()
	if w.seen.Answered == 0 {
		return w.seen, fmt.Errorf("no answer from %v", addresses)
	}
	return w.seen, nil
}

type watch struct {
	conn net.PacketConn
	seen Seen // Sent is the sender's, all else the receiver's
	last time.Time
}

func (w *watch) send(ctx context.Context, interval time.Duration, to []net.Addr) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for n := uint64(1); ; n++ {
		for _, addr := range to {
			// A host that has no such address, or no link, does not answer.
			_, _ = w.conn.WriteTo(binary.BigEndian.AppendUint64(nil, n), addr)
		}
		w.seen.Sent = n
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *watch) receive() {
	b := make([]byte, 64)
	for {
		if _, _, err := w.conn.ReadFrom(b); errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			continue // an ICMP answer to an earlier datagram
		}
		w.answered(time.Now())
	}
}

func (w *watch) answered(now time.Time) {
	w.seen.Answered++
	if gap := millis(now.Sub(w.last)); !w.last.IsZero() && gap > w.seen.LargestGap {
		w.seen.LargestGap, w.seen.LargestGapAt = gap, now.UnixNano()
	}
	w.last = now
}
