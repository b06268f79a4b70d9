package transport

import (
	"context"
	"time"

	"golang.org/x/time/rate"
)

// bucket is a session's bandwidth cap.
type bucket struct{ limiter *rate.Limiter }

// minBurst keeps a very low cap from cutting frames to dust.
const minBurst = 4 << 10

// maxWrite is the most that is given to a stream at once, capped or not.
const maxWrite = 256 << 10

func newBucket(bytesPerSecond int64) *bucket {
	b := &bucket{rate.NewLimiter(rate.Inf, minBurst)}
	b.set(bytesPerSecond)
	return b
}

// set changes the cap; 0 or less is none. The burst is what 20 ms carry: less
// would lose tokens to timers that fire late, more would show on the wire.
func (b *bucket) set(bytesPerSecond int64) {
	if bytesPerSecond <= 0 {
		b.limiter.SetLimit(rate.Inf)
		return
	}
	b.limiter.SetBurst(int(max(minBurst, bytesPerSecond/50)))
	b.limiter.SetLimit(rate.Limit(bytesPerSecond))
}

// take waits until some of n bytes may be sent, and returns how many.
func (b *bucket) take(ctx context.Context, n int) (int, error) {
	n = min(n, maxWrite)
	if b.limiter.Limit() == rate.Inf {
		return n, nil
	}
	n = min(n, b.limiter.Burst())
	r := b.limiter.ReserveN(time.Now(), n)
	if !r.OK() { // the burst shrank just now: one byte always fits
		return 1, nil
	}
	if r.Delay() == 0 {
		return n, nil
	}
	t := time.NewTimer(r.Delay())
	defer t.Stop()
	select {
	case <-t.C:
		return n, nil
	case <-ctx.Done():
		r.Cancel()
		return 0, context.Cause(ctx)
	}
}

// debit counts n bytes that are sent at once: control frames pay for what they
// use, but never wait behind pages.
func (b *bucket) debit(n int) {
	for burst := b.limiter.Burst(); n > 0; n -= burst {
		b.limiter.ReserveN(time.Now(), min(n, burst))
	}
}
