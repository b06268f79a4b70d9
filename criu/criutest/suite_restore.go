package criutest

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"migrate/criu"
)

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
