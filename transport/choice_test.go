package transport

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

const ms = time.Millisecond

func TestNextCodec(t *testing.T) {
	// A second of two cores.
	load := func(encoding, blocked, idle, used time.Duration, raw, packed uint64) Load {
		return Load{Elapsed: time.Second, Encoding: encoding, Blocked: blocked, Idle: idle, Used: used, Raw: raw, Packed: packed, CPUs: 2}
	}
	const mb = 1e6
	tests := map[string]struct {
		now  Codec
		l    Load
		want Codec
	}{
		"nothing yet":                             {CodecS2, Load{}, CodecS2},
		"nothing sent":                            {CodecS2, load(0, 0, 2000*ms, 0, 0, 0), CodecS2},
		"slow link":                               {CodecS2, load(40*ms, 990*ms, 1800*ms, 200*ms, 31*mb, 12*mb), CodecZstd1},
		"slow link, already zstd1":                {CodecZstd1, load(120*ms, 990*ms, 1700*ms, 300*ms, 37*mb, 12*mb), CodecZstd3},
		"slow link, at the top":                   {CodecZstd3, load(160*ms, 990*ms, 1700*ms, 300*ms, 40*mb, 12*mb), CodecZstd3},
		"slow link, from none":                    {CodecNone, load(5*ms, 990*ms, 1900*ms, 100*ms, 12*mb, 12*mb), CodecS2},
		"slow link, a busy guest":                 {CodecS2, load(40*ms, 990*ms, 0, 150*ms, 31*mb, 12*mb), CodecZstd1},
		"slow link, random memory":                {CodecS2, load(4*ms, 990*ms, 1900*ms, 100*ms, 12*mb, 12*mb), CodecS2},
		"fast link, both cores busy":              {CodecZstd1, load(1200*ms, 300*ms, 20*ms, 1900*ms, 360*mb, 116*mb), CodecS2},
		"busy, the writer waits for QUIC":         {CodecZstd1, load(800*ms, 900*ms, 20*ms, 1900*ms, 240*mb, 77*mb), CodecS2},
		"s2 pays for itself":                      {CodecS2, load(500*ms, 900*ms, 20*ms, 1900*ms, 400*mb, 160*mb), CodecS2},
		"s2 does not: memory that hardly shrinks": {CodecS2, load(700*ms, 800*ms, 20*ms, 1900*ms, 280*mb, 255*mb), CodecNone},
		"reading is slow":                         {CodecS2, load(100*ms, 50*ms, 900*ms, 1000*ms, 80*mb, 32*mb), CodecS2},
		"no room for zstd":                        {CodecS2, load(400*ms, 900*ms, 300*ms, 1500*ms, 290*mb, 116*mb), CodecS2},
		"room for zstd":                           {CodecS2, load(400*ms, 900*ms, 1100*ms, 800*ms, 290*mb, 116*mb), CodecZstd1},
		"a codec that nobody knows":               {99, load(400*ms, 900*ms, 1100*ms, 800*ms, 290*mb, 116*mb), 99},
	}
	for name, tt := range tests {
		if got := NextCodec(tt.now, tt.l); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// host is a model of a sending host: what it can send in a period with a codec
// is bounded by the link and by its cores, of which the guest takes some.
type host struct {
	link  float64 // bytes per second; 0 is as fast as the cores
	cores float64
	guest float64 // cores
	wire  float64 // seconds of a core for a byte on the wire
	data  map[Codec]traits
}

var heap = map[Codec]traits{CodecNone: {4e9, 1}, CodecS2: {760e6, 2.4}, CodecZstd1: {310e6, 3.05}, CodecZstd3: {240e6, 3.2}}

func (h host) load(c Codec) Load {
	const d = period
	t := h.data[c]
	perByte := 1/t.speed + h.wire/t.ratio // of memory
	cores := max(h.cores-h.guest, h.cores/2)
	rate := cores / perByte
	if h.link > 0 {
		rate = min(rate, h.link*t.ratio)
	}
	used := rate * perByte
	in := func(share float64) time.Duration { return time.Duration(share * float64(d)) }
	blocked := 0.9 // QUIC is what the writer waits for, whatever makes it slow
	if rate/t.speed > 0.9*cores {
		blocked = 0.1
	}
	return Load{
		Elapsed: d, Encoding: in(rate / t.speed), Blocked: in(blocked), CPUs: int(h.cores),
		Raw: uint64(rate * d.Seconds()), Packed: uint64(rate / t.ratio * d.Seconds()),
		Idle: in(max(0, h.cores-h.guest-used)), Used: in(used),
	}
}

// settle lets decisions follow one another for a minute, and returns the codecs
// in use over its second half.
func settle(h host, start Codec) (used map[Codec]int, changes int) {
	used = map[Codec]int{}
	var p patience
	n := int(time.Minute / period)
	for i := range n {
		if next := NextCodec(start, h.load(start)); p.allows(start, next) && next != start {
			start = next
			changes++
		}
		if i > n/2 {
			used[start]++
		}
	}
	return used, changes
}

func TestCodecSettles(t *testing.T) {
	const paced, unpaced = 4.0 / (1 << 30), 2.3 / (1 << 30) // QUIC's cost per byte sent
	tests := map[string]struct {
		host host
		want []Codec
	}{
		"100 Mbit/s":               {host{12.5e6, 2, 0.5, paced, heap}, []Codec{CodecZstd1, CodecZstd3}},
		"100 Mbit/s, a busy guest": {host{12.5e6, 2, 2, paced, heap}, []Codec{CodecZstd1, CodecZstd3}},
		"1 Gbit/s":                 {host{118e6, 2, 0.5, paced, heap}, []Codec{CodecS2, CodecZstd1}},
		"1 Gbit/s, a busy guest":   {host{118e6, 2, 2, paced, heap}, []Codec{CodecS2}},
		"1 Gbit/s, 16 cores":       {host{118e6, 16, 4, paced, heap}, []Codec{CodecZstd3}},
		"unshaped, two cores":      {host{0, 2, 0.5, unpaced, heap}, []Codec{CodecNone, CodecS2}},
		"unshaped, both ends here": {host{0, 2, 0.5, 2 * unpaced, heap}, []Codec{CodecNone, CodecS2}},
	}
	for name, tt := range tests {
		for _, start := range allCodecs {
			used, changes := settle(tt.host, start)
			total := 0
			for _, c := range tt.want {
				total += used[c]
			}
			all := 0
			for _, n := range used {
				all += n
			}
			if total < all*9/10 || changes > 20 {
				t.Errorf("%s from %v: %v after %d changes, want %v", name, start, used, changes, tt.want)
			}
		}
	}
}

func TestPatience(t *testing.T) {
	var p patience
	ups := 0
	now := CodecS2
	for range 300 { // a step up that always turns out wrong
		if now == CodecZstd1 {
			if !p.allows(now, CodecS2) {
				t.Fatal("a step down must wait")
			}
			now = CodecS2
		} else if p.allows(now, CodecZstd1) {
			now = CodecZstd1
			ups++
		}
	}
	if ups < 5 || ups > 15 {
		t.Errorf("%d steps up", ups)
	}
}

// An Adaptive encodes with the codec it has decided on, within its bounds.
func TestAdaptive(t *testing.T) {
	b := &Batch{Pieces: []Piece{{Kind: PieceData, Pages: 16}}, Data: memory(16, 1)}
	tests := []struct{ lowest, highest, want Codec }{
		{CodecNone, CodecZstd3, CodecZstd3}, {CodecNone, CodecNone, CodecNone}, {CodecS2, CodecS2, CodecS2},
		{CodecZstd1, CodecZstd3, CodecZstd3}, {CodecNone, CodecZstd1, CodecZstd1},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.lowest, " to ", tt.highest), func(t *testing.T) {
			var now time.Duration
			a := newAdaptive(tt.lowest, tt.highest,
				func() time.Duration { now += ms; return now },
				func() usage { return usage{idle: now * 3 / 2, used: now / 2} })
			var frame []byte
			for range 60 {
				frame = must(a.Encode(nil, b))
				now += 40 * ms
				a.Blocked(40 * ms)
			}
			var got Batch
			if err := DecodeBatch(frame, &got); err != nil || !bytes.Equal(got.Data, b.Data) {
				t.Fatal(err)
			}
			if c := Codec(frame[headerLen+12]); c != tt.want || a.Codec() != tt.want {
				t.Errorf("a slow link is used with %v, want %v", c, tt.want)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	before := readUsage()
	after := before
	for start := time.Now(); after.used-before.used < 20*ms && time.Since(start) < 10*time.Second; {
		after = readUsage()
	}
	if before.idle == 0 || after.idle < before.idle || after.used-before.used < 20*ms {
		t.Errorf("usage %+v, then %+v", before, after)
	}
}
