package predump

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// scanners are both ways to find pages; every kernel has the second.
var scanners = map[string]func(*memory){"scan": (*memory).useScan, "entries": (*memory).useEntries}

// passWith is Pass with a choice of scanner.
func passWith(t *testing.T, l *load, table *Table, sink Sink, use func(*memory)) Stats {
	t.Helper()
	p := newPass(table, sink)
	for _, task := range l.tasks() {
		if err := p.task(t.Context(), task, use); err != nil {
			t.Fatal(err)
		}
	}
	return p.stats
}

// wantEqual compares what the sink got of an area with the child's memory.
func wantEqual(t *testing.T, l *load, s *store, area extent) {
	t.Helper()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", l.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	page := make([]byte, PageSize)
	for addr := area.start; addr < area.end; addr += PageSize {
		if _, err := mem.ReadAt(page, int64(addr)); err != nil {
			t.Fatal(err)
		}
		if s.pages[addr] != string(page) {
			t.Fatalf("page %#x differs from the child's", addr)
		}
	}
}

func TestPassSendsWhatChanged(t *testing.T) {
	for name, use := range scanners {
		t.Run(name, func(t *testing.T) {
			l, table, s := startLoad(t, "data"), NewTable(), newStore()
			data := l.areas["data"]
			first := passWith(t, l, table, s, use)
			wantEqual(t, l, s, data)
			if first.Sent < dataPages-(zeroEnd-zeroAt) || first.Zero < zeroEnd-zeroAt || first.Unchanged != 0 {
				t.Errorf("first pass: %+v", first)
			}
			s.pages = map[uint64]string{}
			l.do(t, "write 90 20") // ten pages with data, ten with zeros
			l.do(t, "write 4000 1")
			second := passWith(t, l, table, s, use)
			if got := s.in(data); got != 21 {
				t.Errorf("second pass sent %d pages of the data, want 21: %+v", got, second)
			}
			if got := second.Sent + second.Zero + second.Unchanged; got != second.Pages {
				t.Errorf("second pass does not add up: %+v", second)
			}
		})
	}
}

func TestPassKinds(t *testing.T) {
	for name, use := range scanners {
		t.Run(name, func(t *testing.T) {
			l, s := startLoad(t, "kinds"), newStore()
			stats := passWith(t, l, NewTable(), s, use)
			wantEqual(t, l, s, l.areas["unreadable"])
			for area, want := range map[string]int{"file": 1, "shared": 0, "sharedmemory": 0, "unreadable": 16} {
				if got := s.in(l.areas[area]); got != want {
					t.Errorf("%s: %d pages sent, want %d", area, got, want)
				}
			}
			guarded := l.areas["guarded"]
			wantEqual(t, l, s, extent{guarded.start, guarded.start + 4*PageSize})
			wantEqual(t, l, s, extent{guarded.start + 8*PageSize, guarded.end})
			t.Logf("%+v", stats)
		})
	}
}

// TestPassSparse: what was never touched costs nothing, or nearly nothing
// where every page has to be asked for.
func TestPassSparse(t *testing.T) {
	for name, limit := range map[string]time.Duration{"scan": 2 * time.Second, "entries": 10 * time.Second} {
		t.Run(name, func(t *testing.T) {
			l, s := startLoad(t, "sparse"), newStore()
			begun := time.Now()
			stats := passWith(t, l, NewTable(), s, scanners[name])
			took := time.Since(begun)
			t.Logf("%v, %+v", took, stats)
			if took > limit {
				t.Errorf("pass over two 64 GiB mappings took %v, want less than %v", took, limit)
			}
			if got := s.in(l.areas["reserved"]); got != 0 {
				t.Errorf("%d pages of the reserved mapping sent, want 0", got)
			}
			if got := s.in(l.areas["sparse"]); got < 1 || got > 512 { // one, or one huge page
				t.Errorf("%d pages of the sparse mapping sent, want one touch of it", got)
			}
		})
	}
}

// TestPassWhileWritten: pages may tear, but table and target agree, which is
// all that the final dump needs.
func TestPassWhileWritten(t *testing.T) {
	l, table, s := startLoad(t, "data"), NewTable(), newStore()
	l.do(t, "churn")
	for range 3 {
		if _, err := Pass(t.Context(), l.tasks, table, s); err != nil {
			t.Fatal(err)
		}
	}
	im := Image{TaskImage, 1}
	for addr, page := range s.pages {
		if v := table.Classify(im, addr, []byte(page)); v == Send {
			t.Fatalf("the table does not know the page %#x that was sent", addr)
		}
	}
}

func TestPassEndOfTask(t *testing.T) {
	for name, end := range map[string]func(*load){
		"exit": func(l *load) { l.stop() },
		"zombie": func(l *load) {
			_ = l.cmd.Process.Kill()
			var info unix.Siginfo
			must(unix.Waitid(unix.P_PID, l.cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil))
		},
		"exec": func(l *load) {
			fmt.Fprintln(l.in, "exec")
			for line := ""; line != "ready\n"; {
				line, _ = l.out.ReadString('\n')
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, s := startLoad(t, "data"), newStore()
			once := end
			s.each = func() {
				if once != nil {
					once(l)
					once = nil
				}
			}
			stats, err := Pass(t.Context(), l.tasks, NewTable(), s)
			if err != nil {
				t.Errorf("Pass = %v, want nil", err)
			}
			if once != nil || stats.Sent == 0 {
				t.Errorf("the pass saw nothing before the end: %+v", stats)
			}
			if stats, err := Pass(t.Context(), l.tasks, NewTable(), s); err != nil {
				t.Errorf("Pass after the end = %+v, %v, want nil", stats, err)
			}
		})
	}
}

// errSink fails with an error that also means the end of a task.
type errSink struct{ err error }

func (e errSink) Data(context.Context, Image, uint64, []byte) error { return e.err }
func (e errSink) Zero(context.Context, Image, uint64, uint64) error { return e.err }

func TestPassErrors(t *testing.T) {
	l := startLoad(t, "data")
	for _, want := range []error{unix.ESRCH, os.ErrNotExist} {
		if _, err := Pass(t.Context(), l.tasks, NewTable(), errSink{want}); !errors.Is(err, want) {
			t.Errorf("Pass with a sink that fails = %v, want %v", err, want)
		}
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := Pass(ctx, l.tasks, NewTable(), newStore()); !errors.Is(err, cause) {
		t.Errorf("Pass when cancelled = %v, want the cause", err)
	}
}

func BenchmarkPass(b *testing.B) {
	l := startLoad(b, "data")
	for name, table := range map[string]func() *Table{
		"first":     NewTable,
		"unchanged": func() func() *Table { t := NewTable(); return func() *Table { return t } }(),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(dataPages * PageSize)
			for b.Loop() {
				if _, err := Pass(b.Context(), l.tasks, table(), errSink{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
