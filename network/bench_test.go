package network

import (
	"testing"
	"time"
)

// BenchmarkMove times the steps of a move, of one veth pair with two addresses: what it
// takes while the workload is frozen is their sum, but for describe and check. "heard" is
// from the beginning of up to the first announcement at another host.
func BenchmarkMove(b *testing.B) {
	n := newLAN(b)
	warm, err := Warm()
	must(b, err)
	b.Cleanup(func() { warm.Close() })
	total := map[string]time.Duration{}
	step := func(name string, f func() error) {
		start := time.Now()
		must(b, f())
		total[name] += time.Since(start)
	}
	for b.Loop() {
		w := workload(b, n.a, bridgeA, "10.77.0.50/24", "fd77::50/64")
		moved := scratch(b)
		target := n.target()
		var d Description
		step("describe", func() (err error) {
			d, _, err = Describe(w, n.a)
			return err
		})
		step("check", func() error {
			_, err := target.Check(d)
			return err
		})
		step("lock", func() error { return Lock(w, target.ID) })
		step("fill", func() error { return target.Fill(moved, d) })
		ears := newCapture(b, n.client, "eth0")
		start := time.Now()
		step("up", func() error { return target.Up(moved, d) })
		must(b, Announce(b.Context(), moved, d, Rounds{Count: 1}))
		total["heard"] += ears.await(b, "announcement", packet.isARP).at.Sub(start)
		step("release", func() error { return Release(w, d) })
		must(b, Release(moved, d))
	}
	for name, sum := range total {
		b.ReportMetric(float64(sum.Microseconds())/float64(b.N), name+"-us/op")
	}
}
