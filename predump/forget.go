package predump

// Forget says that the target does not have the pages after all, because the
// link broke before they arrived. The next Round of any tracker reads and sends
// them again; at a Freeze before that they are not clean. It is safe for
// concurrent use.
func (t *Table) Forget(im Image, addr, pages uint64) {
	t.unknow(im, addr, pages)
	t.forgetting.Lock()
	defer t.forgetting.Unlock()
	if t.forgotten == nil {
		t.forgotten = map[Image][]extent{}
	}
	t.forgotten[im] = append(t.forgotten[im], extent{addr, addr + pages*PageSize})
}

// takeForgotten returns what was forgotten of an image since it was last asked.
func (t *Table) takeForgotten(im Image) []extent {
	t.forgetting.Lock()
	defer t.forgetting.Unlock()
	out := t.forgotten[im]
	delete(t.forgotten, im)
	return out
}

func (t *Table) dropForgotten() {
	t.forgetting.Lock()
	defer t.forgetting.Unlock()
	t.forgotten = nil
}

// unknow clears the hashes of pages; the next comparison finds them changed.
func (t *Table) unknow(im Image, addr, pages uint64) {
	for page, end := addr>>pageShift, addr>>pageShift+pages; page < end; {
		next := min(end, (page>>blockBits+1)<<blockBits)
		if b := t.find(im, page); b != nil {
			for ; page < next; page++ {
				b.set(page, hash{})
			}
		}
		page = next
	}
}

// run returns how many pages from addr on, of the given, are all known or all
// not. The nil Table knows none.
func (t *Table) run(im Image, addr, pages uint64) (n uint64, known bool) {
	if t == nil {
		return pages, false
	}
	first := addr >> pageShift
	known = t.known(im, first) != hash{}
	for n = 1; n < pages; {
		page := first + n
		b := t.find(im, page)
		for end := min(first+pages, (page>>blockBits+1)<<blockBits); page < end; page++ {
			if (b != nil && b.get(page) != hash{}) != known {
				return page - first, known
			}
		}
		n = page - first
	}
	return n, known
}
