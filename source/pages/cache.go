package pages

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"migrate/predump"
)

// A cache keeps the content that was sent last of pages that were sent more
// than once: those are likely to be sent again. It is safe for concurrent use.
//
// Its memory is mapped and not the garbage collector's; the kernel gives it
// page by page.
type cache struct {
	mu     sync.Mutex
	memory []byte
	slots  map[place]slot
	keys   []place // of each slot that was used so far
	next   int     // slot to reuse when all are used
}

// place is one page of the workload.
type place struct {
	im   predump.Image
	page uint64
}

type slot struct {
	n     int
	round int // that the content was sent in
}

func newCache(size uint64) (*cache, error) {
	c := &cache{slots: map[place]slot{}}
	if size < pageSize {
		return c, nil
	}
	var err error
	c.memory, err = unix.Mmap(-1, 0, int(size/pageSize*pageSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("memory for the delta cache: %w", err)
	}
	return c, nil
}

// exchange keeps page as what is sent of k in this round, and appends to dst
// what was sent of it before, if that is still here. Of a page that is sent
// twice in a round nobody can tell which the target gets first, so such a one
// is not kept.
func (c *cache) exchange(dst []byte, k place, round int, page []byte) (old []byte, ok bool) {
	if c.memory == nil {
		return dst, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, found := c.slots[k]
	if found && s.round == round {
		delete(c.slots, k)
		return dst, false
	}
	if !found {
		s.n = c.take(k)
	}
	room := c.memory[s.n*pageSize : (s.n+1)*pageSize]
	if found {
		dst = append(dst, room...)
	}
	copy(room, page)
	c.slots[k] = slot{s.n, round}
	return dst, found
}

// take finds a slot for k: one never used, or else the one filled longest ago.
func (c *cache) take(k place) int {
	if len(c.keys) < len(c.memory)/pageSize {
		c.keys = append(c.keys, k)
		return len(c.keys) - 1
	}
	n := c.next
	c.next = (c.next + 1) % len(c.keys)
	if s, ok := c.slots[c.keys[n]]; ok && s.n == n {
		delete(c.slots, c.keys[n])
	}
	c.keys[n] = k
	return n
}

// drop forgets pages whose content is sent in another way.
func (c *cache) drop(im predump.Image, address, pages uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if uint64(len(c.slots)) < pages {
		c.dropAmong(im, address, pages)
		return
	}
	for i := range pages {
		delete(c.slots, place{im, address/pageSize + i})
	}
}

// dropAmong is drop for a range that is larger than the cache.
func (c *cache) dropAmong(im predump.Image, address, pages uint64) {
	for k := range c.slots {
		if k.im == im && k.page-address/pageSize < pages {
			delete(c.slots, k)
		}
	}
}

func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.slots)
	c.keys, c.next = c.keys[:0], 0
}

func (c *cache) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.memory
	c.memory = nil
	if m == nil {
		return nil
	}
	return unix.Munmap(m)
}
