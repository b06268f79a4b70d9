package predump

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// stores are a Sink that keeps every image apart.
type stores struct {
	mu     sync.Mutex
	images map[Image]*store
}

func (s *stores) of(im Image) *store {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.images[im] == nil {
		s.images[im] = newStore()
	}
	return s.images[im]
}

func (s *stores) Data(ctx context.Context, im Image, addr uint64, data []byte) error {
	return s.of(im).Data(ctx, im, addr, data)
}

func (s *stores) Zero(ctx context.Context, im Image, addr, pages uint64) error {
	return s.of(im).Zero(ctx, im, addr, pages)
}

// TestUffdTree: forks between rounds and while one runs, each with a memory that
// is written to; the tree is as in the cgroup at each moment.
func TestUffdTree(t *testing.T) {
	cmd := exec.Command("python3", "-c", `
import os, sys, random
b = bytearray(os.urandom(4 << 20))
print("0 0 0\nready", flush=True)
for line in sys.stdin:
    for _ in range(3):
        if os.fork() == 0:
            while True:
                i = random.randrange(len(b)); b[i] = (b[i] + 1) % 256
    b[random.randrange(len(b))] ^= 1
    print("done", flush=True)`)
	l := &load{cmd: cmd, areas: map[string]extent{}}
	l.run(t)
	x := &tracked{load: l, group: l.group(t), table: NewTable()}
	tracker, err := NewUffd(x.table, stopper(x.group))
	if err != nil {
		t.Fatal(err)
	}
	defer tracker.Close()
	tasks := func() (out []Task) {
		pids, err := x.group.Procs()
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			out = append(out, Task{pid, pid})
		}
		return out
	}
	sink := &stores{images: map[Image]*store{}}
	for range 3 {
		x.do(t, "fork")
		stats, err := tracker.Round(t.Context(), tasks, sink)
		if err != nil || stats.Untracked != 0 {
			t.Fatalf("Round = %+v, %v", stats, err)
		}
	}
	x.do(t, "fork") // these have no userfaultfd
	if err := x.group.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	f, err := tracker.Freeze(t.Context(), tasks())
	if err != nil {
		t.Fatal(err)
	}
	watchedTasks := 0
	for _, task := range tasks() {
		if sink.compare(t, f, task) > 0 {
			watchedTasks++
		}
	}
	if got := len(tasks()); got != 13 || watchedTasks != 10 {
		t.Errorf("%d of %d tasks have clean pages, want 10 of 13", watchedTasks, got)
	}
}

// compare compares what is clean of a task with what was sent of it.
func (s *stores) compare(t *testing.T, f Frozen, task Task) (clean int) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", task.PID))
	if err != nil {
		t.Fatal(err)
	}
	all, err := parseMaps(maps)
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, PageSize)
	for _, m := range all {
		for addr := m.start; addr < m.end; {
			n, yes := f.Clean(task.image(), addr, (m.end-addr)/PageSize)
			for end := addr + n*PageSize; addr < end; addr += PageSize {
				if !yes {
					continue
				}
				clean++
				if err := ReadPages(task.PID, addr, page); err != nil {
					t.Fatal(err)
				}
				if s.of(task.image()).pages[addr] != string(page) {
					t.Errorf("process %d: page %#x is called clean, and is not as it was sent", task.PID, addr)
				}
			}
		}
	}
	return clean
}

// TestUffdExec: another program has memory of its own, which is tracked anew.
func TestUffdExec(t *testing.T) {
	for _, rounds := range []int{0, 1, 2} {
		t.Run(strconv.Itoa(rounds)+" rounds after", func(t *testing.T) {
			x := startTracked(t, "data")
			x.round(t)
			fmt.Fprintln(x.load.in, "exec")
			x.ready(t)
			for range rounds {
				if stats := x.round(t); stats.Untracked != 0 {
					t.Errorf("round: %+v", stats)
				}
			}
			clean := x.freeze(t, x.areas["data"])
			if want := rounds > 0; clean > 0 != want {
				t.Errorf("%d pages of the data are clean", clean)
			}
			if err := x.tracker.Close(); err != nil || x.flags(t) != 0 {
				t.Errorf("Close = %v, and %d mappings are watched", err, x.flags(t))
			}
		})
	}
}

// TestUffdEndDuringRound: a task that ends or executes another program while it
// is read is no error, and nothing stays behind.
func TestUffdEndDuringRound(t *testing.T) {
	for name, end := range map[string]func(*load){
		"exit": func(l *load) { l.stop() },
		"exec": func(l *load) {
			fmt.Fprintln(l.in, "exec")
			for line := ""; line != "ready\n"; {
				line, _ = l.out.ReadString('\n')
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := startTracked(t, "data")
			x.round(t)
			x.do(t, "write 0 4000")
			once := end
			x.store.each = func() {
				if once != nil {
					once(x.load)
					once = nil
				}
			}
			x.round(t)
			if once != nil {
				t.Error("the round saw nothing before the end")
			}
			x.store.each = nil
			x.round(t)
			if name == "exec" {
				x.freeze(t, extent{})
			}
			if err := x.tracker.Close(); err != nil || openUffds(t) != 0 {
				t.Errorf("Close = %v; %d userfaultfds are open", err, openUffds(t))
			}
		})
	}
}

// TestUffdStopFails: a workload that cannot be stopped fails the round, and
// nothing is lost.
func TestUffdStopFails(t *testing.T) {
	x := startTracked(t, "data")
	broken := errors.New("no cgroup")
	stop := x.tracker.(*uffdTracker).stop
	x.tracker.(*uffdTracker).stop = func(context.Context) (func() error, error) { return nil, broken }
	if _, err := x.tracker.Round(t.Context(), x.tasks, x.store); !errors.Is(err, broken) {
		t.Errorf("Round = %v, want %v", err, broken)
	}
	x.tracker.(*uffdTracker).stop = stop
	x.round(t)
	wantEqual(t, x.load, x.store, x.areas["data"])
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := x.tracker.Round(ctx, x.tasks, x.store); !errors.Is(err, cause) {
		t.Errorf("Round when cancelled = %v, want the cause", err)
	}
}

// TestUffdVfork: a task that borrows its parent's memory is left alone, and the
// parent is copied though it cannot be stopped yet.
func TestUffdVfork(t *testing.T) {
	l := &load{cmd: exec.Command("python3", "-c", `
import ctypes, os
libc = ctypes.CDLL(None)
b = bytearray(os.urandom(4 << 20))
print("0 0 0\nready", flush=True)
if libc.syscall(58) == 0:
    libc.read(0, ctypes.create_string_buffer(1), 1)
    libc._exit(0)
os.read(0, 1)`), areas: map[string]extent{}}
	l.run(t)
	pid := l.cmd.Process.Pid
	child := 0
	for child == 0 {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		if err != nil {
			t.Fatal(err)
		}
		child, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	defer unix.Kill(child, unix.SIGKILL)
	tracker, err := NewUffd(NewTable(), func(context.Context) (func() error, error) { return func() error { return nil }, nil })
	if err != nil {
		t.Fatal(err)
	}
	defer tracker.Close()
	sink := &stores{images: map[Image]*store{}}
	tasks := func() []Task { return []Task{{pid, 1}, {child, 2}} }
	stats, err := tracker.Round(t.Context(), tasks, sink)
	if err != nil || stats.Untracked != 1 || stats.Tasks != 1 {
		t.Errorf("Round = %+v, %v, want one task, untracked", stats, err)
	}
	if n := len(sink.of(Image{TaskImage, 1}).pages); n < 1024 {
		t.Errorf("%d pages of the parent sent, want all", n)
	}
	fmt.Fprint(l.in, "x")
	for stats.Untracked > 0 {
		if stats, err = tracker.Round(t.Context(), func() []Task { return tasks()[:1] }, sink); err != nil {
			t.Fatal(err)
		}
	}
}
