package clock

import (
	"fmt"
	"math"
	"time"

	"migrate"
)

// Sample is one question and answer between two hosts.
type Sample struct {
	Sent     migrate.ClockReading `json:"sent"`     // local, before the question was sent
	Received migrate.ClockReading `json:"received"` // remote, after it arrived
	Replied  migrate.ClockReading `json:"replied"`  // remote, before the answer was sent
	Back     migrate.ClockReading `json:"back"`     // local, after it arrived
}

// Bounds is a clock difference, remote − local, that lies for certain within
// Offset ± Error.
type Bounds struct {
	Offset time.Duration `json:"offset-ns"`
	Error  time.Duration `json:"error-ns"`
}

// Difference is how far a remote host's clocks are ahead of the local ones.
type Difference struct {
	Monotonic Bounds `json:"monotonic"`
	Boottime  Bounds `json:"boottime"`
}

// unknown are the bounds when nothing is known.
var unknown = Bounds{Error: math.MaxInt64}

// Known reports whether the bounds say anything.
func (b Bounds) Known() bool { return b.Error < unknown.Error }

// usable reports whether the bounds can be calculated with: no overflow, and
// nothing that only a peer without sense would say.
func (b Bounds) usable() bool { return b.Offset.Abs() <= limit/2 && b.Error <= limit/4 }

// maxDrift is how much two clocks may drift apart: the kernel lets NTP slew a
// clock by up to 500 ppm (MAXFREQ in linux/timex.h), one each way.
const maxDrift = 1000e-6

// After returns bounds that still hold when the estimate is age old.
func (d Difference) After(age time.Duration) Difference {
	d.Monotonic = d.Monotonic.after(age)
	d.Boottime = d.Boottime.after(age)
	return d
}

func (b Bounds) after(age time.Duration) Bounds {
	if b.Known() {
		b.Error += time.Duration(math.Ceil(float64(age.Abs()) * maxDrift))
	}
	return b
}

// Estimate returns bounds that agree with all samples, oldest first. The more
// samples, the closer: each direction counts with its fastest message. Samples
// that no two clocks can produce are ignored, and so are older ones that
// contradict newer ones, for which a clock was slewed in between. Without a
// usable sample there is an error, and the bounds are not [Bounds.Known].
func Estimate(samples []Sample) (Difference, error) {
	mono := func(r migrate.ClockReading) time.Duration { return r.Monotonic }
	boot := func(r migrate.ClockReading) time.Duration { return r.Boottime }
	d := Difference{Monotonic: estimate(samples, mono), Boottime: estimate(samples, boot)}
	if !d.Monotonic.Known() || !d.Boottime.Known() {
		return d, fmt.Errorf("comparing clocks: none of %d samples is possible", len(samples))
	}
	return d, nil
}

// estimate intersects what each sample proves. With d = remote − local: the
// question arrived after it was sent, so received − d ≥ sent; the answer
// arrived after it was sent, so replied − d ≤ back.
func estimate(samples []Sample, clock func(migrate.ClockReading) time.Duration) Bounds {
	low, high := time.Duration(math.MinInt64), time.Duration(math.MaxInt64)
	found := false
	for i := len(samples) - 1; i >= 0; i-- {
		s := samples[i]
		sent, received, replied, back := clock(s.Sent), clock(s.Received), clock(s.Replied), clock(s.Back)
		if !possible(sent, back) || !possible(received, replied) {
			continue
		}
		l, h := max(low, replied-back), min(high, received-sent)
		if l <= h {
			low, high, found = l, h, true
		}
	}
	if !found {
		return unknown
	}
	half := (high - low + 1) / 2
	return Bounds{Offset: low + half, Error: half}
}

// possible reports whether two readings of one clock can be in this order. The
// upper limit keeps differences of readings from overflowing.
func possible(earlier, later time.Duration) bool {
	return 0 <= earlier && earlier <= later && later <= limit
}
