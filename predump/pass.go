package predump

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Task is one process of the workload.
type Task struct {
	PID  int // in the caller's PID namespace
	VPID int // in the workload's own
}

func (t Task) image() Image { return Image{TaskImage, uint64(t.VPID)} }

// Sink takes the pages that changed. Addresses are of the first page; data are
// whole pages and the Sink's only until it returns. When a call returned nil the
// Table counts those pages as the target's; if they do not arrive, it must be told
// by [Table.Forget].
type Sink interface {
	Data(ctx context.Context, im Image, addr uint64, data []byte) error
	Zero(ctx context.Context, im Image, addr, pages uint64) error
}

// Stats counts what a Pass did with the pages.
type Stats struct {
	Tasks     uint64 // that were looked at
	Untracked uint64 // of these, that the tracker cannot watch: they were read whole
	Pages     uint64 // read
	Sent      uint64 // given to Sink.Data
	Zero      uint64 // given to Sink.Zero
	Unchanged uint64 // as they were sent before
	Skipped   uint64 // could not be read: gone meanwhile, or guard pages

	Stopped time.Duration // for which the workload was made to stand still
}

const (
	batchBytes = 1 << 20
	maxExtents = 512 // below IOV_MAX
)

// Pass reads the private memory of tasks that run, and gives sink what is not
// as the table has it. Tasks that end or execute another program meanwhile, and
// memory that goes, are no error; new tasks and memory are left to the next pass.
// It reads with one thread, so as to leave processors to the workload.
func Pass(ctx context.Context, tasks func() []Task, table *Table, sink Sink) (Stats, error) {
	p := newPass(table, sink)
	for _, t := range tasks() {
		if err := p.task(ctx, t, (*memory).useScan); err != nil {
			return p.stats, fmt.Errorf("copying memory of process %d: %w", t.PID, err)
		}
	}
	return p.stats, nil
}

// pass reads pages, compares them with the table, and sends what changed.
type pass struct {
	table *Table
	sink  Sink
	stats Stats
	batch batch
}

func newPass(table *Table, sink Sink) *pass {
	return &pass{table: table, sink: sink, batch: batch{data: make([]byte, batchBytes)}}
}

func (p *pass) task(ctx context.Context, t Task, use func(*memory)) error {
	m, err := openMemory(t.PID)
	if err == nil {
		defer m.close()
		use(m)
		p.stats.Tasks++
		err = p.memory(ctx, m, t.image())
	}
	return ignoreGone(err)
}

// ignoreGone drops an error that says no more than that the task has ended.
func ignoreGone(err error) error {
	if err != nil && gone(err) && !errors.As(err, new(ownError)) {
		return nil
	}
	return err
}

// ownError is an error that does not come from the task, whatever it is: a
// sink's connection may be gone too.
type ownError struct{ error }

func (e ownError) Unwrap() error { return e.error }

func (p *pass) memory(ctx context.Context, m *memory, im Image) error {
	mappings, err := m.mappings()
	if err != nil {
		return err
	}
	return p.pages(ctx, m, im, func(found func(extent) error) error {
		for _, mapping := range mappings {
			if err := m.scan.scan(mapping, found); err != nil {
				return err
			}
		}
		return nil
	})
}

// list reads some pages.
func (p *pass) list(ctx context.Context, m *memory, im Image, pages []extent) error {
	return p.pages(ctx, m, im, func(found func(extent) error) error {
		for _, e := range pages {
			if err := found(e); err != nil {
				return err
			}
		}
		return nil
	})
}

// pages reads what find finds.
func (p *pass) pages(ctx context.Context, m *memory, im Image, find func(found func(extent) error) error) error {
	p.batch.reset()
	flush := func() error { return p.flush(ctx, m, im) }
	if err := find(func(e extent) error { return p.batch.add(e, flush) }); err != nil {
		return err
	}
	return flush()
}

// flush reads the batch's pages and sends those that changed.
func (p *pass) flush(ctx context.Context, m *memory, im Image) error {
	for len(p.batch.extents) > 0 {
		if err := context.Cause(ctx); err != nil {
			return ownError{err}
		}
		n, err := m.read(&p.batch)
		if err != nil {
			return err
		}
		if n == 0 {
			p.stats.Skipped++
			p.table.unknow(im, p.batch.drop(1)[0].start, 1) // what the target has of it may be old
			continue
		}
		data := p.batch.data
		for _, e := range p.batch.drop(n) {
			size := e.end - e.start
			if err := p.extent(ctx, im, e.start, data[:size]); err != nil {
				return err
			}
			data = data[size:]
		}
	}
	p.batch.reset()
	return nil
}

// What becomes of a page.
const (
	unchanged = iota
	changed
	zeroed
)

// extent compares some pages with the table and sends runs of equal fate.
func (p *pass) extent(ctx context.Context, im Image, addr uint64, data []byte) error {
	var hashes [batchBytes / PageSize]hash
	p.stats.Pages += uint64(len(data)) / PageSize
	begin, fate := uint64(0), unchanged
	for at := uint64(0); at < uint64(len(data)); at += PageSize {
		h, zero := p.table.content(data[at : at+PageSize])
		hashes[at/PageSize] = h
		now := changed
		if p.table.known(im, (addr+at)>>pageShift) == h {
			now = unchanged
		} else if zero {
			now = zeroed
		}
		if now == fate {
			continue
		}
		if err := p.run(ctx, im, addr+begin, data[begin:at], hashes[begin/PageSize:], fate); err != nil {
			return err
		}
		begin, fate = at, now
	}
	return p.run(ctx, im, addr+begin, data[begin:], hashes[begin/PageSize:], fate)
}

// run sends pages of one fate and then remembers them.
func (p *pass) run(ctx context.Context, im Image, addr uint64, data []byte, hashes []hash, fate int) error {
	pages := uint64(len(data)) / PageSize
	if pages == 0 {
		return nil
	}
	var err error
	switch fate {
	case unchanged:
		p.stats.Unchanged += pages
		return nil
	case changed:
		p.stats.Sent += pages
		err = p.sink.Data(ctx, im, addr, data)
	case zeroed:
		p.stats.Zero += pages
		err = p.sink.Zero(ctx, im, addr, pages)
	}
	if err != nil {
		return ownError{err}
	}
	for i := range pages {
		page := addr>>pageShift + i
		p.table.make(im, page).set(page, hashes[i])
	}
	return nil
}
