package transport

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// bucket is a session's bandwidth cap.
type bucket struct {
	limiter *rate.Limiter
	mu      sync.Mutex
	changed chan struct{} // closed when the cap is set
}

// minBurst keeps a very low cap from cutting frames to dust.
const minBurst = 4 << 10

// maxWrite is the most that is given to a stream at once, capped or not.
const maxWrite = 256 << 10

func newBucket(bytesPerSecond int64) *bucket {
	b := &bucket{limiter: rate.NewLimiter(rate.Inf, minBurst), changed: make(chan struct{})}
	b.set(bytesPerSecond)
	return b
}

// set changes the cap; 0 or less is none. The burst is what 20 ms carry: less
// would lose tokens to timers that fire late, more would show on the wire.
func (b *bucket) set(bytesPerSecond int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	limit, burst := rate.Inf, minBurst
	if bytesPerSecond > 0 {
		limit, burst = rate.Limit(bytesPerSecond), int(max(minBurst, bytesPerSecond/50))
	}
	// A fresh one, because what was reserved at the cap before is no debt at this one.
	b.limiter = rate.NewLimiter(limit, burst)
	close(b.changed)
	b.changed = make(chan struct{})
}

// current returns the limiter, and what is closed when another takes its place.
func (b *bucket) current() (*rate.Limiter, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.limiter, b.changed
}

// take waits until some of n bytes may be sent, and returns how many. Who waits
// when the cap is set waits anew.
func (b *bucket) take(ctx context.Context, n int) (int, error) {
	for {
		limiter, changed := b.current()
		n := min(n, maxWrite)
		if limiter.Limit() != rate.Inf {
			n = min(n, limiter.Burst())
		}
		delay := limiter.ReserveN(time.Now(), n).Delay() // never more than the burst
		if delay == 0 {
			return n, nil
		}
		t := time.NewTimer(delay)
		select {
		case <-t.C:
			return n, nil
		case <-changed:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return 0, context.Cause(ctx)
		}
	}
}

// debit counts n bytes that are sent at once: control frames pay for what they
// use, but never wait behind pages.
func (b *bucket) debit(n int) {
	limiter, _ := b.current()
	for burst := limiter.Burst(); n > 0; n -= burst {
		limiter.ReserveN(time.Now(), min(n, burst))
	}
}
