package predump

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// readBytes is how much is read from a process at a time.
const readBytes = 1 << 20

// Pass reads the memory of all tasks once, while they run, and gives sink what
// table does not know yet. Tasks that end or start another program meanwhile
// are no error: the final dump tells what there is in the end. A pass that fails
// leaves the table unusable.
func Pass(ctx context.Context, tasks func() []Task, table *Table, sink Sink) (Stats, error) {
	p := &pass{ctx: ctx, table: table, sink: sink, buf: make([]byte, readBytes)}
	for _, t := range tasks() {
		if err := p.task(t); err != nil && !gone(err) {
			return p.stats, fmt.Errorf("memory of process %d: %w", t.PID, err)
		}
	}
	return p.stats, nil
}

type pass struct {
	ctx   context.Context
	table *Table
	sink  Sink
	buf   []byte
	stats Stats
}

// errSink tells an error of the sink's from the end of a process.
type errSink struct{ error }

func (e errSink) Unwrap() error { return e.error }

func gone(err error) bool {
	if errors.As(err, new(errSink)) {
		return false
	}
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOMEM)
}

func (p *pass) task(t Task) error {
	list, err := areas(t.PID)
	if err != nil {
		return err
	}
	s, err := newScanner(t.PID)
	if err != nil {
		return err
	}
	defer s.close()
	im := Image{TaskImage, uint64(t.VPID)}
	for _, a := range list {
		err := s.each(a, func(start, end uint64) error { return p.read(t.PID, im, start, end) })
		if err != nil {
			return err
		}
	}
	return nil
}

// read copies [start, end) in pieces. A page that cannot be read any more has
// been unmapped since, and is passed over.
func (p *pass) read(pid int, im Image, start, end uint64) error {
	for start < end {
		if err := context.Cause(p.ctx); err != nil {
			return errSink{err}
		}
		n, err := readMemory(pid, start, p.buf[:min(end-start, readBytes)])
		if errors.Is(err, unix.ESRCH) {
			return err
		}
		n -= n % PageSize
		if n == 0 {
			start += PageSize
			continue
		}
		if err := p.compare(im, start, p.buf[:n]); err != nil {
			return errSink{err}
		}
		start += uint64(n)
	}
	return nil
}

func readMemory(pid int, address uint64, buf []byte) (int, error) {
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(len(buf))
	remote := []unix.RemoteIovec{{Base: uintptr(address), Len: len(buf)}}
	return unix.ProcessVMReadv(pid, local, remote, 0)
}

// compare gives the sink runs of pages with one verdict.
func (p *pass) compare(im Image, address uint64, data []byte) error {
	from, last := 0, Verdict(0)
	for at := 0; at < len(data); at += PageSize {
		v := p.table.update(im, address+uint64(at), data[at:at+PageSize])
		if v != last {
			if err := p.give(last, im, address+uint64(from), data[from:at]); err != nil {
				return err
			}
			from, last = at, v
		}
	}
	return p.give(last, im, address+uint64(from), data[from:])
}

func (p *pass) give(v Verdict, im Image, address uint64, data []byte) error {
	pages := uint64(len(data) / PageSize)
	p.stats.Pages += pages
	switch v {
	case Send:
		p.stats.Sent += pages
		return p.sink.Data(p.ctx, im, address, data)
	case Zero:
		p.stats.Zero += pages
		return p.sink.Zero(p.ctx, im, address, pages)
	case Have:
		p.stats.Unchanged += pages
	}
	return nil
}
