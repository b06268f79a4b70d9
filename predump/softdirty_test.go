package predump

import (
	"context"
	"errors"
	"testing"
)

// criu is a PreDumper whose kernel knows what was written to, because the test
// says so. It reads like CRIU, from the running child.
type criu struct {
	l     *load
	dirty []extent
	fail  error
	round int
}

func (c *criu) PreDump(ctx context.Context, round int, pages PageSink) error {
	c.round = round
	dirty := c.dirty
	c.dirty = nil // the bits are cleared, whatever follows
	for _, e := range dirty {
		b := make([]byte, e.end-e.start)
		if err := ReadPages(c.l.cmd.Process.Pid, e.start, b); err != nil {
			return err
		}
		if c.fail != nil {
			return c.fail
		}
		if err := pages.Data(ctx, Image{TaskImage, 1}, e.start, b); err != nil {
			return err
		}
	}
	return nil
}

func part(e extent, page, pages uint64) extent {
	return extent{e.start + page*PageSize, e.start + (page+pages)*PageSize}
}

func TestSoftDirty(t *testing.T) {
	l, table, s := startLoad(t, "data"), NewTable(), newStore()
	data := l.areas["data"]
	c := &criu{l: l, dirty: []extent{data}}
	tracker := NewSoftDirty(table, c)
	round := func(want int) Stats {
		t.Helper()
		s.pages = map[uint64]string{}
		stats, err := tracker.Round(t.Context(), l.tasks, s)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.in(data); got != want {
			t.Errorf("round %d sent %d pages, want %d", c.round, got, want)
		}
		return stats
	}
	round(dataPages)
	wantEqual(t, l, s, data)

	l.do(t, "write 300 10")
	c.dirty = []extent{part(data, 300, 20)} // ten of them have what they had
	if stats := round(10); stats.Unchanged != 10 {
		t.Errorf("round: %+v, want 10 pages unchanged", stats)
	}

	table.Forget(Image{TaskImage, 1}, part(data, 1000, 0).start, 5)
	round(5)
	wantEqual(t, l, s, part(data, 1000, 5))

	table.Forget(Image{TaskImage, 1}, part(data, 2000, 0).start, 5)
	f, err := tracker.Freeze(t.Context(), l.tasks())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		at, pages, n uint64
		clean        bool
	}{{0, dataPages, 2000, true}, {2000, 100, 5, false}, {2005, 100, 100, true}, {dataPages, 8, 8, false}} {
		n, clean := f.Clean(Image{TaskImage, 1}, part(data, want.at, 0).start, want.pages)
		if n != want.n || clean != want.clean {
			t.Errorf("Clean(%d, %d) = %d, %v, want %d, %v", want.at, want.pages, n, clean, want.n, want.clean)
		}
	}
}

// TestSoftDirtyLost: a pre-dump that fails has cleared the bits. The next round
// reads everything, and before that nothing is clean.
func TestSoftDirtyLost(t *testing.T) {
	l, table, s := startLoad(t, "data"), NewTable(), newStore()
	data := l.areas["data"]
	c := &criu{l: l, dirty: []extent{data}}
	tracker := NewSoftDirty(table, c)
	if _, err := tracker.Round(t.Context(), l.tasks, s); err != nil {
		t.Fatal(err)
	}
	l.do(t, "write 300 10")
	c.dirty, c.fail = []extent{part(data, 300, 10)}, errors.New("broken link")
	if _, err := tracker.Round(t.Context(), l.tasks, s); !errors.Is(err, c.fail) {
		t.Errorf("Round = %v, want %v", err, c.fail)
	}
	f, err := tracker.Freeze(t.Context(), l.tasks())
	if err != nil {
		t.Fatal(err)
	}
	if n, clean := f.Clean(Image{TaskImage, 1}, data.start, dataPages); n != dataPages || clean {
		t.Errorf("Clean after a lost pre-dump = %d, %v, want %d, false", n, clean, dataPages)
	}
	c.fail = nil
	if _, err := tracker.Round(t.Context(), l.tasks, s); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, l, s, data)
}
