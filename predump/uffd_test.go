package predump

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"migrate/workload/cgroup"
)

// group puts the child into a cgroup of its own, by which it can be stopped.
func (l *load) group(t testing.TB) *cgroup.Group {
	t.Helper()
	g, err := cgroup.Create(fmt.Sprintf("predump-%d-%d", os.Getpid(), time.Now().UnixNano()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := g.Kill(ctx); err != nil {
			t.Error(err)
		}
		l.stop() // reaps it
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	})
	if err := g.Add(l.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	return g
}

func stopper(g *cgroup.Group) Stop {
	return func(ctx context.Context) (func() error, error) {
		if err := g.Freeze(ctx); err != nil {
			_ = g.Thaw(context.WithoutCancel(ctx))
			return nil, err
		}
		return func() error { return g.Thaw(ctx) }, nil
	}
}

// tracked is a child whose memory is tracked.
type tracked struct {
	*load
	*store
	group   *cgroup.Group
	table   *Table
	tracker Tracker
}

func startTracked(t testing.TB, what string) *tracked {
	t.Helper()
	return track(t, startLoad(t, what))
}

func track(t testing.TB, l *load) *tracked {
	t.Helper()
	x := &tracked{load: l, store: newStore(), group: l.group(t), table: NewTable()}
	tracker, err := NewUffd(x.table, stopper(x.group))
	if err != nil {
		t.Fatal(err)
	}
	x.tracker = tracker
	t.Cleanup(func() {
		if err := tracker.Close(); err != nil {
			t.Error(err)
		}
	})
	return x
}

func (x *tracked) round(t testing.TB) Stats {
	t.Helper()
	stats, err := x.tracker.Round(t.Context(), x.tasks, x.store)
	if err != nil {
		t.Fatal(err)
	}
	return stats
}

// freeze freezes the child and compares what is called clean with what the sink
// got: the check that catches lost data. It returns how many pages of an area
// are clean.
func (x *tracked) freeze(t testing.TB, area extent) (clean int) {
	t.Helper()
	if err := x.group.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	f, err := x.tracker.Freeze(t.Context(), x.tasks())
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", x.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	all, err := parseMaps(maps)
	if err != nil {
		t.Fatal(err)
	}
	im := x.tasks()[0].image()
	for _, m := range all {
		for addr := m.start; addr < m.end; {
			n, yes := f.Clean(im, addr, (m.end-addr)/PageSize)
			if n < 1 || n > (m.end-addr)/PageSize {
				t.Fatalf("Clean(%#x, %d) = %d pages", addr, (m.end-addr)/PageSize, n)
			}
			for ; n > 0; n, addr = n-1, addr+PageSize {
				if !yes {
					continue
				}
				x.same(t, addr)
				if addr >= area.start && addr < area.end {
					clean++
				}
			}
		}
	}
	return clean
}

func (x *tracked) same(t testing.TB, addr uint64) {
	t.Helper()
	page := make([]byte, PageSize)
	if err := ReadPages(x.cmd.Process.Pid, addr, page); err != nil {
		t.Fatal(err)
	}
	if x.pages[addr] != string(page) {
		t.Errorf("page %#x is called clean, and is not as it was sent", addr)
	}
}

func TestUffdSendsWhatChanged(t *testing.T) {
	x := startTracked(t, "data")
	data := x.areas["data"]
	first := x.round(t)
	wantEqual(t, x.load, x.store, data)
	if first.Untracked != 0 || first.Sent < dataPages-(zeroEnd-zeroAt) {
		t.Errorf("first round: %+v", first)
	}
	x.pages = map[uint64]string{}
	x.do(t, "write 90 20")
	x.do(t, "write 4000 1")
	second := x.round(t)
	if got := x.store.in(data); got != 21 {
		t.Errorf("second round sent %d pages of the data, want 21: %+v", got, second)
	}
	if second.Pages > 3000 {
		t.Errorf("second round read %d pages, want only what was written to", second.Pages)
	}
}

func TestUffdFreeze(t *testing.T) {
	x := startTracked(t, "data")
	x.round(t)
	x.do(t, "write 10 5")
	x.table.Forget(Image{TaskImage, 1}, x.areas["data"].start+100*PageSize, 7)
	if got, want := x.freeze(t, x.areas["data"]), dataPages-5-7; got != want {
		t.Errorf("%d pages of the data are clean, want %d", got, want)
	}
}

func TestUffdForgotten(t *testing.T) {
	for name, start := range map[string]func(*Table, *tracked) Tracker{
		"uffd": func(_ *Table, x *tracked) Tracker { return x.tracker },
		"hash": func(t *Table, _ *tracked) Tracker { return NewHash(t) },
	} {
		t.Run(name, func(t *testing.T) {
			x := startTracked(t, "data")
			x.tracker = start(x.table, x)
			x.round(t)
			x.pages = map[uint64]string{}
			data := x.areas["data"]
			part := extent{data.start + 300*PageSize, data.start + 500*PageSize}
			x.table.Forget(Image{TaskImage, 1}, part.start, 200)
			x.round(t)
			wantEqual(t, x.load, x.store, part)
			if got := x.store.in(data); got != 200 {
				t.Errorf("%d pages sent, want 200", got)
			}
		})
	}
}

// flags returns how many mappings of the child a userfaultfd watches.
func (l *load) flags(t testing.TB) (n int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", l.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "VmFlags:") && strings.Contains(line, " uw") {
			n++
		}
	}
	return n
}

func TestUffdLeavesNoTrace(t *testing.T) {
	x := startTracked(t, "data")
	x.round(t)
	if x.flags(t) == 0 {
		t.Error("no mapping is watched after a round")
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", x.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		link, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", x.cmd.Process.Pid, f.Name()))
		if strings.Contains(link, "userfaultfd") {
			t.Errorf("the child has the userfaultfd as its descriptor %s", f.Name())
		}
	}
	for range 2 {
		if err := x.tracker.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	}
	if n := x.flags(t); n != 0 {
		t.Errorf("%d mappings are still watched", n)
	}
	if _, err := x.tracker.Round(t.Context(), x.tasks, x.store); err == nil {
		t.Error("Round after Close works")
	}
	if got := openUffds(t); got != 0 {
		t.Errorf("%d userfaultfds are left open", got)
	}
}

func openUffds(t testing.TB) (n int) {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if link, _ := os.Readlink("/proc/self/fd/" + f.Name()); strings.Contains(link, "userfaultfd") {
			n++
		}
	}
	return n
}

// failing is a sink that asks whether to fail.
type failing struct {
	*store
	fail func() error
}

func (f failing) Data(ctx context.Context, im Image, addr uint64, data []byte) error {
	if err := f.fail(); err != nil {
		return err
	}
	return f.store.Data(ctx, im, addr, data)
}

// TestUffdWhileWritten: a program that writes everywhere all the time.
func TestUffdWhileWritten(t *testing.T) {
	x := startTracked(t, "data")
	x.do(t, "churn")
	for range 10 {
		x.round(t)
	}
	x.freeze(t, extent{})
}

// TestUffdNobody: a user who may not have a userfaultfd that sees the kernel's
// own writes is tracked all the same, those included.
func TestUffdNobody(t *testing.T) {
	l := &load{cmd: exec.Command("/proc/self/exe"), areas: map[string]extent{}}
	l.cmd.Env = append(os.Environ(), "PREDUMP_CHILD=data", "HOME=/")
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	l.run(t)
	x := track(t, l)
	x.round(t)
	x.do(t, "random")
	if stats := x.round(t); stats.Untracked != 0 {
		t.Errorf("round: %+v", stats)
	}
	wantEqual(t, x.load, x.store, x.areas["data"])
}

// TestTaskEndsInRound has tasks end at whatever point of a round.
func TestTaskEndsInRound(t *testing.T) {
	u, err := NewUffd(NewTable(), func(context.Context) (func() error, error) { return func() error { return nil }, nil })
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	// They are no children of this process, which traces them.
	parent := exec.Command("sh", "-c", "while :; do /bin/true; done")
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = parent.Process.Kill(); _ = parent.Wait() }()
	seen := map[int]bool{}
	tasks := func() (list []Task) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", parent.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(f)
			if err != nil {
				t.Fatal(err)
			}
			seen[pid] = true
			list = append(list, Task{PID: pid, VPID: pid})
		}
		return list
	}
	s := newStore()
	for len(seen) < 200 {
		if _, err := u.Round(t.Context(), tasks, s); err != nil {
			t.Fatal(err)
		}
	}
}
