package supervisor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrate/criu"
	"migrate/internal/fill"
	"migrate/internal/lazymap"
	"migrate/workload/cgroup"
)

// lazyDumped starts a workload of size MiB on a host of its own and takes it away as
// images whose lazy pages are in a store beside them.
func lazyDumped(t *testing.T, name string, size int, tasks ...string) (d dumped, act string) {
	t.Helper()
	src := newHost(t)
	act = filepath.Join(t.TempDir(), "act")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv := append([]string{self, lazyVerb, fmt.Sprint(size), act}, tasks...)
	c := src.runIn(name, RunSpec{Argv: argv, Env: []string{"GOTRACEBACK=all"}})
	src.waitLog(name, "stdout", "ready")
	d = src.dump(c, name)
	waitGone(t, src.record(name).Supervisor.PID)
	return d, act
}

// makeLazy takes the pages that CRIU allows to come later out of the images, and
// returns the path of the map that tells where they are.
func makeLazy(t *testing.T, images string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(images, "pagemap-*.img"))
	if err != nil {
		t.Fatal(err)
	}
	m := lazymap.Map{}
	for _, path := range paths {
		var pid uint64
		if _, err := fmt.Sscanf(filepath.Base(path), "pagemap-%d.img", &pid); err != nil {
			continue // of shared memory
		}
		moveLazy(t, images, pid, &m)
	}
	if m.Pages() == 0 {
		t.Fatal("there are no lazy pages")
	}
	path := filepath.Join(images, "lazy.map")
	if err := lazymap.Write(path, m); err != nil {
		t.Fatal(err)
	}
	return path
}

func moveLazy(t *testing.T, images string, pid uint64, m *lazymap.Map) {
	t.Helper()
	im := criu.PageImage{Type: criu.TaskImage, ID: pid}
	pm, err := criu.ReadPagemap(images, im)
	if err != nil {
		t.Fatal(err)
	}
	pages := filepath.Join(images, criu.PagesName(pm.PagesID))
	store := fmt.Sprintf("store-%d", pid)
	if err := os.Rename(pages, filepath.Join(images, store)); err != nil {
		t.Fatal(err)
	}
	m.Files = append(m.Files, store)
	from, err := os.OpenFile(filepath.Join(images, store), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(pages)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	slot := uint64(0)
	for i, e := range pm.Entries {
		if e.Flags&criu.PageLazy != 0 {
			pm.Entries[i].Flags = criu.PageLazy
			m.Rows = append(m.Rows, lazymap.Row{Image: pid, Address: e.Address, Pages: e.Pages, File: len(m.Files) - 1, Slot: slot})
		} else {
			_, err := io.Copy(to, io.NewSectionReader(from, int64(slot)*4096, int64(e.Pages)*4096))
			punch := unix.Fallocate(int(from.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(slot)*4096, int64(e.Pages)*4096)
			if err := errors.Join(err, punch); err != nil {
				t.Fatal(err)
			}
		}
		slot += e.Pages
	}
	if err := criu.WritePagemap(images, im, pm); err != nil {
		t.Fatal(err)
	}
}

// lazyHeld restores d lazily and returns it held.
func (h *testHost) lazyHeld(name string, d dumped) *Client {
	h.t.Helper()
	spec := d.spec(name)
	spec.Lazy, spec.LazyMap = true, makeLazy(h.t, d.images)
	c := h.start(name)
	p := d.prepare(name)
	p.Lazy = true
	if err := c.Prepare(h.t.Context(), p); err != nil {
		h.t.Fatal(err)
	}
	begin := time.Now()
	if _, err := c.Restore(h.t.Context(), spec); err != nil {
		h.t.Fatalf("restore: %v\n%s", err, criuLog(d))
	}
	h.t.Logf("restore to held: %v", time.Since(begin))
	return c
}

func resume(t *testing.T, c *Client) {
	t.Helper()
	if _, err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestLazy has workloads look at their memory at once, in all the ways in which a
// program may change it meanwhile.
func TestLazy(t *testing.T) {
	t.Parallel()
	for i, tasks := range []string{
		"verify", "random verify random random", "fork", "fork fork verify", "remap", "drop", "fork remap drop random", "fork wipe",
	} {
		t.Run(tasks, func(t *testing.T) {
			t.Parallel()
			name := n(fmt.Sprintf("s-lz%d", i))
			d, act := lazyDumped(t, name, 128, strings.Fields(tasks)...)
			h, name := newHost(t), name+"-b"
			c := h.lazyHeld(name, d)
			h.actAndCheck(c, name, act)
			if err := c.AwaitFill(t.Context()); err != nil {
				t.Fatal(err)
			}
			f := state(t, c).Fill
			if !f.Complete || f.Done != f.Total || f.Total < 100<<20 {
				t.Errorf("fill = %+v", f)
			}
			h.ordinary(name, d.images)
		})
	}
}

// actAndCheck resumes a workload that looks at its memory at once.
func (h *testHost) actAndCheck(c *Client, name, act string) {
	h.t.Helper()
	if err := os.WriteFile(act, nil, 0o600); err != nil {
		h.t.Fatal(err)
	}
	resume(h.t, c)
	h.checkDone(name)
}

func (h *testHost) checkDone(name string) {
	h.t.Helper()
	h.waitLog(name, "stdout", "done")
	if out := h.log(name, "stdout"); !strings.Contains(out, "all is well") || strings.Contains(out, "wrong") {
		h.t.Errorf("memory is wrong: %s", out)
	}
}

// ordinary checks that nothing of a lazy restore is left.
func (h *testHost) ordinary(name, images string) {
	t := h.t
	t.Helper()
	h.noUserfaultfd(name)
	stores, _ := filepath.Glob(filepath.Join(images, "store-*"))
	for _, s := range stores {
		var st unix.Stat_t
		if err := unix.Stat(s, &st); err != nil || st.Blocks > 0 {
			t.Errorf("%s holds %d KiB, %v", filepath.Base(s), st.Blocks/2, err)
		}
	}
	if _, err := os.Stat(filepath.Join(images, "lazy.map")); err == nil {
		t.Error("the map of a store that was used up is left")
	}
}

// noUserfaultfd looks at the mappings of a whole tree (proc(5), VmFlags).
func (h *testHost) noUserfaultfd(name string) {
	h.t.Helper()
	g, err := cgroup.Open(h.record(name).Cgroup)
	if err != nil {
		h.t.Fatal(err)
	}
	pids, err := g.Procs()
	if err != nil || len(pids) < 1 {
		h.t.Fatalf("processes %v, %v", pids, err)
	}
	for _, pid := range pids {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
		if err != nil {
			h.t.Fatal(err)
		}
		for line := range strings.Lines(string(maps)) {
			if strings.HasPrefix(line, "VmFlags:") && strings.Contains(line, " um") {
				h.t.Fatalf("process %d still has a userfaultfd: %s", pid, line)
			}
		}
	}
}

// fillers returns the filler of a supervisor and its keeper.
func fillers(t *testing.T, super int) (filler, keeper int) {
	t.Helper()
	for _, pid := range childrenOf(t, super) {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.HasSuffix(string(b), "\x00"+fill.Verb+"\x00") {
			filler = pid
		}
	}
	for _, pid := range childrenOf(t, filler) {
		keeper = pid
	}
	if filler == 0 || keeper == 0 {
		t.Fatalf("filler %d, keeper %d", filler, keeper)
	}
	return filler, keeper
}

func childrenOf(t *testing.T, pid int) (pids []int) {
	t.Helper()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range files {
		b, _ := os.ReadFile(f)
		for _, w := range strings.Fields(string(b)) {
			child, err := strconv.Atoi(w)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, child)
		}
	}
	return pids
}

// A filler that dies takes the workload with it, loudly, and nothing of the
// workload ever reads what was not filled in: neither in the middle of
// it, nor when a child was forked an instant before.
func TestFillerKilled(t *testing.T) {
	for _, point := range []string{"fill:half", "fill:forked"} {
		t.Run(point, func(t *testing.T) {
			name := n("s-fk")
			d, act := lazyDumped(t, name, 128, "fork")
			t.Setenv("MIGRATE_FAILPOINT", point+"=kill")
			h, name := newHost(t), name+"-b"
			c := h.lazyHeld(name, d)
			os.WriteFile(act, nil, 0o600)
			if _, err := c.Resume(t.Context()); err != nil {
				t.Fatal(err)
			}
			err := c.AwaitFill(t.Context())
			if err == nil || errors.Is(err, ErrGone) {
				t.Errorf("AwaitFill() = %v", err)
			}
			if e := h.waitExit(c, name); e.Signal != int(unix.SIGKILL) {
				t.Errorf("exit = %+v", e)
			}
			if out := h.log(name, "stdout"); strings.Contains(out, "wrong") || strings.Contains(out, "done") {
				t.Errorf("output: %s", out)
			}
			if r := h.record(name); r.Failure == nil || !strings.Contains(r.Failure.Cause, "signal 9") {
				t.Errorf("the record does not say why: %+v", r)
			}
			h.nothingLeft(name)
		})
	}
}

// stoppedHalfway resumes a workload whose filler stops halfway.
func stoppedHalfway(t *testing.T, name string) (h *testHost, c *Client, act string, filler, keeper int) {
	t.Helper()
	d, act := lazyDumped(t, name, 128, "verify")
	t.Setenv("MIGRATE_FAILPOINT", "fill:half")
	h = newHost(t)
	c = h.lazyHeld(name+"-b", d)
	filler, keeper = fillers(t, state(t, c).PID)
	os.WriteFile(act, nil, 0o600)
	resume(t, c)
	eventually(t, "the filler to stop", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", filler))
		_, after, _ := strings.Cut(string(b), ") ")
		return strings.HasPrefix(after, "T")
	})
	return h, c, act, filler, keeper
}

func TestSupervisorKilledFilling(t *testing.T) {
	name := n("s-skf")
	h, c, act, filler, keeper := stoppedHalfway(t, name)
	st := state(t, c)
	root := st.Root
	kill(t, st.PID)
	waitGone(t, st.PID)
	t.Cleanup(func() {
		unix.Kill(root, unix.SIGKILL)
		waitGone(t, root)
	})
	unix.Kill(filler, unix.SIGCONT)
	waitGone(t, filler)
	waitGone(t, keeper)
	if !alive(root) {
		t.Error("the workload has ended")
	}
	eventually(t, "the workload's word", func() bool {
		b, _ := os.ReadFile(act + ".out")
		return strings.Contains(string(b), "all is well")
	})
	h.noUserfaultfd(name + "-b")
}

func TestKeeperKilled(t *testing.T) {
	name := n("s-kk")
	h, c, _, filler, keeper := stoppedHalfway(t, name)
	kill(t, keeper)
	unix.Kill(filler, unix.SIGCONT)
	h.checkDone(name + "-b")
	if err := c.AwaitFill(t.Context()); err != nil {
		t.Error(err)
	}
	waitGone(t, filler)
}

// A workload can be stopped while it is being filled.
func TestStopFilling(t *testing.T) {
	name := n("s-sf")
	h, c, _, filler, keeper := stoppedHalfway(t, name)
	st := state(t, c)
	waited := make(chan error)
	go func() { waited <- c.AwaitFill(t.Context()) }()
	if e, err := c.Stop(t.Context(), -1, 0); err != nil || e.Signal != int(unix.SIGKILL) {
		t.Errorf("Stop() = %+v, %v", e, err)
	}
	if err := <-waited; err == nil {
		t.Error("AwaitFill() of what was stopped is well")
	}
	for _, pid := range []int{filler, keeper, st.PID} {
		waitGone(t, pid)
	}
	if r := h.record(name + "-b"); r.Failure != nil {
		t.Errorf("record: %+v", r.Failure)
	}
	h.nothingLeft(name + "-b")
}

// Nothing is used up until a workload runs: a restore that failed can be tried
// again, and one that was discarded leaves the store as it was.
func TestLazyHeld(t *testing.T) {
	t.Parallel()
	name := n("s-lh")
	d, act := lazyDumped(t, name, 128, "verify")
	h, name := newHost(t), name+"-b"
	c := h.lazyHeld(name, d)
	super := state(t, c).PID
	filler, keeper := fillers(t, super)
	kill(t, filler)
	eventually(t, "the loss", func() bool { return state(t, c).State == Failed })
	if f := state(t, c).Failure; !strings.Contains(f.What+f.Cause, "signal 9") {
		t.Errorf("failure = %+v", f)
	}
	waitGone(t, keeper)

	spec := d.spec(name)
	spec.Lazy, spec.LazyMap = true, filepath.Join(d.images, "lazy.map")
	if _, err := c.Restore(t.Context(), spec); err != nil {
		t.Fatalf("the second time: %v", err)
	}
	filler, keeper = fillers(t, super)
	begin := time.Now()
	if err := c.Discard(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("discard: %v", time.Since(begin))
	for _, pid := range []int{filler, keeper, super} {
		waitGone(t, pid)
	}
	h.nothingLeft(name)

	c = h.start(name)
	if _, err := c.Restore(t.Context(), spec); err != nil { // and not prepared
		t.Fatalf("the third time: %v", err)
	}
	h.actAndCheck(c, name, act)
}

// What is wrong with a store shows before anything is restored.
func TestLazyRefused(t *testing.T) {
	t.Parallel()
	name := n("s-lr")
	d, _ := lazyDumped(t, name, 16, "verify")
	h, name := newHost(t), name+"-b"
	c := h.start(name)
	spec := d.spec(name)
	spec.Lazy, spec.LazyMap = true, filepath.Join(d.images, "lazy.map")
	if _, err := c.Restore(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "lazy.map") {
		t.Errorf("without a map: %v", err)
	}
	makeLazy(t, d.images)
	stores, _ := filepath.Glob(filepath.Join(d.images, "store-*"))
	for _, s := range stores {
		if err := os.Truncate(s, 4096); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	if _, err := c.Restore(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "listed") {
		t.Errorf("with a store cut short: %v", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if st := state(t, c); !unvoted(st.State) {
		t.Errorf("state = %s", st.State)
	}
	eventually(t, "the end of all children", func() bool { return len(childrenOf(t, state(t, c).PID)) == 0 })
}

// A filler that dies during the restore ends it at once, with nothing left.
func TestFillerKilledRestoring(t *testing.T) {
	name := n("s-fr")
	d, _ := lazyDumped(t, name, 16, "verify")
	t.Setenv("MIGRATE_FAILPOINT", "fill:task=kill")
	h, name := newHost(t), name+"-b"
	c := h.start(name)
	spec := d.spec(name)
	spec.Lazy, spec.LazyMap = true, makeLazy(t, d.images)
	begin := time.Now()
	if _, err := c.Restore(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "signal 9") {
		t.Errorf("Restore() = %v", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if st := state(t, c); st.State != Failed || st.Fill != nil {
		t.Errorf("state = %+v", st)
	}
	eventually(t, "the end of all children", func() bool { return len(childrenOf(t, state(t, c).PID)) == 0 })
}

// A tree that nobody supervised before is filled in just so.
func TestLazyProcess(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	act, out := filepath.Join(t.TempDir(), "act"), filepath.Join(t.TempDir(), "out")
	stdout, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	cmd := exec.Command(os.Args[0], lazyVerb, "64", act, "fork", "verify")
	cmd.Stdout, cmd.SysProcAttr, cmd.Dir = stdout, sysProcSetsid(), "/"
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Kill(-cmd.Process.Pid, unix.SIGKILL); cmd.Wait() })
	eventually(t, "its first word", func() bool {
		b, _ := os.ReadFile(out)
		return len(b) > 0
	})
	d := h.dumpForeign(cmd)
	name := n("s-lp-b")
	c := h.lazyHeld(name, d)
	os.WriteFile(act, nil, 0o600)
	waited := make(chan error)
	go func() { waited <- c.AwaitFill(t.Context()) }() // before it runs, too
	resume(t, c)
	if err := <-waited; err != nil {
		t.Error(err)
	}
	eventually(t, "its word", func() bool {
		b, _ := os.ReadFile(out)
		return strings.Contains(string(b), "all is well")
	})
	h.ordinary(name, d.images)
}
