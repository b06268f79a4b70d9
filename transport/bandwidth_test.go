package transport

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A cap that is changed while pages flow holds 200 ms later, up and down.
func TestBandwidthChangesLive(t *testing.T) {
	d, a := pair(t, func(d, _ *Config) { d.Bandwidth = 256 << 10 })
	ctx, cancel := context.WithCancel(within(t, 30*time.Second))
	done := make(chan error, 1)
	go func() {
		_, _, err := transfer(ctx, d, a, 2, 1<<30, CodecNone, func(*Batch) {})
		done <- err
	}()
	for a.BytesReceived() == 0 {
		time.Sleep(time.Millisecond)
	}
	for _, limit := range []int64{3 << 20, 512 << 10, 2 << 20, 4 << 10, 2 << 20, 256 << 10} {
		d.SetBandwidth(limit)
		time.Sleep(200 * time.Millisecond)
		measure := func() float64 {
			before, start := a.BytesReceived(), time.Now()
			time.Sleep(300 * time.Millisecond)
			return float64(a.BytesReceived()-before) / time.Since(start).Seconds()
		}
		got := measure()
		low, high := float64(limit)*0.6, float64(limit)*1.3+(64<<10)
		for tries := 0; got < low && tries < 2; tries++ { // a busy machine may be slow; too fast is wrong at once
			got = measure()
		}
		if got < low && limit > 4<<10 || got > high {
			t.Errorf("%d bytes/s are to flow, %.0f do", limit, got)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("transfer = %v", err)
	}
}

// Who waits at a low cap goes on at once when it is raised or lifted.
func TestBucketWakes(t *testing.T) {
	for _, limit := range []int64{0, 100 << 20} {
		synctest.Test(t, func(t *testing.T) {
			b := newBucket(1000)
			b.debit(1 << 20) // a quarter of an hour
			time.AfterFunc(time.Second, func() { b.set(limit) })
			start := time.Now()
			if n, err := b.take(t.Context(), 4096); n == 0 || err != nil || time.Since(start) > 1100*time.Millisecond {
				t.Errorf("take = %d, %v after %v", n, err, time.Since(start))
			}
		})
	}
}
