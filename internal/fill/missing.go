package fill

import (
	"cmp"
	"slices"
)

// piece is a range of a task's memory that is not there yet, and where in the
// store its content lies.
type piece struct {
	addr, size uint64 // bytes
	file       int
	offset     uint64 // bytes
}

func (p piece) end() uint64 { return p.addr + p.size }

// within cuts p to what lies in [start, end). The size is 0 if nothing does.
func (p piece) within(start, end uint64) piece {
	from, to := max(p.addr, start), min(p.end(), end)
	if from >= to {
		return piece{}
	}
	return piece{addr: from, size: to - from, file: p.file, offset: p.offset + from - p.addr}
}

// missing is what a task's memory lacks: pieces in rising order, which do not
// overlap.
type missing []piece

// after returns the index of the first piece that ends behind addr.
func (m missing) after(addr uint64) int {
	i, _ := slices.BinarySearchFunc(m, addr, func(p piece, addr uint64) int {
		if p.end() <= addr {
			return -1
		}
		return 1
	})
	return i
}

// at returns the piece that addr is in.
func (m missing) at(addr uint64) (piece, bool) {
	i := m.after(addr)
	if i == len(m) || m[i].addr > addr {
		return piece{}, false
	}
	return m[i], true
}

// next returns the first piece at or behind addr, cut to what lies there, or
// else the first of all.
func (m missing) next(addr uint64) piece {
	i := m.after(addr)
	if i == len(m) {
		return m[0]
	}
	return m[i].within(addr, m[i].end())
}

// remove takes [start, end) out and returns what of it was missing.
func (m *missing) remove(start, end uint64) []piece {
	i := m.after(start)
	var removed, rest []piece
	j := i
	for ; j < len(*m) && (*m)[j].addr < end; j++ {
		p := (*m)[j]
		removed = append(removed, p.within(start, end))
		for _, q := range []piece{p.within(0, start), p.within(end, p.end())} {
			if q.size > 0 {
				rest = append(rest, q)
			}
		}
	}
	if i == 0 && j == 1 && len(rest) <= 1 { // the usual case, filling from the front, moves nothing
		copy((*m)[1-len(rest):], rest)
		*m = (*m)[1-len(rest):]
		return removed
	}
	*m = slices.Replace(*m, i, j, rest...)
	return removed
}

// add puts p in, in place of what was there, which it returns.
func (m *missing) add(p piece) (replaced []piece) {
	replaced = m.remove(p.addr, p.end())
	*m = slices.Insert(*m, m.after(p.addr), p)
	return replaced
}

// move does what mremap(2) does: what was missing in [from, from+size) is
// missing at to. It returns the pieces as they were and as they are, and those that
// were at to.
func (m *missing) move(from, to, size uint64) (old, moved, replaced []piece) {
	old = m.remove(from, from+size)
	replaced = m.remove(to, to+size)
	for _, p := range old {
		p.addr += to - from
		m.add(p)
		moved = append(moved, p)
	}
	return old, moved, replaced
}

// gaps returns the parts of p where nothing is missing.
func (m missing) gaps(p piece) (gaps []piece) {
	at := p.addr
	for i := m.after(at); i < len(m) && m[i].addr < p.end(); i++ {
		if g := p.within(at, m[i].addr); g.size > 0 {
			gaps = append(gaps, g)
		}
		at = m[i].end()
	}
	if g := p.within(at, p.end()); g.size > 0 {
		gaps = append(gaps, g)
	}
	return gaps
}

func (m missing) bytes() (n uint64) {
	for _, p := range m {
		n += p.size
	}
	return n
}

// byContent orders pieces by where their content lies.
func byContent(a, b piece) int {
	return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.offset, b.offset))
}

// contentLess returns what of the content of all no piece of still refers to.
// Both must be in the order of their content; addresses in the result say nothing.
func contentLess(all, still []piece) (free []piece) {
	for _, p := range all {
		at := p.offset
		for len(still) > 0 && (still[0].file < p.file || still[0].file == p.file && still[0].offset < p.offset+p.size) {
			s := still[0]
			if s.file == p.file && s.offset+s.size > at {
				if s.offset > at {
					free = append(free, piece{file: p.file, offset: at, size: s.offset - at})
				}
				at = s.offset + s.size
			}
			if s.file == p.file && s.offset+s.size > p.offset+p.size {
				break // it reaches into the next
			}
			still = still[1:]
		}
		if at < p.offset+p.size {
			free = append(free, piece{file: p.file, offset: at, size: p.offset + p.size - at})
		}
	}
	return free
}
