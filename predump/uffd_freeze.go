package predump

import (
	"context"
	"os"
	"runtime"
	"sort"
	"sync"
	"sync/atomic"

	"migrate/internal/priority"
)

// Freeze scans once more. What cannot be told costs time, and is no error. The
// workload does not need the processors now, so all of them scan.
func (u *uffdTracker) Freeze(ctx context.Context, tasks []Task) (Frozen, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return nil, errClosed
	}
	var parts []*scanPart
	for _, t := range tasks {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		m, err := openMemory(t.PID)
		if err != nil {
			continue
		}
		defer m.close()
		parts = append(parts, u.parts(t, m)...)
	}
	scanParts(parts)
	f := unchangedPages{u.table, map[Image][]extent{}}
	for _, p := range parts {
		f.pages[p.image] = append(f.pages[p.image], p.unchanged...)
	}
	return f, nil
}

// scanPart is a part of a task's memory, to be scanned at one go.
type scanPart struct {
	image Image
	extent
	pagemap   *os.File
	unchanged []extent
}

// A part is large enough for a scan of a few milliseconds, and a mapping has not
// too many of them: most of a very large one is mostly empty.
const (
	partBytes = 128 << 20
	maxParts  = 64
)

// parts cuts what is watched of a task that stands still, in the order of the
// addresses.
func (u *uffdTracker) parts(t Task, m *memory) (parts []*scanPart) {
	w := u.tasks[t.PID]
	if w == nil || w.fd < 0 || !trusted(t.PID) {
		return nil
	}
	mappings, err := m.mappings()
	if err != nil {
		return nil
	}
	ours, _ := w.split(m, mappings)
	for _, e := range ours {
		size := max(partBytes, (e.end-e.start)/maxParts&^(PageSize-1))
		for ; e.start < e.end; e.start += size {
			part := extent{e.start, min(e.start+size, e.end)}
			parts = append(parts, &scanPart{t.image(), part, m.pagemap, nil})
		}
	}
	return parts
}

func scanParts(parts []*scanPart) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(parts)) {
		wg.Go(func() {
			_ = priority.High(func() error { // the workload stands still
				s := ioctlScanner{query: unwritten}
				for i := next.Add(1); i <= int64(len(parts)); i = next.Add(1) {
					parts[i-1].scan(&s)
				}
				return nil
			})
		})
	}
	wg.Wait()
}

// scan finds the pages that were not written to since they were protected.
func (p *scanPart) scan(s *ioctlScanner) {
	s.pagemap = p.pagemap
	err := s.scan(p.extent, func(e extent) error { p.unchanged = append(p.unchanged, e); return nil })
	if err != nil {
		p.unchanged = nil
	}
}

// unchangedPages are clean if the Table knows them too.
type unchangedPages struct {
	table *Table
	pages map[Image][]extent // sorted
}

func (f unchangedPages) Clean(im Image, addr, pages uint64) (n uint64, clean bool) {
	list := f.pages[im]
	i := sort.Search(len(list), func(i int) bool { return list[i].end > addr })
	if i == len(list) {
		return pages, false
	}
	if next := list[i]; addr < next.start {
		return min(pages, (next.start-addr)/PageSize), false
	}
	return f.table.run(im, addr, min(pages, (list[i].end-addr)/PageSize))
}
