package predump

import (
	"context"
	"fmt"
	"sync"

	"migrate"
)

// A PreDumper has CRIU pre-dump the tree, each time relative to the time before.
type PreDumper interface {
	// PreDump makes the pre-dump of a round, from 1, and hands on to pages what
	// CRIU sends. Pages that CRIU does not send have not changed since the round
	// before, or are no more.
	PreDump(ctx context.Context, round int, pages PageSink) error
}

// PageSink takes the pages that CRIU sends; data are whole pages, and the
// PageSink's only until it returns.
type PageSink interface {
	Data(ctx context.Context, im Image, addr uint64, data []byte) error
}

// NewSoftDirty returns the tracker that has CRIU find the changed pages, by the
// kernel's soft-dirty bits.
func NewSoftDirty(t *Table, p PreDumper) Tracker { return &softDirtyTracker{table: t, dumper: p} }

type softDirtyTracker struct {
	table  *Table
	dumper PreDumper

	mu    sync.Mutex
	round int
	lost  bool // an unfinished pre-dump has cleared the bits of pages that did not arrive
}

func (s *softDirtyTracker) Name() migrate.Tracker { return migrate.TrackerSoftDirty }

func (s *softDirtyTracker) Round(ctx context.Context, tasks func() []Task, sink Sink) (Stats, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := newPass(s.table, sink)
	s.round++
	whole := s.lost
	s.lost = true
	if err := s.dumper.PreDump(ctx, s.round, compared{p}); err != nil {
		return p.stats, fmt.Errorf("pre-dump %d: %w", s.round, err)
	}
	if whole {
		s.table.dropForgotten() // all of it is read
	}
	for _, t := range tasks() {
		if err := p.again(ctx, t, whole); err != nil {
			return p.stats, fmt.Errorf("copying memory of process %d: %w", t.PID, err)
		}
	}
	s.lost = false
	return p.stats, nil
}

// compared sends what is not as the table has it.
type compared struct{ p *pass }

func (c compared) Data(ctx context.Context, im Image, addr uint64, data []byte) error {
	for len(data) > 0 {
		n := min(len(data), batchBytes)
		if err := c.p.extent(ctx, im, addr, data[:n]); err != nil {
			return err
		}
		data, addr = data[n:], addr+uint64(n)
	}
	return nil
}

// again reads what was forgotten of a task, or all of it.
func (p *pass) again(ctx context.Context, t Task, whole bool) error {
	p.stats.Tasks++
	forgotten := p.table.takeForgotten(t.image())
	if !whole && len(forgotten) == 0 {
		return nil
	}
	m, err := openMemory(t.PID)
	if err == nil {
		defer m.close()
		if whole {
			err = p.memory(ctx, m, t.image())
		} else {
			err = p.list(ctx, m, t.image(), forgotten)
		}
	}
	return ignoreGone(err)
}

// Freeze calls clean what the Table knows. CRIU's list of pages tells the rest:
// what changed since the last round it sends, and it is not asked about.
func (s *softDirtyTracker) Freeze(context.Context, []Task) (Frozen, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost {
		return allDirty{}, nil
	}
	return knownPages{s.table}, nil
}

// Close has nothing to undo: the bits say nothing to anybody who did not clear
// them first.
func (s *softDirtyTracker) Close() error { return nil }

type knownPages struct{ table *Table }

func (f knownPages) Clean(im Image, addr, pages uint64) (uint64, bool) {
	return f.table.run(im, addr, pages)
}
