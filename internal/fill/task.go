package fill

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/failpoint"
)

// family is the tasks that lack content of the same image: one of the tree, and
// the children that it has started since.
type family struct {
	members int
	all     []piece // in the order of their content
}

// task is one address space that is being filled.
type task struct {
	f      *filler
	fd     int // of mem, to poll
	mem    memory
	pid    uint64 // CRIU's number; children have their parent's
	family *family

	missing missing
	faults  []uint64 // pages that somebody waits for
	next    uint64   // where the background goes on
	lacking time.Time
	moved   []change // since nothing was under way for certain
	over    bool     // it has all, or is gone
}

// change is a piece that mremap(2) moved.
type change struct{ old, now piece }

var (
	errLater = errors.New("an event comes first") // and then the same again
	errGone  = errors.New("the task has ended")
)

// noMemoryTime is how long the kernel may have no memory for a page.
const noMemoryTime = 30 * time.Second

// drain reads and applies the events that wait. What the program does with its
// memory waits until its event is read, and so does every copy: the order
// in which events are read is the one in which they happened, but for those of
// threads that do it at the same time.
func (t *task) drain(buf []byte) error {
	for {
		events, err := t.mem.events(buf)
		if err != nil {
			return fmt.Errorf("reading events of %d: %w", t.pid, err)
		}
		if len(events) == 0 {
			if len(t.moved) > 0 && !t.mem.changing() {
				t.moved = nil
			}
			return nil
		}
		for _, e := range events {
			t.apply(e)
		}
	}
}

func (t *task) apply(e event) {
	switch e.kind {
	case eventPageFault:
		t.faults = append(t.faults, e.fault())
	case eventFork:
		t.fork(e.child())
	case eventRemap:
		old, now, replaced := t.missing.move(e.a, e.b, e.c)
		t.forgo(replaced)
		for i := range old {
			t.moved = append(t.moved, change{old[i], now[i]})
		}
	case eventRemove:
		t.forgo(t.missing.remove(e.a, e.b))
	case eventUnmap:
		t.unmap(e.a, e.b)
	}
}

// unmap drops what was missing in a range that is no more. The event of
// munmap(2) comes after the deed (userfaultfd_unmap_complete), so another
// thread may have moved memory to the same place meanwhile, and told of it
// first. That stays; if it was the other way round, the kernel will say that
// nothing is mapped there.
func (t *task) unmap(start, end uint64) {
	for _, p := range t.missing.remove(start, end) {
		if slices.ContainsFunc(t.moved, func(c change) bool { return c.now.within(p.addr, p.end()).size > 0 }) {
			t.missing.add(p)
			continue
		}
		t.forgo([]piece{p})
	}
}

// fork begins to fill a child, which lacks what its parent lacks. Where another
// thread of the parent moved memory at the same time, the child has it at one of
// both places, and the kernel refuses the other.
func (t *task) fork(fd int) {
	failpoint.Reach("fill:forked")
	child := &task{f: t.f, fd: fd, mem: t.f.open(fd), pid: t.pid, family: t.family, missing: slices.Clone(t.missing)}
	for _, c := range t.moved {
		for _, p := range child.missing.gaps(c.old) {
			child.missing.add(p)
			t.f.store.shared = true // the same content at two places
		}
	}
	t.family.members++
	t.f.total += child.missing.bytes()
	t.f.tasks = append(t.f.tasks, child)
}

// forgo counts pieces that need not be filled as done.
func (t *task) forgo(pieces []piece) {
	for _, p := range pieces {
		t.f.done += p.size
		t.f.release(t.family, p)
	}
}

// faultWindow is what a fault brings in, aligned: who touches a page is likely to
// touch its neighbours.
const faultWindow = 64 << 10

// serve lets go whoever waits for a page. One that no image lists was
// never touched, or was given back: it is zero.
func (t *task) serve() error {
	for len(t.faults) > 0 {
		page := t.faults[0]
		var err error
		if p, ok := t.missing.at(page); ok {
			err = t.place(p.within(t.window(page)))
		} else {
			err = t.zero(page)
		}
		if err != nil {
			return err
		}
		t.f.faulted = time.Now()
		t.mem.wake(page, pageSize) // also where nothing was to be done: it looks again
		t.faults = t.faults[1:]
	}
	return nil
}

// window is the range to fill for a fault. During a restore some neighbours
// may not be registered yet.
func (t *task) window(page uint64) (start, end uint64) {
	if !t.f.restored {
		return page, page + pageSize
	}
	start = page &^ (faultWindow - 1)
	t.next = start + faultWindow
	return start, start + faultWindow
}

func (t *task) zero(page uint64) error {
	_, err := t.put(page, zeroPage[:], true)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return t.judge(err)
}

// background fills in a bit more.
func (t *task) background() error {
	p := t.missing.next(t.next)
	p = p.within(p.addr, p.addr+t.f.chunk)
	if err := t.place(p); err != nil {
		return err
	}
	t.next = p.end()
	return nil
}

// place fills in one piece. Of a piece that cannot be filled to its end, what
// was filled is missing no more.
func (t *task) place(p piece) error {
	content := t.f.buf[:p.size]
	if err := t.f.store.read(p, content); err != nil {
		return fmt.Errorf("reading the store: %w", err)
	}
	limit, nothing := p.size, false
	for at := p.addr; len(content) > 0; {
		run, zero := leadingRun(content[:min(limit, uint64(len(content)))])
		n, err := t.put(at, content[:run], zero)
		switch {
		case n > 0:
		case errors.Is(err, unix.EEXIST):
			n = pageSize
		case errors.Is(err, unix.ENOENT) && run > pageSize:
			limit = pageSize // more than one mapping: page by page
			continue
		case errors.Is(err, unix.ENOENT) && !nothing:
			// A mapping that moves just now shows as an event the next time.
			nothing = true
			continue
		case errors.Is(err, unix.ENOENT):
			n = pageSize // nothing is mapped there any more
		default:
			return t.judge(err)
		}
		nothing = false
		t.forgo(t.missing.remove(at, at+n))
		at, content = at+n, content[n:]
	}
	return nil
}

func (t *task) put(at uint64, content []byte, zero bool) (n uint64, err error) {
	if zero {
		n, err = t.mem.zero(at, uint64(len(content)))
	} else {
		n, err = t.mem.copy(at, content)
	}
	if err == nil {
		t.lacking = time.Time{}
	}
	return n, err
}

// judge says what an error of the kernel means for the task.
func (t *task) judge(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EAGAIN):
		return errLater
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENOSPC): // the latter before Linux 4.15
		return errGone
	case errors.Is(err, unix.ENOMEM): // such as: the cgroup's limit
		if t.lacking.IsZero() {
			t.lacking = time.Now()
		}
		if time.Since(t.lacking) < noMemoryTime {
			return errLater
		}
	}
	return fmt.Errorf("filling the memory of %d: %w", t.pid, err)
}

var zeroPage [pageSize]byte

// leadingRun returns how much of content is alike at its beginning: zero pages,
// or others.
func leadingRun(content []byte) (size int, zero bool) {
	for at := 0; at < len(content); at += pageSize {
		z := bytes.Equal(content[at:at+pageSize], zeroPage[:])
		if at > 0 && z != zero {
			return at, zero
		}
		zero = z
	}
	return len(content), zero
}

// end closes the userfaultfd. The kernel then makes the mappings ordinary ones,
// and lets go whoever still waits for something.
func (t *task) end() {
	t.over = true
	t.mem.close()
	t.f.done += t.missing.bytes()
	t.missing, t.faults = nil, nil
	t.family.members--
	t.f.settle(t.family)
}
