package source

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"migrate/criu"
	"migrate/predump"
	"migrate/source/pages"
	"migrate/transport"
)

// A finalSink takes the pages of the final dump from CRIU. Its time is frozen
// time, so it only tells what the target has from what must be looked at; the
// path's encoders look.
//
// CRIU sends pages, or lists them without content: then it is read from the
// frozen tasks themselves. Either way its list is the truth about what exists,
// and only the tracker's word and the table decide what crosses the wire.
type finalSink struct {
	final  *pages.Final
	frozen func() (frozenTree, error) // waits until all is known
	parent func(criu.PageImage) bool  // whether CRIU may list this image instead of sending it
	done   *atomic.Uint64             // bytes of memory handled
	verify bool
	// changed: CRIU sends only what has changed, since it was given a parent, and
	// the tracker is not asked about that.
	changed bool
	list    []criu.Extent // what was listed, for verify
	sums    []sum         // of content that cannot be read again, for verify
	skip    []byte
}

// frozenTree is what is known of the tree once it is frozen.
type frozenTree struct {
	clean predump.Frozen
	lazy  map[uint64]criu.LazyPages // by image; where CRIU lists pages it does not say so itself
	read  pages.Reader
}

type sum struct {
	im      predump.Image
	address uint64
	data    []byte
}

// Open implements [criu.PageSink].
func (f *finalSink) Open(im criu.PageImage) (bool, error) { return f.parent(im), nil }

// Extent implements [criu.PageSink].
func (f *finalSink) Extent(e criu.Extent, r io.Reader) error {
	tree, err := f.frozen()
	if err != nil {
		return err
	}
	if f.verify {
		f.list = append(f.list, e)
	}
	im := predump.Image{Type: uint8(e.Image.Type), ID: e.Image.ID}
	present := e.Flags&criu.PagePresent != 0
	for e.Pages > 0 {
		n, clean, flags := e.Pages, false, e.Flags
		if !present || !f.changed {
			n, clean = tree.clean.Clean(im, e.Address, e.Pages)
		}
		if !present {
			n, flags = listed(tree.lazy[im.ID], e.Address, n)
		}
		if err := f.pages(im, e.Address, n, flags, clean, present, r); err != nil {
			return err
		}
		f.done.Add(n * pageSize)
		e.Address += n * pageSize
		e.Pages -= n
	}
	return nil
}

// listed returns how many of some listed pages are of one kind, and the flags
// that CRIU would have sent them with.
func listed(l criu.LazyPages, address, pages uint64) (uint64, criu.PageFlags) {
	n, lazy := l.Cut(address, pages)
	if lazy {
		return n, criu.PagePresent | criu.PageLazy
	}
	return n, criu.PagePresent
}

// pages lists some pages of one kind.
func (f *finalSink) pages(im predump.Image, address, n uint64, flags criu.PageFlags, clean, present bool, r io.Reader) error {
	switch {
	case clean && present:
		if err := f.discard(r, n*pageSize); err != nil {
			return err
		}
		fallthrough
	case clean:
		return f.final.Have(im, address, n, uint8(flags))
	case !present:
		return f.final.Unsure(im, address, n, uint8(flags), nil)
	case f.verify && im.Type != predump.TaskImage:
		return f.keep(im, address, n, uint8(flags), r)
	}
	return f.final.Unsure(im, address, n, uint8(flags), r)
}

// discard reads what the target has already.
func (f *finalSink) discard(r io.Reader, n uint64) error {
	if f.skip == nil {
		f.skip = make([]byte, 256<<10)
	}
	for n > 0 {
		m, err := io.ReadFull(r, f.skip[:min(n, uint64(len(f.skip)))])
		if err != nil {
			return err
		}
		n -= uint64(m)
	}
	return nil
}

// keep lists shared memory, of which only CRIU knows where to read it.
func (f *finalSink) keep(im predump.Image, address, n uint64, flags uint8, r io.Reader) error {
	data := make([]byte, n*pageSize)
	if _, err := io.ReadFull(r, data); err != nil {
		return err
	}
	f.sums = append(f.sums, sum{im, address, data})
	return f.final.Unsure(im, address, n, flags, bytes.NewReader(data))
}

// Close implements [criu.PageSink].
func (f *finalSink) Close() error { return nil }

// compareAll has the target compare everything that was listed with what it is
// here, except for pages, by process, that the kernel may have written to since.
// It returns the number of pages.
func (f *finalSink) compareAll(except map[uint64][]uint64) (n uint64, err error) {
	for _, e := range f.list {
		if e.Image.Type != criu.TaskImage {
			continue
		}
		for _, r := range without(e.Address, e.Pages, except[e.Image.ID]) {
			if err := f.final.Sum(predump.Image{Type: uint8(e.Image.Type), ID: e.Image.ID}, r.address, r.pages); err != nil {
				return n, err
			}
			n += r.pages
		}
	}
	for _, s := range f.sums {
		if err := f.final.SumOf(s.im, s.address, s.data); err != nil {
			return n, err
		}
		n += uint64(len(s.data)) / pageSize
	}
	return n, nil
}

type pageRange struct{ address, pages uint64 }

// without cuts single pages out of a range.
func without(address, pages uint64, except []uint64) (left []pageRange) {
	end := address + pages*pageSize
	for _, page := range slices.Sorted(slices.Values(except)) {
		if page < address || page >= end {
			continue
		}
		if page > address {
			left = append(left, pageRange{address, (page - address) / pageSize})
		}
		address = page + pageSize
	}
	if address < end {
		left = append(left, pageRange{address, (end - address) / pageSize})
	}
	return left
}

// readers maps the numbers of images to tasks of this host.
func readers(tasks []predump.Task) pages.Reader {
	pids := make(map[uint64]int, len(tasks))
	for _, t := range tasks {
		pids[uint64(t.VPID)] = t.PID
	}
	return func(im predump.Image, address uint64, buf []byte) error {
		pid, ok := pids[im.ID]
		if !ok || im.Type != predump.TaskImage {
			return fmt.Errorf("no task for image %d/%d", im.Type, im.ID)
		}
		return predump.ReadPages(pid, address, buf)
	}
}

// never is the word of a tracker that there is not.
type never struct{}

// Clean implements [predump.Frozen].
func (never) Clean(_ predump.Image, _, pages uint64) (uint64, bool) { return pages, false }

const pageSize = transport.PageSize
