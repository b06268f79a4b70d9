package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/clock"
	"migrate/criu"
	"migrate/internal/fill"
	"migrate/workload"
	"migrate/workload/cgroup"
	"migrate/workload/proc"
)

// The test binary is the supervisor, too, and the starter of one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case Verb:
			if err := Main(context.Background(), os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		case fill.Verb:
			if err := fill.Main(os.Stderr); err != nil {
				os.Exit(1)
			}
			os.Exit(0)
		case lazyVerb:
			lazyLoad(os.Args[2:])
		case "start-and-hang":
			startAndHang(StartConfig{Name: os.Args[2], StateDir: os.Args[3], RunDir: os.Args[4]})
		}
	}
	os.Exit(m.Run())
}

func startAndHang(c StartConfig) {
	client, err := Start(context.Background(), c)
	if err == nil {
		err = client.Run(context.Background(), RunSpec{Argv: []string{"sleep", "1000"}})
	}
	fmt.Println(err)
	select {}
}

// n makes a workload's name one that no other run of these tests has: cgroups
// belong to the whole machine.
func n(name string) string { return fmt.Sprintf("%s-%d", name, os.Getpid()) }

// testHost is what makes a host for this package: two directories. Two of them
// on one machine are two hosts as long as the workloads' names differ.
type testHost struct {
	t     *testing.T
	state string
	run   string
}

func newHost(t *testing.T) *testHost {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	return &testHost{t: t, state: filepath.Join(dir, "state"), run: filepath.Join(dir, "run")}
}

// start starts a supervisor that is gone at the end of the test.
func (h *testHost) start(name string) *Client {
	h.t.Helper()
	c, err := Start(h.t.Context(), StartConfig{Name: name, StateDir: h.state, RunDir: h.run})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { h.end(c, name) })
	return c
}

// end stops whatever is there, and shows the log if the test failed.
func (h *testHost) end(c *Client, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	log, _ := os.ReadFile(filepath.Join(workload.RecordDir(h.state, name), "supervisor.log"))
	if h.t.Failed() && len(log) > 0 {
		h.t.Logf("%s:\n%s", name, log)
	}
	st, err := c.State(ctx)
	if err == nil && (st.State == Running || st.State == Moved) {
		if st.State == Moved {
			c.MovedAway(ctx, "", "")
		}
		c.Stop(ctx, -1, 0)
	} else if err == nil {
		c.Discard(ctx)
	}
	c.Close()
	if g, err := cgroup.Create(name); err == nil {
		if pids, _ := g.Procs(); len(pids) > 0 {
			h.t.Errorf("%s: processes left: %v", name, pids)
		}
		g.Kill(ctx)
		g.Remove()
	}
	if st.PID != 0 {
		waitGone(h.t, st.PID)
	}
}

func (h *testHost) runIn(name string, spec RunSpec) *Client {
	h.t.Helper()
	c := h.start(name)
	if err := c.Run(h.t.Context(), spec); err != nil {
		h.t.Fatal(err)
	}
	return c
}

func script(s string) RunSpec {
	return RunSpec{Argv: []string{"sh", "-c", s}, Env: []string{"PATH=/usr/bin:/bin"}}
}

func (h *testHost) record(name string) workload.Record {
	h.t.Helper()
	r, err := workload.Load(h.state, name)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

func (h *testHost) log(name, stream string) string {
	b, err := os.ReadFile(logPath(workload.RecordDir(h.state, name), stream))
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	return string(b)
}

// waitLog waits until a log has the text.
func (h *testHost) waitLog(name, stream, text string) {
	h.t.Helper()
	eventually(h.t, fmt.Sprintf("%q in %s of %s, which is %q", text, stream, name, h.log(name, stream)), func() bool {
		return strings.Contains(h.log(name, stream), text)
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	eventually(t, fmt.Sprintf("the end of process %d", pid), func() bool {
		p, err := workload.Identify(pid)
		return err != nil || !p.Alive()
	})
}

func state(t *testing.T, c *Client) Status {
	t.Helper()
	st, err := c.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// waitExit waits until the workload and its supervisor have ended.
func (h *testHost) waitExit(c *Client, name string) Exit {
	h.t.Helper()
	e, err := c.Wait(h.t.Context())
	r := h.record(name)
	if errors.Is(err, ErrGone) {
		e, err = Exit{Code: r.ExitCode, Signal: r.Signal}, nil
	}
	if err != nil {
		h.t.Fatal(err)
	}
	waitGone(h.t, r.Supervisor.PID)
	return e
}

// dumped is a workload that left its host.
type dumped struct {
	images   string
	facts    migrate.Workload
	frozenAt migrate.ClockReading
}

// dump moves a running workload into images, as a source does.
func (h *testHost) dump(c *Client, name string) dumped {
	h.t.Helper()
	return h.dumpAs(c, name, state(h.t, c).Root, h.record(name).Cgroup)
}

func (h *testHost) dumpAs(c *Client, name string, root int, group string) dumped {
	t := h.t
	t.Helper()
	d := dumped{images: t.TempDir()}
	tool, err := criu.Find(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	g, err := cgroup.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	d.frozenAt = freeze(t, g)
	d.facts, _, err = workload.Inspect(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	d.facts.Kind = string(workload.Capsule)
	child, err := tool.Start(t.Context(), criu.ChildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	o := criu.DumpOptions{PID: root, ImagesDir: d.images, FreezeCgroup: g.Path(), ShellJob: d.facts.ShellJob, LinkRemap: true, External: External(d.facts), Lock: criu.LockSkip}
	if c != nil {
		if err := c.MovedAway(t.Context(), "elsewhere", "0123456789abcdef"); err != nil {
			t.Fatal(err)
		}
	}
	if err := child.Dump(t.Context(), o, nil); err != nil {
		t.Fatalf("dump: %v", err)
	}
	return d
}

// freeze freezes a group at a moment when none of its tasks is in vfork(2), where
// CRIU could not stop it, and returns that moment.
func freeze(t *testing.T, g *cgroup.Group) (at migrate.ClockReading) {
	t.Helper()
	eventually(t, "a moment without vfork", func() bool {
		at = clock.Now()
		if err := g.Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		pids, err := g.Procs()
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(pids, func(pid int) bool { return proc.Forking(pid, pid) }) {
			return true
		}
		if err := g.Thaw(t.Context()); err != nil {
			t.Fatal(err)
		}
		return false
	})
	return at
}

func (d dumped) prepare(name string) PrepareSpec {
	return PrepareSpec{Name: name, Migration: "0123456789abcdef", Workload: d.facts, CRIU: criu.Tool{Path: criuPath}}
}

var criuPath = os.Getenv(criu.PathVariable)

func (d dumped) spec(name string) RestoreSpec {
	none := clock.Bounds{}
	return RestoreSpec{
		Name: name, Migration: "0123456789abcdef", Workload: d.facts, CRIU: criu.Tool{Path: criuPath}, ImagesDir: d.images,
		Options: migrate.Options{}.WithDefaults(),
		Clock:   ClockSpec{Difference: clock.Difference{Monotonic: none, Boottime: none}, FrozenAt: d.frozenAt, HasTimens: true},
	}
}

// restoreHeld restores d under a new name.
func (h *testHost) restoreHeld(name string, d dumped) (*Client, Hold) {
	h.t.Helper()
	c := h.start(name)
	if err := c.Prepare(h.t.Context(), d.prepare(name)); err != nil {
		h.t.Fatal(err)
	}
	hold, err := c.Restore(h.t.Context(), d.spec(name))
	if err != nil {
		h.t.Fatalf("restore: %v\n%s", err, criuLog(d))
	}
	return c, hold
}

func criuLog(d dumped) string {
	b, _ := os.ReadFile(filepath.Join(d.images, "restore.log"))
	lines := strings.Split(string(b), "\n")
	return strings.Join(lines[max(0, len(lines)-25):], "\n")
}

// nothingLeft checks that name has left no process, cgroup, socket or mark.
func (h *testHost) nothingLeft(name string) {
	h.t.Helper()
	l, err := cgroup.Detect()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, m := range []cgroup.Mount{l.Unified, l.Freezer} {
		if _, err := os.Stat(filepath.Join(m.Dir, "migrate", name)); m.Dir != "" && err == nil {
			h.t.Errorf("the cgroup of %s is still there", name)
		}
	}
	left, _ := filepath.Glob(filepath.Join(h.run, "w", name+"*"))
	if len(left) > 0 {
		h.t.Errorf("left in the run directory: %v", left)
	}
}

func alive(pid int) bool {
	p, err := workload.Identify(pid)
	return err == nil && p.Alive()
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func sysProcSetsid() *unix.SysProcAttr { return &unix.SysProcAttr{Setsid: true} }

// dumpForeign dumps a child of ours that nobody supervises, and reaps its
// tree: a zombie keeps the number of its group.
func (h *testHost) dumpForeign(cmd *exec.Cmd) dumped {
	h.t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		h.t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	d := h.dumpTree(cmd.Process.Pid)
	cmd.Wait()
	for _, task := range d.facts.Tasks {
		for {
			if _, err := unix.Wait4(task.PID, nil, 0, nil); err != unix.EINTR {
				break
			}
		}
	}
	return d
}

func (h *testHost) dumpTree(pid int) dumped {
	h.t.Helper()
	g, err := cgroup.Create(n("s-foreign"))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { g.Remove() })
	if _, err := g.Adopt(h.t.Context(), pid); err != nil {
		h.t.Fatal(err)
	}
	return h.dumpAs(nil, n("s-foreign"), pid, g.Path())
}
