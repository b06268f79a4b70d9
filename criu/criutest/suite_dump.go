package criutest

import (
	"context"
	"errors"
	"syscall"

	"migrate/criu"
)

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
