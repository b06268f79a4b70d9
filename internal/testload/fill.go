package testload

import (
	"encoding/binary"
	"fmt"
	"slices"
)

const pageSize = 4096

// Fill names a kind of memory content.
type Fill string

// The kinds of content.
const (
	Random Fill = "random" // does not compress
	Text   Fill = "text"   // words
	Mixed  Fill = "mixed"  // random, words and records of small numbers; compresses like a redis server
)

var fills = []Fill{Random, Text, Mixed}

// MarshalText writes the name.
func (f Fill) MarshalText() ([]byte, error) { return []byte(f), nil }

// UnmarshalText reads a name.
func (f *Fill) UnmarshalText(b []byte) error {
	if !slices.Contains(fills, Fill(b)) {
		return fmt.Errorf("%q is not one of %q", b, fills)
	}
	*f = Fill(b)
	return nil
}

// generator makes the content of pages. Equal seeds make equal content.
type generator struct {
	fill Fill
	seed uint64
}

// page writes the content that page index has in its given version.
func (g generator) page(p []byte, index, version uint64) {
	r := g.rng(index, version)
	switch g.kind(index) {
	case Text:
		r.words(p)
	case records:
		r.records(p)
	default:
		r.bytes(p)
	}
	// Equal pages of another place or time must not pass for this one.
	binary.LittleEndian.PutUint64(p, index)
	binary.LittleEndian.PutUint64(p[8:], version)
}

// rng returns the numbers of one page. Each input goes through the mixer by
// itself: with sums of them, pages would be pieces of one another.
func (g generator) rng(inputs ...uint64) rng {
	r := rng(g.seed)
	for _, in := range inputs {
		r = rng(r.next() ^ in)
	}
	return rng(r.next())
}

// records is not a Fill that can be asked for alone.
const records Fill = "records"

// kind of one page: a mix takes turns.
func (g generator) kind(index uint64) Fill {
	if g.fill != Mixed {
		return g.fill
	}
	switch {
	case index%16 == 0:
		return Random
	case index%2 == 1:
		return Text
	}
	return records
}

// rng is splitmix64, by Sebastiano Vigna in the public domain: fast, and good
// enough for content that is only compared.
type rng uint64

func (r *rng) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (r *rng) bytes(p []byte) {
	for ; len(p) >= 8; p = p[8:] {
		binary.LittleEndian.PutUint64(p, r.next())
	}
}

// records looks like a program's structures: a pointer into one heap, a
// counter, a length and flags.
func (r *rng) records(p []byte) {
	for ; len(p) >= 32; p = p[32:] {
		n := r.next()
		binary.LittleEndian.PutUint64(p, 0x00007f3a10000000|n&0xfff0)
		binary.LittleEndian.PutUint64(p[8:], n>>32&0xff)
		binary.LittleEndian.PutUint64(p[16:], 48)
		binary.LittleEndian.PutUint64(p[24:], 0x0100000000000000)
	}
}

var vocabulary = []string{
	"address ", "balance ", "between ", "channel ", "counter ", "current ", "default ", "deliver ",
	"element ", "example ", "failure ", "history ", "journal ", "machine ", "message ", "migrate ",
	"network ", "nothing ", "pending ", "process ", "program ", "quarter ", "receive ", "request ",
	"restore ", "running ", "session ", "stopped ", "storage ", "timeout ", "virtual ", "working ",
}

// words fills p with words of eight bytes and numbers among them.
func (r *rng) words(p []byte) {
	for ; len(p) >= 16; p = p[16:] {
		n := r.next()
		copy(p, vocabulary[n&31])
		if n>>5&3 == 0 {
			const digits = "0123456789abcdef"
			for i := range 8 {
				p[8+i] = digits[n>>(8+4*i)&15]
			}
			continue
		}
		copy(p[8:], vocabulary[n>>8&31])
	}
}
