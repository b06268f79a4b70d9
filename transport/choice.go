package transport

import (
	"math"
	"time"
)

// Load is what a sending pipeline observed since the decision before: which of
// its parts the others waited for.
type Load struct {
	Elapsed  time.Duration
	Encoding time.Duration // in EncodeBatch, all encoders together
	Blocked  time.Duration // the writer waited for the network
	Raw      uint64        // bytes before compression
	Packed   uint64        // bytes after it
	CPUs     int           // of the host
	Idle     time.Duration // of the host's processors, all together
	Used     time.Duration // processor time of this process
}

// traits is what a codec does on one core, in bytes per second, and how much
// smaller it makes memory. They are of the heap of a key-value store; what
// counts is how the codecs compare with each other.
type traits struct{ speed, ratio float64 }

var known = map[Codec]traits{
	CodecNone:  {4e9, 1},
	CodecS2:    {800e6, 2.5},
	CodecZstd1: {300e6, 3.1},
	CodecZstd3: {250e6, 3.3},
}

// wireSpeeds bound the bytes per second that a core takes through QUIC: less
// where the link, not the core, sets the pace, for then packets go in smaller lots.
var wireSpeeds = struct{ low, high float64 }{250e6, 450e6}

const (
	better      = 1.05 // a codec must promise so much more to be changed to
	spareUse    = 0.8  // part of the free processor time that is counted on
	fairShare   = 0.25 // part of the processors that a busy host gives this process all the same
	enoughSpare = 0.05 // part of the processors without which compressing more is not thought of
)

// NextCodec returns the codec to use after now: a neighbour of it if that
// promises to move memory clearly faster, else now. Where the link is what
// everything waits for, that is one that compresses more, as far as there is
// processor time for it; where processor time is, the one that costs least with
// the bytes that it leaves to encrypt and send; where neither is, none.
func NextCodec(now Codec, l Load) Codec {
	rate := l.model(now)
	if rate == nil {
		return now
	}
	best, high := now, better*rate(now)
	for _, c := range []Codec{now - 1, now + 1} {
		if _, ok := known[c]; ok && rate(c) > high {
			best, high = c, rate(c)
		}
	}
	return best
}

// model returns how fast memory would move with each codec (in bytes per
// second, or at least in proportion), or nil if the codec matters to nothing.
func (l Load) model(now Codec) func(Codec) float64 {
	if l.Elapsed <= 0 || l.Raw == 0 || l.Packed == 0 || known[now].speed == 0 {
		return nil
	}
	blocked, spare := l.part(l.Blocked), l.spare()
	switch {
	case blocked >= 0.5 && spare >= enoughSpare*float64(l.CPUs): // the link
		link := float64(l.Packed) / l.Elapsed.Seconds() / blocked
		cores, of := l.part(l.Encoding)+spareUse*spare, l.scaled(now, 0.25)
		return func(c Codec) float64 { return min(link*of(c).ratio, cores*of(c).speed) }
	case l.part(l.Idle) < enoughSpare*float64(l.CPUs) && max(blocked, l.part(l.Encoding)) >= 0.5: // the processors
		wire := bound(float64(l.Packed)/(l.Used-l.Encoding).Seconds(), wireSpeeds.low, wireSpeeds.high)
		of := l.scaled(now, 1) // encoders that wait for a core are not slow
		return func(c Codec) float64 { return 1 / (1/of(c).speed + 1/(wire*of(c).ratio)) }
	}
	return nil
}

// part returns d in units of the time that passed: of a processor, as cores.
func (l Load) part(d time.Duration) float64 { return d.Seconds() / l.Elapsed.Seconds() }

// spare returns how many more cores the process can have.
func (l Load) spare() float64 {
	return max(l.part(l.Idle), fairShare*float64(l.CPUs)-l.part(l.Used), 0)
}

// scaled returns the traits of every codec for the data and the machine on
// which now did what was observed, never slower than the slowest part of what is
// known. Without compression nothing is learnt of them.
func (l Load) scaled(now Codec, slowest float64) func(Codec) traits {
	speed, gain := 1.0, 1.0
	if now != CodecNone {
		base := known[now]
		speed = bound(float64(l.Raw)/l.Encoding.Seconds()/base.speed, slowest, 4)
		gain = bound((float64(l.Raw)/float64(l.Packed)-1)/(base.ratio-1), 0, 10)
	}
	return func(c Codec) traits {
		t := known[c]
		if c != CodecNone {
			t.speed *= speed
		}
		t.ratio = 1 + (t.ratio-1)*gain
		return t
	}
}

func bound(v, low, high float64) float64 {
	if math.IsNaN(v) { // nothing by nothing
		v = 0
	}
	return max(low, min(v, high))
}
