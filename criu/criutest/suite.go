package criutest

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"migrate/criu"
)

// Run tries an engine. newEngine is called once a subtest.
func Run(t *testing.T, newEngine func(testing.TB) Engine) {
	for name, test := range map[string]func(*session){
		"dump and restore":             testMove,
		"three hops":                   testHops,
		"refused at post-dump":         testDumpRefused,
		"cancelled at post-dump":       testDumpCancelled,
		"closed at post-dump":          testDumpClosed,
		"leave running":                testLeaveRunning,
		"page server fails":            testPageServerFails,
		"frozen cgroup stays frozen":   testFrozen,
		"killed while frozen again":    testKilledWhileFrozen,
		"tree killed before the yes":   testTreeKilled,
		"dump of no process":           testNoProcess,
		"refused at post-restore":      testRestoreRefused,
		"cancelled at post-restore":    testRestoreCancelled,
		"restore of a taken pid":       testPIDTaken,
		"cgroup mode ignore":           testCgroupIgnore,
		"clock edited at pre-restore":  testClock,
		"restore without memory fails": testNoMemory,
	} {
		t.Run(name, func(t *testing.T) { test(&session{T: t, e: newEngine(t), dir: t.TempDir()}) })
	}
}

const limit = 60 * time.Second // of one dump or restore; they take well below a second

var errOnPurpose = errors.New("on purpose")

// session is one subtest.
type session struct {
	*testing.T
	e   Engine
	dir string // images

	mu    sync.Mutex
	hooks []criu.Hook
}

// at returns a hook function that records every hook and calls f at one.
func (s *session) at(hook criu.Hook, f func(criu.HookEvent) error) criu.HookFunc {
	s.hooks = nil
	return func(_ context.Context, ev criu.HookEvent) error {
		s.hooks = append(s.hooks, ev.Hook)
		if ev.Hook == hook {
			return f(ev)
		}
		return nil
	}
}

func (s *session) passed(want ...criu.Hook) {
	s.Helper()
	i := 0
	for _, h := range s.hooks {
		if i < len(want) && h == want[i] {
			i++
		}
	}
	if i != len(want) {
		s.Errorf("hooks = %v, want %v among them, in that order", s.hooks, want)
	}
}

func (s *session) start(o criu.ChildOptions) *criu.Child {
	s.Helper()
	c, err := s.e.Tool().Start(s.Context(), o)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { c.Close() })
	return c
}

// dump dumps p with its memory going to sink.
func (s *session) dump(ctx context.Context, p Process, sink *Memory, edit func(*criu.DumpOptions), hook criu.HookFunc) error {
	s.Helper()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ours, theirs, err := criu.PageSocket()
	if err != nil {
		s.Fatal(err)
	}
	c := s.start(criu.ChildOptions{Files: []*os.File{theirs}})
	theirs.Close()

	served := make(chan error, 1)
	go func() { served <- criu.ServePages(ctx, ours, s.e.Tool().Version, sink) }()
	o := criu.DumpOptions{PID: p.PID(), ImagesDir: s.dir, PageSocket: new(0)}
	if edit != nil {
		edit(&o)
	}
	err = c.Dump(ctx, o, hook)
	if closeErr := c.Close(); closeErr != nil {
		s.Error(closeErr)
	}
	if serveErr := <-served; err == nil && serveErr != nil {
		s.Errorf("ServePages: %v", serveErr)
	}
	return err
}

func (s *session) mustDump(p Process) {
	s.Helper()
	mem := &Memory{}
	if err := s.dump(s.Context(), p, mem, nil, nil); err != nil {
		s.Fatal(describe(err))
	}
	if err := mem.WriteImages(s.dir); err != nil {
		s.Fatal(err)
	}
	s.wantState(p, Gone)
}

func (s *session) restore(ctx context.Context, hook criu.HookFunc, cgroups ...string) (int, error) {
	s.Helper()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c := s.start(criu.ChildOptions{Cgroups: cgroups})
	pid, err := c.Restore(ctx, criu.RestoreOptions{ImagesDir: s.dir, Sibling: true}, hook)
	if closeErr := c.Close(); closeErr != nil {
		s.Error(closeErr)
	}
	return pid, err
}

func (s *session) mustRestore(p Process, hook criu.HookFunc, cgroups ...string) Process {
	s.Helper()
	pid, err := s.restore(s.Context(), hook, cgroups...)
	if err != nil {
		s.Fatal(describe(err))
	}
	q := s.e.Restored(s, p, pid)
	if q.PID() != p.PID() {
		s.Errorf("restored pid = %d, want %d", q.PID(), p.PID())
	}
	s.wantAlive(q)
	return q
}

// describe adds what an [criu.Error] knows.
func describe(err error) string {
	if e, ok := errors.AsType[*criu.Error](err); ok {
		return err.Error() + "\n" + strings.Join(e.Log, "\n")
	}
	return err.Error()
}

// wantState waits for a state: what CRIU lets go needs a moment to show it.
func (s *session) wantState(p Process, want State) {
	s.Helper()
	for end := time.Now().Add(5 * time.Second); p.State() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("state = %v, want %v", p.State(), want)
		}
	}
}

func (s *session) wantAlive(p Process) {
	s.Helper()
	s.wantState(p, Running)
	if err := p.Alive(); err != nil {
		s.Fatal(err)
	}
}

func testMove(s *session) {
	p := s.e.Start(s)
	mem := &Memory{}
	err := s.dump(s.Context(), p, mem, nil, s.at(criu.PostDump, func(criu.HookEvent) error {
		s.wantState(p, Stopped)
		if !mem.Closed {
			s.Error("memory is not complete at post-dump")
		}
		return nil
	}))
	if err != nil {
		s.Fatal(describe(err))
	}
	s.passed(criu.PreDump, criu.PostDump)
	s.wantState(p, Gone)
	if mem.Bytes() == 0 || len(mem.Images) == 0 || mem.Images[0] != (criu.PageImage{Type: criu.TaskImage, ID: uint64(p.PID())}) {
		s.Errorf("%d bytes of memory in images %v, want those of process %d", mem.Bytes(), mem.Images, p.PID())
	}
	inv, err := criu.ReadInventory(s.dir)
	if err != nil || inv.ImageVersion == 0 {
		s.Errorf("ReadInventory = %+v, %v", inv, err)
	}
	if err := mem.WriteImages(s.dir); err != nil {
		s.Fatal(err)
	}
	s.mustRestore(p, s.at(criu.PostRestore, func(ev criu.HookEvent) error {
		if ev.PID != p.PID() {
			s.Errorf("pid at post-restore = %d, want %d", ev.PID, p.PID())
		}
		s.wantState(s.e.Restored(s, p, ev.PID), Stopped)
		return nil
	}))
	s.passed(criu.PreRestore, criu.PostRestore, criu.PreResume, criu.PostResume)
}

func testHops(s *session) {
	p := s.e.Start(s)
	var names []string
	for range 3 {
		s.dir = s.TempDir()
		s.mustDump(p)
		name, _, err := criu.ReadTimens(s.dir)
		if err != nil {
			s.Fatal(err)
		}
		names = append(names, name)
		p = s.mustRestore(p, nil)
	}
	if names[0] != criu.RootTimens || names[1] == criu.RootTimens {
		s.Errorf("clock images = %v, want %v only in the first hop", names, criu.RootTimens)
	}
}

func testDumpRefused(s *session) {
	p := s.e.Start(s)
	err := s.dump(s.Context(), p, &Memory{}, nil, s.at(criu.PostDump, func(criu.HookEvent) error { return errOnPurpose }))
	if !errors.Is(err, errOnPurpose) {
		s.Errorf("Dump = %v, want %v", err, errOnPurpose)
	}
	s.wantAlive(p)
}

func testDumpCancelled(s *session) {
	p := s.e.Start(s)
	ctx, cancel := context.WithCancelCause(s.Context())
	err := s.dump(ctx, p, &Memory{}, nil, s.at(criu.PostDump, func(criu.HookEvent) error {
		cancel(errOnPurpose)
		return nil
	}))
	if !errors.Is(err, errOnPurpose) {
		s.Errorf("Dump = %v, want %v", err, errOnPurpose)
	}
	s.wantAlive(p)
}

func testDumpClosed(s *session) {
	p := s.e.Start(s)
	c := s.start(criu.ChildOptions{})
	err := c.Dump(s.Context(), criu.DumpOptions{PID: p.PID(), ImagesDir: s.dir}, s.at(criu.PostDump, func(criu.HookEvent) error {
		return c.Close()
	}))
	if err == nil {
		s.Error("Dump = nil after the child was closed")
	}
	s.wantAlive(p)
}

func testLeaveRunning(s *session) {
	p := s.e.Start(s)
	err := s.dump(s.Context(), p, &Memory{}, func(o *criu.DumpOptions) { o.LeaveRunning = true }, nil)
	if err != nil {
		s.Fatal(describe(err))
	}
	s.wantAlive(p)
}

func testPageServerFails(s *session) {
	p := s.e.Start(s)
	err := s.dump(s.Context(), p, &Memory{CloseErr: errOnPurpose}, nil, nil)
	if _, ok := errors.AsType[*criu.Error](err); !ok {
		s.Errorf("Dump = %v, want a *criu.Error", err)
	}
	s.wantAlive(p)
}

func testFrozen(s *session) {
	p := s.e.Start(s)
	s.e.Freeze(s, p.Cgroup(), true)
	freeze := func(o *criu.DumpOptions) { o.FreezeCgroup = p.Cgroup() }
	err := s.dump(s.Context(), p, &Memory{}, freeze, s.at(criu.PostDump, func(criu.HookEvent) error { return errOnPurpose }))
	if !errors.Is(err, errOnPurpose) {
		s.Errorf("Dump = %v, want %v", err, errOnPurpose)
	}
	s.wantState(p, Stopped)
	s.e.Freeze(s, p.Cgroup(), false)
	s.wantAlive(p)

	s.e.Freeze(s, p.Cgroup(), true)
	if err := s.dump(s.Context(), p, &Memory{}, freeze, nil); err != nil {
		s.Fatal(describe(err))
	}
	s.wantState(p, Gone)
}

// testKilledWhileFrozen is the source's promise: frozen again during the hold,
// the tree outlives a dead CRIU without running.
func testKilledWhileFrozen(s *session) {
	p := s.e.Start(s)
	s.e.Freeze(s, p.Cgroup(), true)
	c := s.start(criu.ChildOptions{})
	o := criu.DumpOptions{PID: p.PID(), ImagesDir: s.dir, FreezeCgroup: p.Cgroup()}
	err := c.Dump(s.Context(), o, s.at(criu.PostDump, func(criu.HookEvent) error {
		s.e.Freeze(s, p.Cgroup(), true)
		return syscall.Kill(c.PID(), syscall.SIGKILL)
	}))
	if err == nil {
		s.Error("Dump = nil by a CRIU that was killed")
	}
	if closeErr := c.Close(); closeErr != nil {
		s.Error(closeErr)
	}
	if got := p.State(); got != Stopped {
		s.Errorf("state = %v after CRIU was killed, want %v", got, Stopped)
	}
	s.e.Freeze(s, p.Cgroup(), false)
	s.wantAlive(p)
}

// testTreeKilled is how a source ends its copy without a moment in which it
// could run: killed while frozen, thawed, and only then left to CRIU.
func testTreeKilled(s *session) {
	p := s.e.Start(s)
	cg := p.Cgroup()
	s.e.Freeze(s, cg, true)
	freeze := func(o *criu.DumpOptions) { o.FreezeCgroup = cg }
	err := s.dump(s.Context(), p, &Memory{}, freeze, s.at(criu.PostDump, func(criu.HookEvent) error {
		s.e.Freeze(s, cg, true)
		p.Kill()
		s.e.Freeze(s, cg, false)
		return nil
	}))
	if err != nil {
		s.Error(describe(err))
	}
	s.wantState(p, Gone)
}

func testNoProcess(s *session) {
	p := s.e.Start(s)
	s.mustDump(p)
	s.dir = s.TempDir()
	err := s.dump(s.Context(), p, &Memory{}, nil, nil)
	if e, ok := errors.AsType[*criu.Error](err); !ok || e.Cause == "" || len(e.Log) == 0 {
		s.Errorf("Dump = %v, want a *criu.Error with cause and log", err)
	}
}

func testRestoreRefused(s *session) {
	p := s.e.Start(s)
	s.mustDump(p)
	_, err := s.restore(s.Context(), s.at(criu.PostRestore, func(ev criu.HookEvent) error {
		s.e.Restored(s, p, ev.PID)
		return errOnPurpose
	}))
	if !errors.Is(err, errOnPurpose) {
		s.Errorf("Restore = %v, want %v", err, errOnPurpose)
	}
	s.wantState(p, Gone)
	s.mustRestore(p, nil)
}

func testRestoreCancelled(s *session) {
	p := s.e.Start(s)
	s.mustDump(p)
	ctx, cancel := context.WithCancelCause(s.Context())
	_, err := s.restore(ctx, s.at(criu.PostRestore, func(ev criu.HookEvent) error {
		s.e.Restored(s, p, ev.PID)
		cancel(errOnPurpose)
		return nil
	}))
	if !errors.Is(err, errOnPurpose) {
		s.Errorf("Restore = %v, want %v", err, errOnPurpose)
	}
	s.wantState(p, Gone)
	s.mustRestore(p, nil)
}

func testPIDTaken(s *session) {
	p := s.e.Start(s)
	mem := &Memory{}
	if err := s.dump(s.Context(), p, mem, func(o *criu.DumpOptions) { o.LeaveRunning = true }, nil); err != nil {
		s.Fatal(describe(err))
	}
	if err := mem.WriteImages(s.dir); err != nil {
		s.Fatal(err)
	}
	_, err := s.restore(s.Context(), nil)
	e, ok := errors.AsType[*criu.Error](err)
	if !ok || !errors.Is(err, syscall.EEXIST) || !strings.Contains(e.Cause, "taken") || e.Advice == "" {
		s.Errorf("Restore = %v, want a *criu.Error that says the PID is taken", err)
	}
	s.wantAlive(p)
}

func testCgroupIgnore(s *session) {
	p := s.e.Start(s)
	s.mustDump(p)
	cg := s.e.Cgroup(s)
	q := s.mustRestore(p, nil, cg)
	if got := q.Cgroup(); got != cg {
		s.Errorf("restored into cgroup %s, want that of CRIU, %s", got, cg)
	}
}

func testClock(s *session) {
	p := s.e.Start(s)
	s.mustDump(p)
	const ahead = time.Hour + 7*time.Nanosecond
	var want time.Duration
	q := s.mustRestore(p, s.at(criu.PreRestore, func(criu.HookEvent) error {
		name, clocks, err := criu.ReadTimens(s.dir)
		if err != nil {
			return err
		}
		clocks.Monotonic += ahead
		clocks.Boottime += ahead
		want = clocks.Monotonic
		return criu.WriteTimens(s.dir, name, clocks)
	}))
	if got := q.Monotonic(); got < want || got > want+time.Minute {
		s.Errorf("clock after restore = %v, want %v and a little", got, want)
	}
}

func testNoMemory(s *session) {
	p := s.e.Start(s)
	s.mustDump(p)
	img := criu.PageImage{Type: criu.TaskImage, ID: uint64(p.PID())}
	if err := os.Remove(s.dir + "/" + img.PagemapName()); err != nil {
		s.Fatal(err)
	}
	_, err := s.restore(s.Context(), nil)
	if e, ok := errors.AsType[*criu.Error](err); !ok || e.Cause == "" {
		s.Errorf("Restore = %v, want a *criu.Error with a cause", err)
	}
	if slices.Contains(s.hooks, criu.PostRestore) {
		s.Error("post-restore was reached")
	}
	s.e.Restored(s, p, p.PID())
	s.wantState(p, Gone)
}
