package testload

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// memory is anonymous pages, each of which has the content that follows from
// its number and version.
type memory struct {
	gen      generator
	pages    []byte
	versions []uint32 // guarded by the page's lock
	locks    [256]sync.Mutex
	checked  atomic.Uint64
	dirtied  atomic.Uint64
}

func newMemory(mib int, gen generator) (*memory, error) {
	b, err := unix.Mmap(-1, 0, mib<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map %d MiB: %w", mib, err)
	}
	m := &memory{gen: gen, pages: b, versions: make([]uint32, len(b)/pageSize)}
	for i := range m.versions {
		gen.page(m.page(i), uint64(i), 0)
	}
	return m, nil
}

func (m *memory) page(i int) []byte      { return m.pages[i*pageSize : (i+1)*pageSize] }
func (m *memory) lock(i int) *sync.Mutex { return &m.locks[i%len(m.locks)] }

// rewrite gives a page its next version.
func (m *memory) rewrite(i int) {
	m.lock(i).Lock()
	defer m.lock(i).Unlock()
	m.versions[i]++
	m.gen.page(m.page(i), uint64(i), uint64(m.versions[i]))
	m.dirtied.Add(1)
}

// check compares a page with what it must hold; scratch is one page.
func (m *memory) check(i int, scratch []byte) error {
	m.lock(i).Lock()
	defer m.lock(i).Unlock()
	m.gen.page(scratch, uint64(i), uint64(m.versions[i]))
	m.checked.Add(1)
	if bytes.Equal(scratch, m.page(i)) {
		return nil
	}
	return fmt.Errorf("memory page %d is not in version %d", i, m.versions[i])
}

// checkAll checks every page and returns the first error.
func (m *memory) checkAll() error {
	scratch := make([]byte, pageSize)
	for i := range m.versions {
		if err := m.check(i, scratch); err != nil {
			return err
		}
	}
	return nil
}

// watch checks page after page for ever, some thousand a second.
func (m *memory) watch(fail func(error)) {
	scratch := make([]byte, pageSize)
	for i := 0; ; i = (i + 1) % len(m.versions) {
		if err := m.check(i, scratch); err != nil {
			fail(err)
		}
		if i%16 == 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// dirty rewrites rate pages a second, for ever, each time one picked at random
// from the first hot ones. Time that the process did not run is not made up for.
func (m *memory) dirty(rate float64, hot int, seed uint64, each func()) {
	r := rng(seed)
	pause := 4 * time.Millisecond
	if rate == 0 {
		pause = 50 * time.Millisecond
	}
	due := 0.0
	for last := time.Now(); ; {
		time.Sleep(pause)
		each()
		now := time.Now()
		due += rate * min(now.Sub(last), 40*time.Millisecond).Seconds()
		for last = now; due >= 1; due-- {
			m.rewrite(int(r.next() % uint64(hot)))
		}
	}
}
