package predump

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/zeebo/xxh3"
)

// Image is the address space that a page belongs to, named as on CRIU's
// page-server wire.
type Image struct {
	Type uint8  // TaskImage is the only one that a Pass makes
	ID   uint64 // the task's PID in the workload's own PID namespace
}

// TaskImage is the type of a task's private memory (criu/page-xfer.c, PS_TYPE_PID).
const TaskImage uint8 = 1

// PageSize is the unit in which memory is compared and sent, in bytes.
const (
	PageSize  = 1 << pageShift
	pageShift = 12
)

var zeroPage [PageSize]byte

// Table remembers a hash of the newest content sent of every page. It is safe
// for concurrent use, and readers never wait: the final dump is compared while
// the workload is frozen. The nil Table remembers nothing.
//
// It is a radix tree, like a page table: 16 bytes for each page of a block that
// has any, and less than one byte more where memory is dense.
type Table struct {
	seed   uint64
	zero   hash // of a page of zeros
	mu     sync.Mutex
	images atomic.Pointer[map[Image]*space] // replaced under mu, never changed

	forgetting sync.Mutex
	forgotten  map[Image][]extent
}

// NewTable returns an empty table with a random seed.
func NewTable() *Table {
	var b [8]byte
	rand.Read(b[:]) // never fails (Go 1.24)
	t := &Table{seed: binary.NativeEndian.Uint64(b[:])}
	t.zero = t.hash(zeroPage[:])
	t.images.Store(&map[Image]*space{})
	return t
}

// hash is a page's hash; zero stands for a page that is not known.
type hash struct{ lo, hi uint64 }

func (t *Table) hash(page []byte) hash {
	h := xxh3.Hash128Seed(page, t.seed)
	if h.Lo == 0 {
		h.Lo = 1
	}
	return hash{h.Lo, h.Hi}
}

// content returns the hash of a page and whether it is all zeros.
func (t *Table) content(page []byte) (h hash, zero bool) {
	if isZero(page) {
		return t.zero, true
	}
	return t.hash(page), false
}

// isZero looks at the first word on its own: it settles nearly every page.
func isZero(page []byte) bool {
	return binary.NativeEndian.Uint64(page) == 0 && bytes.Equal(page, zeroPage[:])
}

const (
	blockBits = 6 // pages in a block
	levelBits = 9 // pointers in each level above it
)

// A space holds the hashes of one image. Addresses above the levels, 64 GiB
// apart with pages of 4 KiB, are few enough for a map.
type space struct {
	mu  sync.Mutex
	top atomic.Pointer[map[uint64]*level[level[block]]] // replaced under mu, never changed
}

type level[T any] [1 << levelBits]atomic.Pointer[T]

// A block's words are atomic each for itself. A reader that meets a writer at
// the same page may see half of a hash, which is equal to no page's.
type block [1 << blockBits]struct{ lo, hi atomic.Uint64 }

// find returns the block of a page, or nil.
func (t *Table) find(im Image, page uint64) *block {
	s := (*t.images.Load())[im]
	if s == nil {
		return nil
	}
	outer := (*s.top.Load())[page>>(blockBits+2*levelBits)]
	if outer == nil {
		return nil
	}
	inner := outer.slot(page >> (blockBits + levelBits)).Load()
	if inner == nil {
		return nil
	}
	return inner.slot(page >> blockBits).Load()
}

// make returns the block of a page, which it makes if need be.
func (t *Table) make(im Image, page uint64) *block {
	if b := t.find(im, page); b != nil {
		return b
	}
	s := obtain(&t.mu, &t.images, im, newSpace)
	outer := obtain(&s.mu, &s.top, page>>(blockBits+2*levelBits), newZero[level[level[block]]])
	inner := obtainAt(outer.slot(page >> (blockBits + levelBits)))
	return obtainAt(inner.slot(page >> blockBits))
}

func newSpace() *space {
	s := new(space)
	s.top.Store(&map[uint64]*level[level[block]]{})
	return s
}

func newZero[T any]() *T { return new(T) }

func (l *level[T]) slot(i uint64) *atomic.Pointer[T] { return &l[i%(1<<levelBits)] }

// obtain returns what m has for k. To add it, the map is replaced by a larger
// copy, so that readers need no lock.
func obtain[K comparable, V any](mu *sync.Mutex, m *atomic.Pointer[map[K]*V], k K, create func() *V) *V {
	mu.Lock()
	defer mu.Unlock()
	old := *m.Load()
	if v := old[k]; v != nil {
		return v
	}
	larger := maps.Clone(old)
	larger[k] = create()
	m.Store(&larger)
	return larger[k]
}

func obtainAt[T any](p *atomic.Pointer[T]) *T {
	if v := p.Load(); v != nil {
		return v
	}
	p.CompareAndSwap(nil, new(T))
	return p.Load()
}

func (b *block) get(page uint64) hash {
	e := &b[page%(1<<blockBits)]
	return hash{e.lo.Load(), e.hi.Load()}
}

func (b *block) set(page uint64, h hash) {
	e := &b[page%(1<<blockBits)]
	e.lo.Store(h.lo)
	e.hi.Store(h.hi)
}

// known returns the hash of what was sent of a page, zero if nothing was.
func (t *Table) known(im Image, page uint64) hash {
	if b := t.find(im, page); b != nil {
		return b.get(page)
	}
	return hash{}
}
