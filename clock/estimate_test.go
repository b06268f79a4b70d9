package clock

import (
	"math"
	"math/rand/v2"
	"testing"
	"testing/quick"
	"time"

	"migrate"
)

func at(d time.Duration) migrate.ClockReading { return migrate.ClockReading{Monotonic: d, Boottime: d} }

func sample(sent, received, replied, back time.Duration) Sample {
	return Sample{at(sent), at(received), at(replied), at(back)}
}

func TestEstimate(t *testing.T) {
	const far = 100 * time.Hour
	for _, c := range []struct {
		name    string
		samples []Sample
		want    Bounds
	}{
		{"symmetric", []Sample{sample(1000, far+1010, far+1020, 1030)}, Bounds{far, 10}},
		{"remote behind", []Sample{sample(far, 10, 20, far+30)}, Bounds{-far, 10}},
		{"odd width rounds up", []Sample{sample(0, 10, 20, 31)}, Bounds{0, 11}},
		{"closest of each way", []Sample{sample(0, 10, 20, 120), sample(1000, 1100, 1110, 1120)}, Bounds{0, 10}},
		{"newest wins a contradiction", []Sample{sample(0, 10, 10, 20), sample(1000, 6010, 6010, 1020)}, Bounds{5000, 10}},
		{"impossible ones ignored", []Sample{sample(1000, 1010, 1020, 1030), sample(5, 4, 3, 2), sample(-5, 4, 5, 6), sample(0, math.MaxInt64, math.MaxInt64, 1)}, Bounds{0, 10}},
	} {
		d, err := Estimate(c.samples)
		if d.Monotonic != c.want || d.Boottime != c.want || err != nil {
			t.Errorf("%s: Estimate = %+v, %v, want %+v", c.name, d, err, c.want)
		}
	}
	for _, none := range [][]Sample{nil, {sample(5, 4, 3, 2)}} {
		if d, err := Estimate(none); err == nil || d.Monotonic.Known() {
			t.Errorf("Estimate(%v) = %+v, %v, want error", none, d, err)
		}
	}
}

// TestEstimateHolds: whatever the delays, the true difference is within the
// bounds, and more samples never widen them.
func TestEstimateHolds(t *testing.T) {
	holds := func(seed uint64, trueOffset int32, skew uint8) bool {
		r := rand.New(rand.NewPCG(seed, 1))
		offset := time.Duration(trueOffset) * time.Millisecond
		now := 1000 * time.Hour
		delay := func(mean time.Duration) time.Duration { return time.Duration(r.ExpFloat64() * float64(mean)) }
		var samples []Sample
		last := time.Duration(math.MaxInt64)
		for range 20 {
			s := Sample{Sent: at(now)}
			now += delay(time.Millisecond)
			s.Received = at(now + offset)
			now += delay(10 * time.Microsecond)
			s.Replied = at(now + offset)
			now += delay(time.Millisecond * time.Duration(skew))
			s.Back = at(now)
			samples = append(samples, s)
			d, err := Estimate(samples)
			b := d.Monotonic
			if err != nil || (b.Offset-offset).Abs() > b.Error || b.Error > last || b != d.Boottime {
				return false
			}
			last = b.Error
		}
		return true
	}
	if err := quick.Check(holds, nil); err != nil {
		t.Error(err)
	}
}

func TestAfter(t *testing.T) {
	d := Difference{Monotonic: Bounds{5, 100}, Boottime: unknown}.After(10 * time.Second)
	if want := (Bounds{5, 100 + 10*time.Millisecond}); d.Monotonic != want || d.Boottime != unknown {
		t.Errorf("After(10s) = %+v, want %+v and unknown", d, want)
	}
}
