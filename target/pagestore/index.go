package pagestore

import (
	"fmt"
	"sort"
)

const pageSize = 4096

// A run says that the pages from address on lie in a file from slot on.
type run struct {
	address uint64
	pages   uint64
	slot    uint64
}

func (r run) end() uint64 { return r.address + r.pages*pageSize }

// from returns what is left of r from address on.
func (r run) from(address uint64) run {
	n := (address - r.address) / pageSize
	return run{address, r.pages - n, r.slot + n}
}

// joins reports whether next goes on where r ends, in memory and in the file.
func (r run) joins(next run) bool {
	return next.address == r.end() && next.slot == r.slot+r.pages
}

// index maps addresses to slots. Runs ascend and do not overlap.
type index []run

// add appends pages behind the last run, which they must not precede.
func (x *index) add(r run) error {
	if n := len(*x); n > 0 {
		last := &(*x)[n-1]
		if r.address < last.end() {
			return fmt.Errorf("pages at %#x come after those at %#x", r.address, last.address)
		}
		if last.joins(r) {
			last.pages += r.pages
			return nil
		}
	}
	*x = append(*x, r)
	return nil
}

// fits reports whether pages at address can be added.
func (x index) fits(address uint64) bool {
	return len(x) == 0 || x[len(x)-1].end() <= address
}

// at returns the pages from address on that lie beside each other. If there are
// none it returns how many are missing at most; 0 means all that follow.
func (x index) at(address uint64) (r run, found bool) {
	i := sort.Search(len(x), func(i int) bool { return x[i].end() > address })
	switch {
	case i == len(x):
		return run{address: address}, false
	case x[i].address > address:
		return run{address: address, pages: (x[i].address - address) / pageSize}, false
	}
	return x[i].from(address), true
}

// scattered maps single pages to slots: those that appear after the first
// round, in any order.
type scattered map[uint64]uint64

// at returns the pages from address on that lie beside each other, or are
// missing beside each other, at most limit.
func (x scattered) at(address, limit uint64) (r run, found bool) {
	if len(x) == 0 {
		return run{address: address, pages: limit}, false
	}
	slot, found := x[address]
	r = run{address, 1, slot}
	for r.pages < limit {
		next, ok := x[r.end()]
		if ok != found || ok && next != slot+r.pages {
			break
		}
		r.pages++
	}
	return r, found
}

func (x scattered) add(r run) {
	for i := range r.pages {
		x[r.address+i*pageSize] = r.slot + i
	}
}
