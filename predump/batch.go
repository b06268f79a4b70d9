package predump

// batch gathers extents until there is enough for one read.
type batch struct {
	data    []byte
	extents []extent
	size    uint64 // bytes in extents
}

func (b *batch) reset() { b.extents, b.size = b.extents[:0], 0 }

func (b *batch) pages() uint64 { return b.size / PageSize }

// add adds e, in parts if it is large, and calls flush, which empties the
// batch, each time it is full.
func (b *batch) add(e extent, flush func() error) error {
	for e.start < e.end {
		n := min(e.end-e.start, uint64(len(b.data))-b.size)
		b.append(extent{e.start, e.start + n})
		e.start += n
		if b.size < uint64(len(b.data)) && len(b.extents) < maxExtents {
			continue
		}
		if err := flush(); err != nil {
			return err
		}
	}
	return nil
}

func (b *batch) append(e extent) {
	b.size += e.end - e.start
	if n := len(b.extents); n > 0 && b.extents[n-1].end == e.start {
		b.extents[n-1].end = e.end
		return
	}
	b.extents = append(b.extents, e)
}

// drop removes the first pages and returns them as extents.
func (b *batch) drop(pages uint64) []extent {
	bytes := pages * PageSize
	b.size -= bytes
	var out []extent
	for bytes > 0 {
		e := &b.extents[0]
		n := min(bytes, e.end-e.start)
		out = append(out, extent{e.start, e.start + n})
		e.start += n
		bytes -= n
		if e.start == e.end {
			b.extents = b.extents[1:]
		}
	}
	return out
}
