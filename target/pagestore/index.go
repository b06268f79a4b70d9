package pagestore

import (
	"fmt"
	"slices"
)

const pageSize = 4096

// A run says that the pages from address on lie in a file from slot on.
type run struct {
	address uint64
	pages   uint64
	slot    uint64
}

func (r run) end() uint64 { return r.address + r.pages*pageSize }

// index maps addresses to slots. Runs ascend and do not overlap.
type index []run

// add appends pages behind the last run, which they must not precede.
func (x *index) add(address, pages, slot uint64) error {
	if n := len(*x); n > 0 {
		last := &(*x)[n-1]
		if address < last.end() {
			return fmt.Errorf("pages at %#x come after those at %#x", address, last.address)
		}
		if address == last.end() && slot == last.slot+last.pages {
			last.pages += pages
			return nil
		}
	}
	*x = append(*x, run{address, pages, slot})
	return nil
}

// insert puts pages where they belong; none of them may be there already.
func (x *index) insert(address, pages, slot uint64) {
	i, _ := slices.BinarySearchFunc(*x, address, func(r run, a uint64) int {
		switch {
		case r.address < a:
			return -1
		case r.address > a:
			return 1
		}
		return 0
	})
	*x = slices.Insert(*x, i, run{address, pages, slot})
}

// A part of a range is either wholly in one run or in none.
type part struct {
	address, pages, slot uint64
	found                bool
}

// parts cuts a range at the borders of the index's runs.
func (x index) parts(address, pages uint64) []part {
	end := address + pages*pageSize
	i, _ := slices.BinarySearchFunc(x, address, func(r run, a uint64) int {
		if r.end() <= a {
			return -1
		}
		return 1
	})
	var out []part
	for address < end {
		if i == len(x) || x[i].address >= end {
			return append(out, part{address: address, pages: (end - address) / pageSize})
		}
		r := x[i]
		if address < r.address {
			out = append(out, part{address: address, pages: (r.address - address) / pageSize})
			address = r.address
		}
		stop := min(end, r.end())
		out = append(out, part{address, (stop - address) / pageSize, r.slot + (address-r.address)/pageSize, true})
		address = stop
		i++
	}
	return out
}
