package predump

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"migrate"
)

// Stop makes every task of the workload stand still, also those that come
// meanwhile, and returns when none is in a system call any more, as the cgroup
// freezer does. resume lets them go on; without an error it is called once. Every
// stop makes epoll_wait(2) and its like return EINTR, as any stop does (signal(7)).
type Stop func(ctx context.Context) (resume func() error, err error)

// NewUffd returns the tracker that has the kernel write-protect pages and tell
// which were written to (userfaultfd(2), PAGEMAP_SCAN). Every task of the tree is
// stopped once for about a tenth of a millisecond, the first time that it is
// seen, and with stop in every round for as long as that takes; nothing is done
// meanwhile, however large the workload. The first write to a page after a round
// costs the workload some 0.7 µs.
//
// Memory that it cannot watch is read whole in every round, compared with the
// Table, and never clean: that of tasks with an AIO ring, io_uring, RDMA or a
// userfaultfd of their own, of those that could not be stopped, and of mappings
// that the kernel does not protect. So are tasks and mappings that came after
// the last round.
//
// The error says what the kernel lacks.
func NewUffd(t *Table, stop Stop) (Tracker, error) {
	if err := Probe().UffdWP; err != nil {
		return nil, err
	}
	return &uffdTracker{table: t, stop: stop, tasks: map[int]*watched{}}, nil
}

type uffdTracker struct {
	table *Table
	stop  Stop

	mu     sync.Mutex
	tasks  map[int]*watched // by PID
	closed bool
}

var errClosed = errors.New("the tracker is closed")

func (u *uffdTracker) Name() migrate.Tracker { return migrate.TrackerUffdWP }

// portion is what a round reads of a task.
type portion struct {
	task   Task
	state  *watched
	memory *memory
	pages  []extent
}

// Round protects what was written to while the tasks run, stops them for a
// moment, and then reads. The stop is for writes that pass the page tables by:
// those of a read(2) with O_DIRECT go to pages that were looked up when it began,
// perhaps before they were protected. When every task has left the kernel such
// calls are over, and what is read then has what they wrote.
func (u *uffdTracker) Round(ctx context.Context, tasks func() []Task, sink Sink) (Stats, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	p := newPass(u.table, sink)
	if u.closed {
		return p.stats, errClosed
	}
	work, err := u.protect(ctx, tasks())
	if err == nil {
		p.stats.Stopped, err = u.barrier(ctx)
	}
	for _, w := range work {
		if err == nil {
			err = u.read(ctx, p, w)
		}
		if err != nil { // protected, but not sent: it would pass for clean
			u.forget(w)
		}
		w.memory.close()
	}
	return p.stats, err
}

// protect finds and protects the pages of every task that were written to.
func (u *uffdTracker) protect(ctx context.Context, tasks []Task) (work []*portion, err error) {
	u.reap(tasks)
	for i, t := range tasks {
		if err := context.Cause(ctx); err != nil {
			return work, err
		}
		if u.tasks[t.PID] == nil && u.borrows(tasks, i) {
			continue
		}
		m, err := openMemory(t.PID)
		if err != nil {
			if gone(err) {
				continue
			}
			return work, err
		}
		w := &portion{task: t, memory: m, pages: u.table.takeForgotten(t.image())}
		err = u.protectTask(w)
		if gone(err) { // or has another memory by now, for the next round
			u.forget(w)
			m.close()
			continue
		}
		work = append(work, w)
		if err != nil {
			return work, fmt.Errorf("watching memory of process %d: %w", t.PID, err)
		}
	}
	return work, nil
}

// borrows reports whether a task runs in the memory of one before it, or of one
// that is watched, and is copied with that: it is about to execute a program of
// its own.
func (u *uffdTracker) borrows(tasks []Task, i int) bool {
	for j, t := range tasks {
		if (j < i || u.tasks[t.PID] != nil) && sameMemory(t.PID, tasks[i].PID) {
			return true
		}
	}
	return false
}

// reap lets go of tasks that have ended.
func (u *uffdTracker) reap(tasks []Task) {
	for pid, w := range u.tasks {
		if !slices.ContainsFunc(tasks, func(t Task) bool { return t.PID == pid }) {
			w.close()
			delete(u.tasks, pid)
		}
	}
}

func (u *uffdTracker) protectTask(w *portion) error {
	mappings, err := w.memory.mappings()
	if err != nil {
		return err
	}
	ours, others := u.watch(w, mappings)
	find := func(query query, mappings []extent) error {
		s := ioctlScanner{pagemap: w.memory.pagemap, query: query}
		for _, m := range mappings {
			err := s.scan(m, func(e extent) error { w.pages = append(w.pages, e); return nil })
			if err != nil {
				// What it has protected is not known.
				u.table.Forget(w.task.image(), m.start, (m.end-m.start)/PageSize)
				return err
			}
		}
		return nil
	}
	if err := find(written, ours); err != nil {
		return err
	}
	return find(ownPages, others)
}

// watch returns the mappings that are watched now, and the others. It puts a
// userfaultfd into a task that has none for the memory that it has now.
func (u *uffdTracker) watch(w *portion, mappings []extent) (ours, others []extent) {
	pid := w.task.PID
	if w.state = u.tasks[pid]; w.state == nil {
		w.state = &watched{fd: -1}
		u.tasks[pid] = w.state
	}
	if w.state.distrust {
		return nil, mappings
	}
	if ours, others = w.state.split(w.memory, mappings); len(ours) > 0 {
		return ours, others
	}
	w.state.close() // new, or it has executed another program
	if fd, err := stealUffd(pid); err == nil {
		w.state.fd = fd
	}
	return w.state.split(w.memory, mappings)
}

func (u *uffdTracker) barrier(ctx context.Context) (time.Duration, error) {
	begun := time.Now()
	resume, err := u.stop(ctx)
	if err != nil {
		return 0, fmt.Errorf("stopping the workload: %w", err)
	}
	if err := resume(); err != nil {
		return 0, fmt.Errorf("resuming the workload: %w", err)
	}
	return time.Since(begun), nil
}

func (u *uffdTracker) read(ctx context.Context, p *pass, w *portion) error {
	if !w.state.distrust && !trusted(w.task.PID) {
		w.state.distrust = true
		w.state.close()
	}
	p.stats.Tasks++
	if w.state.fd < 0 {
		p.stats.Untracked++
	}
	err := ignoreGone(p.list(ctx, w.memory, w.task.image(), w.pages))
	if err != nil {
		return fmt.Errorf("copying memory of process %d: %w", w.task.PID, err)
	}
	return nil
}

func (u *uffdTracker) forget(w *portion) {
	for _, e := range w.pages {
		u.table.Forget(w.task.image(), e.start, (e.end-e.start)/PageSize)
	}
}

// Close closes every userfaultfd, with which the kernel drops the protection.
func (u *uffdTracker) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	var errs []error
	for _, w := range u.tasks {
		errs = append(errs, w.close())
	}
	clear(u.tasks)
	return errors.Join(errs...)
}
