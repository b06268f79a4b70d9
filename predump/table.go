package predump

import (
	"bytes"
	"math/rand/v2"

	"github.com/zeebo/xxh3"
)

// Verdict says what must be sent of a page.
type Verdict uint8

// The verdicts.
const (
	Send Verdict = 1 // its content
	Have Verdict = 2 // nothing: the peer has it
	Zero Verdict = 3 // that it is all zero
)

// A Table remembers what the peer has of every page: 16 bytes for each, in
// pieces of 2 MiB of address space. [Pass] writes it; only when no pass is
// under way may it be read, then by any number of goroutines.
type Table struct {
	seed  uint64
	zero  xxh3.Uint128
	tasks map[Image]map[uint64]*chunk
}

const chunkPages = 512

// A chunk holds the hashes of 2 MiB; the zero value says "not sent".
type chunk [chunkPages]xxh3.Uint128

var zeroPage [PageSize]byte

// NewTable returns a table that knows of no page.
func NewTable() *Table {
	t := &Table{seed: rand.Uint64(), tasks: map[Image]map[uint64]*chunk{}}
	t.zero = t.hash(zeroPage[:])
	return t
}

func (t *Table) hash(page []byte) xxh3.Uint128 { return xxh3.Hash128Seed(page, t.seed) }

// Classify says what must be sent of one page. On a nil table, which knows of
// nothing, everything that is not zero must be.
func (t *Table) Classify(im Image, address uint64, page []byte) Verdict {
	zero := bytes.Equal(page, zeroPage[:])
	if t == nil {
		if zero {
			return Zero
		}
		return Send
	}
	known := t.lookup(im, address)
	switch {
	case zero && known == t.zero:
		return Have
	case zero:
		return Zero
	case known != (xxh3.Uint128{}) && known == t.hash(page):
		return Have
	}
	return Send
}

func (t *Table) lookup(im Image, address uint64) xxh3.Uint128 {
	page := address / PageSize
	if c := t.tasks[im][page/chunkPages]; c != nil {
		return c[page%chunkPages]
	}
	return xxh3.Uint128{}
}

// update classifies a page and remembers that the peer is about to have it.
func (t *Table) update(im Image, address uint64, data []byte) Verdict {
	sum := t.hash(data)
	slot := t.slot(im, address)
	if *slot == sum {
		return Have
	}
	*slot = sum
	if sum == t.zero && bytes.Equal(data, zeroPage[:]) {
		return Zero
	}
	return Send
}

func (t *Table) slot(im Image, address uint64) *xxh3.Uint128 {
	chunks := t.tasks[im]
	if chunks == nil {
		chunks = map[uint64]*chunk{}
		t.tasks[im] = chunks
	}
	page := address / PageSize
	c := chunks[page/chunkPages]
	if c == nil {
		c = new(chunk)
		chunks[page/chunkPages] = c
	}
	return &c[page%chunkPages]
}
