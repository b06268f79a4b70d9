package network

import (
	"context"
	"testing"
	"time"
)

// patience is how long a test waits for what is to happen; silence how long for what is not.
const (
	patience = 10 * time.Second
	silence  = 300 * time.Millisecond
)

// An address is served at the new place with the first packet that a client sends
// after the announcement, whatever its tables and the switches' say.
func TestMoveAddress(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"10.77.0.50", "fd77::50"} {
		for _, mac := range []string{"", "02:77:00:00:00:99"} {
			t.Run(address+" "+mac, func(t *testing.T) {
				t.Parallel()
				n := newLAN(t)
				w := workload(t, n.a, bridgeA, "10.77.0.50/24", "fd77::50/64")
				serve(t, w, "a")
				client := newAsker(t, n.client, address)
				if got := client.ask(t, patience); got != "a" {
					t.Fatalf("before the move %q answers", got)
				}

				d := describe(t, w, n.a)
				if mac != "" {
					d.Links[1].MAC = mac
				}
				target := n.target()
				found, err := target.Check(d)
				if err != nil || len(found.Blockers)+len(found.Warnings) > 0 {
					t.Fatalf("Check() = %v, %v", found, err)
				}
				moved := scratch(t)
				must(t, target.Fill(moved, d))
				serve(t, moved, "b")
				if got := client.ask(t, patience); got != "a" {
					t.Fatalf("with the target made, %q answers", got)
				}
				must(t, Lock(w, target.ID))
				if got := client.ask(t, silence); got != "" {
					t.Fatalf("with the source locked, %q answers", got)
				}

				heard := newCapture(t, n.client, "eth0")
				start := time.Now()
				must(t, target.Up(moved, d))
				t.Logf("Up took %v", time.Since(start))
				if mac == "" { // another one brings another link-local address with it
					noTentative(t, moved)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go Announce(ctx, moved, d, Rounds{})
				first := heard.await(t, "announcement", func(p packet) bool {
					return p.from() == d.Links[1].MAC && (p.isARP() && address == "10.77.0.50" || p.isAdvert() && address == "fd77::50")
				})
				t.Logf("first announcement heard %v after Up began", first.at.Sub(start))
				if got := client.ask(t, patience); got != "b" {
					t.Fatalf("after the move %q answers", got)
				}
				must(t, Release(w, d))
				if got := client.ask(t, patience); got != "b" {
					t.Fatalf("with the source released %q answers", got)
				}
			})
		}
	}
}
