package fill

import (
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/lazymap"
)

const space = 64 // pages of an address space in these tests

// fakeMemory is an address space as the kernel keeps it. Each page is mapped
// with a userfaultfd, mapped without, or not at all; it is there, or missing;
// and the program knows what it must hold: the number of a page, or 0.
type fakeMemory struct {
	t     *testing.T
	k     *fakeKernel
	pages [space]fakePage
	queue []event
	dead  bool
	shut  bool
}

type fakePage struct {
	registered, there bool
	holds, must       uint64
}

type fakeKernel struct{ all []*fakeMemory }

func (m *fakeMemory) place(addr, size uint64, content func(i uint64) uint64) (uint64, error) {
	switch {
	case m.shut:
		m.t.Error("used after it was closed")
	case m.dead:
		return 0, unix.ESRCH
	case m.changing():
		return 0, unix.EAGAIN
	}
	for i := addr / pageSize; i < (addr+size)/pageSize; i++ {
		if !m.pages[i].registered {
			return 0, unix.ENOENT // also for a part, as validate_dst_vma does
		}
	}
	for n := uint64(0); n < size/pageSize; n++ {
		p := &m.pages[addr/pageSize+n]
		if p.there {
			if n > 0 {
				return n * pageSize, unix.EAGAIN
			}
			return 0, unix.EEXIST
		}
		p.there, p.holds = true, content(n)
	}
	return size, nil
}

func (m *fakeMemory) copy(addr uint64, b []byte) (uint64, error) {
	return m.place(addr, uint64(len(b)), func(i uint64) uint64 { return binary.NativeEndian.Uint64(b[i*pageSize:]) })
}

func (m *fakeMemory) zero(addr, size uint64) (uint64, error) {
	return m.place(addr, size, func(uint64) uint64 { return 0 })
}

func (m *fakeMemory) changing() bool {
	return slices.ContainsFunc(m.queue, func(e event) bool { return e.kind != eventPageFault })
}

func (m *fakeMemory) wake(uint64, uint64) {}
func (m *fakeMemory) close()              { m.shut = true }

// events gives faults first, as userfaultfd_ctx_read does.
func (m *fakeMemory) events([]byte) ([]event, error) {
	if len(m.queue) == 0 {
		return nil, nil
	}
	slices.SortStableFunc(m.queue, func(a, b event) int {
		rank := func(e event) int {
			if e.kind == eventPageFault {
				return 0
			}
			return 1
		}
		return rank(a) - rank(b)
	})
	e := m.queue[0]
	m.queue = m.queue[1:]
	return []event{e}, nil
}

// What the program does. Each tells of itself as the kernel would.

func (m *fakeMemory) touch(i uint64) {
	if p := &m.pages[i]; p.registered && !p.there {
		m.queue = append(m.queue, event{kind: eventPageFault, b: i*pageSize + 123})
	}
}

func (m *fakeMemory) dontNeed(from, to uint64) {
	for i := from; i < to; i++ {
		m.pages[i].there, m.pages[i].must, m.pages[i].holds = false, 0, 0
	}
	m.queue = append(m.queue, event{kind: eventRemove, a: from * pageSize, b: to * pageSize})
}

func (m *fakeMemory) unmapped(from, to uint64) event {
	for i := from; i < to; i++ {
		m.pages[i] = fakePage{}
	}
	return event{kind: eventUnmap, a: from * pageSize, b: to * pageSize}
}

func (m *fakeMemory) moved(from, to, n uint64) event {
	for i := range n {
		m.pages[to+i] = m.pages[from+i]
		m.pages[from+i] = fakePage{}
	}
	return event{kind: eventRemap, a: from * pageSize, b: to * pageSize, c: n * pageSize}
}

func (m *fakeMemory) forked() event {
	child := &fakeMemory{t: m.t, k: m.k, pages: m.pages}
	m.k.all = append(m.k.all, child)
	return event{kind: eventFork, a: uint64(len(m.k.all) - 1)}
}

// act does one thing at random, or two at the same time whose events may come
// in either order. Of three the events do not tell what happened.
func (m *fakeMemory) act(r *rand.Rand) {
	if m.changing() {
		m.touch(r.Uint64N(space))
		return
	}
	from, size := r.Uint64N(space-8), 1+r.Uint64N(8)
	to := r.Uint64N(space - 8)
	apart := from+size <= to || to+size <= from
	switch r.IntN(12) {
	case 0:
		m.dontNeed(from, from+size)
	case 1:
		m.queue = append(m.queue, m.unmapped(from, from+size))
	case 2:
		if apart {
			m.queue = append(m.queue, m.unmapped(to, to+size), m.moved(from, to, size))
		}
	case 3:
		if len(m.k.all) < 6 {
			m.queue = append(m.queue, m.forked())
		}
	case 4: // munmap in one thread, mremap to the same place in another
		if apart {
			u, v := m.unmapped(to, to+size), m.moved(from, to, size)
			m.queue = append(m.queue, v, u)
		}
	case 5: // fork in one thread, mremap in another
		if apart && len(m.k.all) < 6 {
			u := m.unmapped(to, to+size)
			f, v := m.forked(), m.moved(from, to, size)
			m.queue = append(m.queue, u, v, f)
		}
	default:
		m.touch(from)
	}
}

// makeStore returns a filler whose store holds the pages 8 to 56 of task 1, each
// with its number in it; every fifth is empty.
func makeStore(t *testing.T) *filler {
	t.Helper()
	dir := t.TempDir()
	b := make([]byte, space*pageSize)
	for i := uint64(0); i < space; i++ {
		if i%5 != 0 {
			binary.NativeEndian.PutUint64(b[i*pageSize:], i)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "pages"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "map")
	m := lazymap.Map{Files: []string{"pages"}, Rows: []lazymap.Row{
		{Image: 1, Address: 8 * pageSize, Pages: 20, Slot: 8}, {Image: 1, Address: 28 * pageSize, Pages: 28, Slot: 28},
	}}
	if err := lazymap.Write(path, m); err != nil {
		t.Fatal(err)
	}
	f := newFiller(slog.New(slog.DiscardHandler))
	f.control = &control{fd: -1, lost: true}
	s, err := openStore(path, f.log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close() })
	f.store, f.mapPath, f.total = s, path, s.total
	return f
}

// Whatever a program does to its memory while it is filled in, each page that is
// mapped ends up with what it must hold, in all its children too, and content is
// given back as soon as nobody lacks it.
func TestRandomProgram(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 1))
		f := makeStore(t)
		k := &fakeKernel{}
		root := &fakeMemory{t: t, k: k}
		for i := uint64(4); i < 60; i++ {
			root.pages[i].registered = true
			if i >= 8 && i < 56 && i%5 != 0 {
				root.pages[i].must = i
			}
		}
		k.all = []*fakeMemory{root}
		f.open = func(fd int) memory { return k.all[fd] }
		f.add(1, 0)
		f.restored = true
		f.goOn()
		f.letGo = time.Time{} // long ago: time does not pass here
		for steps := 0; !f.complete(); steps++ {
			for _, m := range k.all {
				if r.IntN(3) == 0 && len(m.queue) < 4 && !m.shut {
					m.act(r)
				}
			}
			f.chunk = uint64(1+r.IntN(3)) * pageSize
			if _, err := f.step(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if steps > 10000 {
				t.Fatalf("seed %d: it does not end", seed)
			}
		}
		for n, m := range k.all {
			for i, p := range m.pages {
				if p.registered && p.holds != p.must {
					t.Fatalf("seed %d: page %d of process %d holds %d, must %d (there: %v)", seed, i, n, p.holds, p.must, p.there)
				}
			}
		}
		if f.done != f.total {
			t.Errorf("seed %d: done %d of %d", seed, f.done, f.total)
		}
		if !f.store.shared { // else it is emptied at the end
			checkDropped(t, f)
		}
	}
}

func checkDropped(t *testing.T, f *filler) {
	t.Helper()
	b := make([]byte, 48*pageSize)
	if err := f.store.read(piece{offset: 8 * pageSize}, b); err != nil {
		t.Fatal(err)
	}
	if n, zero := leadingRun(b); !zero || n != len(b) {
		t.Error("the store is not empty")
	}
}

func TestBackgroundIn(t *testing.T) {
	for _, c := range []struct{ running, quiet, want time.Duration }{
		{0, 0, noFault},
		{50 * time.Millisecond, time.Millisecond, noFault - time.Millisecond},
		{50 * time.Millisecond, noFault, 0}, // nobody waits any more
		{firstFaults - time.Millisecond, 0, time.Millisecond},
		{firstFaults, 0, 0}, // long enough
		{time.Hour, 0, 0},
	} {
		if got := backgroundIn(c.running, c.quiet); got != c.want {
			t.Errorf("running for %v, quiet for %v: %v, want %v", c.running, c.quiet, got, c.want)
		}
	}
}
