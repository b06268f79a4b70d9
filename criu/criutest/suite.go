package criutest

import (
	"context"
	"errors"
	"os"
	"strings"
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
		"rounds of pre-dumps":          testPreDumps,
		"pre-dump without inventory":   testNoInventory,
		"pre-dump of no process":       testPreDumpGone,
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
