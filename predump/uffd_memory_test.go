package predump

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var mappingCommands = []string{"map", "replace", "move", "grow", "discard", "reopen", "allocate"}

// TestUffdChangedMappings: whatever the child does to its mappings between
// rounds, nothing that differs is called clean, and what stays is.
func TestUffdChangedMappings(t *testing.T) {
	for _, command := range mappingCommands {
		t.Run(command, func(t *testing.T) {
			x := startTracked(t, "data")
			x.round(t)
			x.do(t, command)
			x.round(t)
			x.do(t, command)
			if clean := x.freeze(t, x.areas["data"]); clean < dataPages/2 {
				t.Errorf("%d pages of the data are clean", clean)
			}
		})
	}
}

// TestUffdRoundAfterChange: a round that follows has it all.
func TestUffdRoundAfterChange(t *testing.T) {
	x := startTracked(t, "data")
	x.round(t)
	for _, command := range mappingCommands {
		x.do(t, command)
	}
	stats := x.round(t)
	if stats.Untracked != 0 {
		t.Errorf("round: %+v", stats)
	}
	data := x.areas["data"]
	x.wantHad(t, data)
	if clean := x.freeze(t, data); clean < dataPages-200 {
		t.Errorf("%d pages of the data are clean, want nearly all", clean)
	}
}

// wantHad compares pages that are there with what the sink got.
func (x *tracked) wantHad(t *testing.T, area extent) {
	t.Helper()
	m, err := openMemory(x.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	err = m.scan.scan(area, func(e extent) error {
		wantEqual(t, x.load, x.store, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestUffdKinds(t *testing.T) {
	x := startTracked(t, "kinds")
	x.round(t)
	wantEqual(t, x.load, x.store, x.areas["unreadable"])
	x.freeze(t, extent{})
	f, err := x.tracker.Freeze(t.Context(), x.tasks())
	if err != nil {
		t.Fatal(err)
	}
	for area, want := range map[string]int{"file": 1, "shared": 0, "sharedmemory": 0, "unreadable": 16} {
		if got := x.store.in(x.areas[area]); got != want {
			t.Errorf("%s: %d pages sent, want %d", area, got, want)
		}
		got := 0
		for addr := x.areas[area].start; addr < x.areas[area].end; addr += PageSize {
			if _, clean := f.Clean(x.tasks()[0].image(), addr, 1); clean {
				got++
			}
		}
		if got != want {
			t.Errorf("%s: %d pages clean, want %d", area, got, want)
		}
	}
}

// TestUffdSparse: reservations cost neither time nor page tables.
func TestUffdSparse(t *testing.T) {
	x := startTracked(t, "sparse")
	before := x.pageTables(t)
	begun := time.Now()
	for range 3 {
		x.round(t)
	}
	x.freeze(t, extent{})
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("three rounds over two 64 GiB mappings took %v", took)
	}
	if got := x.store.in(x.areas["reserved"]); got != 0 {
		t.Errorf("%d pages of the reserved mapping sent, want 0", got)
	}
	if grown := x.pageTables(t) - before; grown > 1024 {
		t.Errorf("page tables have grown by %d kB", grown)
	}
}

func (l *load) pageTables(t *testing.T) (kb int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(b[bytes.Index(b, []byte("VmPTE:")):]), "VmPTE: %d", &kb); err != nil {
		t.Fatal(err)
	}
	return kb
}

// TestUffdDirect: what a device writes during a round is not lost.
func TestUffdDirect(t *testing.T) {
	x := startTracked(t, "data")
	x.do(t, "direct")
	for range 30 {
		if stats := x.round(t); stats.Untracked != 0 {
			t.Fatalf("round: %+v", stats)
		}
	}
	x.freeze(t, extent{})
}

// TestUffdForeignWriters: of a task that gives the kernel leave to write to its
// memory at any time nothing is clean, and its rounds read everything.
func TestUffdForeignWriters(t *testing.T) {
	for _, command := range []string{"aio", "io_uring", "uffd"} {
		for _, when := range []string{"before the first round", "later", "before the freeze"} {
			t.Run(command+" "+when, func(t *testing.T) {
				x := startTracked(t, "data")
				if when != "before the first round" {
					x.round(t)
				}
				if when == "before the freeze" {
					x.round(t)
				}
				x.do(t, command)
				time.Sleep(20 * time.Millisecond) // so that it is at it
				if when != "before the freeze" {
					if stats := x.round(t); stats.Untracked != 1 {
						t.Errorf("round: %+v, want the task untracked", stats)
					}
					if n := x.flags(t); n != 0 {
						t.Errorf("%d mappings of a task that is not trusted are watched", n)
					}
				}
				if clean := x.freeze(t, x.areas["data"]); clean != 0 {
					t.Errorf("%d pages are clean, want 0", clean)
				}
			})
		}
	}
}

// TestUffdTaken: memory that another userfaultfd watches is compared by hash.
func TestUffdTaken(t *testing.T) {
	x := startTracked(t, "data sparse")
	fd, err := stealUffd(x.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	data := x.areas["data"]
	if err := register(fd, data); err != nil {
		t.Fatal(err)
	}
	x.round(t)
	wantEqual(t, x.load, x.store, data)
	x.do(t, "write 10 5")
	if stats := x.round(t); stats.Unchanged < dataPages-5 {
		t.Errorf("round: %+v, want the data compared", stats)
	}
	wantEqual(t, x.load, x.store, data)
	if clean := x.freeze(t, data); clean != 0 {
		t.Errorf("%d pages are clean that somebody else protects, want 0", clean)
	}
}

// TestUffdHuge: huge pages are left to the final dump.
func TestUffdHuge(t *testing.T) {
	const setting = "/proc/sys/vm/nr_hugepages"
	before, err := os.ReadFile(setting)
	if err != nil {
		t.Skip("this machine has no huge pages")
	}
	if err := os.WriteFile(setting, []byte("8"), 0); err != nil {
		t.Skip("this machine has no huge pages to give")
	}
	defer os.WriteFile(setting, before, 0)
	x := startTracked(t, "huge")
	if x.areas["huge"] == (extent{}) {
		t.Skip("this machine has no huge pages free")
	}
	x.round(t)
	x.freeze(t, extent{})
	f, err := x.tracker.Freeze(t.Context(), x.tasks())
	if err != nil {
		t.Fatal(err)
	}
	huge := x.areas["huge"]
	if n, clean := f.Clean(x.tasks()[0].image(), huge.start, (huge.end-huge.start)/PageSize); clean || n != 512 {
		t.Errorf("Clean of huge pages = %d, %v, want 512, false", n, clean)
	}
}

// TestUffdSinkFails: what a round protected and did not send is sent by the next,
// and not clean before.
func TestUffdSinkFails(t *testing.T) {
	x := startTracked(t, "data")
	x.round(t)
	x.do(t, "write 500 1000")
	calls, broken := 0, errors.New("broken link")
	_, err := x.tracker.Round(t.Context(), x.tasks, failing{x.store, func() error {
		if calls++; calls > 2 {
			return broken
		}
		return nil
	}})
	if !errors.Is(err, broken) {
		t.Fatalf("Round = %v, want %v", err, broken)
	}
	t.Run("freeze", func(t *testing.T) { x.freeze(t, extent{}) })
	if err := x.group.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.round(t)
	wantEqual(t, x.load, x.store, x.areas["data"])
}

func TestReadPages(t *testing.T) {
	l := startLoad(t, "kinds")
	for _, area := range []string{"data", "unreadable"} {
		b := make([]byte, 16*PageSize)
		if err := ReadPages(l.cmd.Process.Pid, l.areas[area].start, b); err != nil || isZero(b[:PageSize]) {
			t.Errorf("ReadPages of %s = %v", area, err)
		}
	}
	if err := ReadPages(l.cmd.Process.Pid, 0, make([]byte, PageSize)); err == nil {
		t.Error("ReadPages of no memory works")
	}
	l.stop()
	if err := ReadPages(l.cmd.Process.Pid, l.areas["data"].start, make([]byte, PageSize)); !errors.Is(err, unix.ESRCH) {
		t.Errorf("ReadPages of no process = %v, want %v", err, unix.ESRCH)
	}
}
