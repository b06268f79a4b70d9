package fill

import (
	"errors"
	"log/slog"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/failpoint"
)

// chunkSize is how much the background fills in before it looks for faults
// again: about a tenth of a millisecond's worth.
const chunkSize = 128 << 10

// filler fills the memory of one tree. One goroutine does everything: events
// and copies must not overtake one another.
type filler struct {
	log     *slog.Logger
	control *control
	keeper  keeper
	criu    *intake // nil before it is told to open a store
	store   *store
	mapPath string
	wiped   map[uint64][]span // by CRIU's number: what children find empty
	open    func(fd int) memory

	tasks    []*task
	going    bool // the tree was let run, or nobody is left to say so
	restored bool // CRIU has registered all there is
	buf      []byte
	chunk    uint64
	events   []byte

	total, done uint64
	told        time.Time

	letGo, faulted time.Time // when the tree was let run, and somebody last waited for a page
}

// span is a range of addresses.
type span struct{ start, end uint64 }

func newFiller(log *slog.Logger) *filler {
	return &filler{
		log: log, open: func(fd int) memory { return uffd(fd) },
		buf: make([]byte, chunkSize), chunk: chunkSize, events: make([]byte, 64*eventSize),
	}
}

// add begins to fill the task whose userfaultfd is fd.
func (f *filler) add(pid uint64, fd int) {
	failpoint.Reach("fill:task")
	all := slices.Clone(f.store.images[pid])
	slices.SortFunc(all, byContent)
	f.tasks = append(f.tasks, &task{
		f: f, fd: fd, mem: f.open(fd), pid: pid, missing: slices.Clone(f.store.images[pid]), family: &family{members: 1, all: all},
	})
}

// step does what is to be done now and tells how long there is nothing more to
// do: 0 if there is, negative for until something comes.
func (f *filler) step() (time.Duration, error) {
	wait := time.Duration(-1)
	for i := 0; i < len(f.tasks); i++ { // it grows with forks
		later, err := f.attend(f.tasks[i])
		if err != nil {
			return 0, err
		}
		if later {
			wait = 100 * time.Microsecond
		}
	}
	f.tasks = slices.DeleteFunc(f.tasks, func(t *task) bool { return t.over })
	if !f.going || !f.restored {
		return wait, nil
	}
	if pause := backgroundIn(time.Since(f.letGo), time.Since(f.faulted)); pause > 0 && len(f.tasks) > 0 {
		if wait < 0 || pause < wait {
			wait = pause
		}
		return wait, nil
	}
	if f.done >= f.total/2 {
		failpoint.Reach("fill:half")
	}
	for _, t := range f.tasks {
		switch err := t.background(); {
		case errors.Is(err, errLater):
			wait = 100 * time.Microsecond
		case errors.Is(err, errGone):
			t.end()
			return 0, nil
		case err != nil:
			return 0, err
		default:
			return 0, nil
		}
	}
	return wait, nil
}

// At first a program touches one page after the other that is not there. The background
// leaves it a processor, and the filler to itself, until it has what it needs most.
const (
	firstFaults = 200 * time.Millisecond // at most
	noFault     = 2 * time.Millisecond   // it has
)

// backgroundIn tells for how long to wait with the background, from the times since the
// tree was let run and since the last fault.
func backgroundIn(running, quiet time.Duration) time.Duration {
	return max(0, min(firstFaults-running, noFault-quiet))
}

// attend reads the events of a task and serves its faults. A task that has all
// its memory is done with.
func (f *filler) attend(t *task) (later bool, err error) {
	if t.over {
		return false, nil
	}
	if err := t.drain(f.events); err != nil {
		return false, err
	}
	err = t.serve()
	switch {
	case errors.Is(err, errLater):
		return true, nil
	case errors.Is(err, errGone):
		t.end()
		return false, nil
	case err != nil:
		return false, err
	}
	if f.going && f.restored && len(t.missing) == 0 {
		t.end()
	}
	return false, nil
}

// settled is when the content of one place can be given back at once: nobody else
// lacks it, and the restore cannot be tried again.
func (f *filler) settled(fam *family) bool { return f.going && fam.members <= 1 && !f.store.shared }

// release gives back the content of a piece that a task lacks no more.
func (f *filler) release(fam *family, p piece) {
	if f.settled(fam) {
		f.store.drop(p)
	}
}

// settle gives back what no member of a family lacks, once one at most is left.
func (f *filler) settle(fam *family) {
	if !f.settled(fam) {
		return
	}
	var still []piece
	for _, t := range f.tasks {
		if t.family == fam && !t.over {
			still = append(still, t.missing...)
		}
	}
	slices.SortFunc(still, byContent)
	for _, p := range contentLess(fam.all, still) {
		f.store.drop(p)
	}
}

// goOn begins to fill in the background. From now on the store is used up: its
// map goes, so that nobody restores from it again.
func (f *filler) goOn() {
	if f.going {
		return
	}
	f.going = true
	f.letGo = time.Now()
	f.faulted = f.letGo
	if f.store == nil {
		return
	}
	if err := os.Remove(f.mapPath); err != nil && !errors.Is(err, os.ErrNotExist) {
		f.log.Warn("removing the map of a store that is being used up", "cause", err)
	}
	for _, t := range f.tasks {
		f.settle(t.family)
	}
}

// holdTime bounds what is filled in before the tree runs.
const holdTime = 10 * time.Second

// hold fills in what cannot wait: a child finds MADV_WIPEONFORK memory empty
// (madvise(2)), but the kernel does not tell of that, and the child's copy would
// be filled with the parent's.
func (f *filler) hold() error {
	end := time.Now().Add(holdTime)
	for _, t := range f.tasks {
		for _, w := range f.wiped[t.pid] {
			if err := t.placeAll(w, end); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *task) placeAll(w span, end time.Time) error {
	for {
		i := t.missing.after(w.start)
		if i == len(t.missing) || t.missing[i].addr >= w.end {
			return nil
		}
		p := t.missing[i].within(w.start, w.end)
		switch err := t.place(p.within(p.addr, p.addr+t.f.chunk)); {
		case errors.Is(err, errLater) && time.Now().Before(end):
			if err := t.drain(t.f.events); err != nil {
				return err
			}
			time.Sleep(100 * time.Microsecond)
		case err != nil:
			return err
		}
	}
}

// complete reports whether nothing is left to do.
func (f *filler) complete() bool { return f.going && f.restored && len(f.tasks) == 0 }

// wait waits until something is to be read, for at most the time given.
func (f *filler) wait(d time.Duration) (ready []bool, err error) {
	fds := []unix.PollFd{
		{Fd: int32(f.control.fd), Events: unix.POLLIN}, {Fd: int32(f.keeper.fd), Events: unix.POLLIN}, {Fd: int32(f.criu.pollFD()), Events: unix.POLLIN},
	}
	for _, t := range f.tasks {
		fds = append(fds, unix.PollFd{Fd: int32(t.fd), Events: unix.POLLIN})
	}
	var timeout *unix.Timespec
	if d >= 0 {
		ts := unix.NsecToTimespec(int64(d))
		timeout = &ts
	}
	if _, err := unix.Ppoll(fds, timeout, nil); err != nil && err != unix.EINTR {
		return nil, err
	}
	for _, p := range fds[:3] {
		ready = append(ready, p.Revents != 0)
	}
	return ready, nil
}
