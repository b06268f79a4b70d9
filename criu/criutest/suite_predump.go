package criutest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"migrate/criu"
)

// preDump gives sink what changed since parent, the number of an earlier round
// or nothing. Each round has a directory of its number beside the images.
func (s *session) preDump(p Process, sink *Memory, round int, parent string) error {
	s.Helper()
	dir := filepath.Join(filepath.Dir(s.dir), strconv.Itoa(round))
	if err := os.Mkdir(dir, 0o700); err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.Context(), limit)
	defer cancel()
	ours, theirs, err := criu.PageSocket()
	if err != nil {
		s.Fatal(err)
	}
	c := s.start(criu.ChildOptions{Files: []*os.File{theirs}})
	theirs.Close()
	served := make(chan error, 1)
	go func() { served <- criu.ServePages(ctx, ours, s.e.Tool().Version, sink) }()
	err = c.PreDump(ctx, criu.PreDumpOptions{PID: p.PID(), ImagesDir: dir, Parent: parent, PageSocket: new(0)})
	if closeErr := c.Close(); closeErr != nil {
		s.Error(closeErr)
	}
	if serveErr := <-served; err == nil {
		err = errors.Join(serveErr, criu.KeepInventory(dir))
	}
	return err
}

// RunPreDump moves a tree that writes to its memory all the time by pre-copy in
// rounds and checks that it lost nothing. It needs root, CRIU, a mounted cgroup
// v2 and the loopback device, and skips the test without soft-dirty.
func RunPreDump(t *testing.T) {
	e := newReal(t, unified)
	s := &session{T: t, e: e, dir: t.TempDir()}
	s.needTracking()
	p := e.startLoad(t, syscall.SysProcAttr{}, "--memory 32 --dirty 5000 --children 2 --kinds")
	m := &Memory{}
	parent := ""
	for round := range 4 {
		if err := s.preDump(p, m, round, parent); err != nil {
			t.Fatal(describe(err))
		}
		s.wantAlive(p)
		m, parent = &Memory{Parent: m}, "../"+strconv.Itoa(round)
	}
	s.lastRound(p, m, parent)
	if all := uint64(m.Bytes()) / criu.PageSize; m.Kept < all/4 || m.Kept == all {
		t.Errorf("in the last round %d of %d pages were clean, want some but not all", m.Kept, all)
	}
	pid, err := s.restore(t.Context(), nil)
	if err != nil {
		t.Fatal(describe(err))
	}
	s.wantAlive(e.Restored(t, p, pid))
}

// lastRound dumps what changed since parent, and makes images of all of it.
func (s *session) lastRound(p Process, m *Memory, parent string) {
	s.Helper()
	err := s.dump(s.Context(), p, m, func(o *criu.DumpOptions) { o.TrackMem, o.Parent = true, parent }, nil)
	if err != nil {
		s.Fatal(describe(err))
	}
	s.wantEnded(p)
	if _, err := os.Lstat(filepath.Join(s.dir, "parent")); err == nil {
		s.Error("a restore would look for the parent's pages")
	}
	if err := m.WriteImages(s.dir); err != nil {
		s.Fatal(err)
	}
}

// wantEnded waits until the tree has ended and the last of its session is
// reaped: until then their PIDs are taken.
func (s *session) wantEnded(p Process) {
	s.Helper()
	s.wantState(p, Gone)
	if err := waitFor("session to end", func() bool { return syscall.Kill(-p.PID(), 0) != nil }); err != nil {
		s.Fatal(err)
	}
}

// needTracking skips a test for which the kernel lacks something.
func (s *session) needTracking() {
	s.Helper()
	f, err := s.e.Tool().Features(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	if !f.MemTrack {
		s.Skip("this machine has no soft-dirty tracking")
	}
}

// testPreDumps is iterative pre-copy: two rounds while the process runs, then a
// dump that leaves out what did not change, and a restore of all three together.
func testPreDumps(s *session) {
	s.needTracking()
	p := s.e.Start(s)
	first := &Memory{}
	if err := s.preDump(p, first, 100, ""); err != nil {
		s.Fatal(describe(err))
	}
	s.wantAlive(p)
	second := &Memory{Parent: first}
	if err := s.preDump(p, second, 101, "../100"); err != nil {
		s.Fatal(describe(err))
	}
	s.wantAlive(p)
	last := &Memory{Parent: second}
	s.lastRound(p, last, "../101")
	for i, m := range []*Memory{first, second, last} {
		if (m.Kept != 0) != (i > 0) || m.Kept*criu.PageSize > uint64(m.Bytes()) {
			s.Errorf("round %d: %d of %d pages did not change", i+1, m.Kept, m.Bytes()/criu.PageSize)
		}
	}
	s.mustRestore(p, nil)
}

func testNoInventory(s *session) {
	s.needTracking()
	p := s.e.Start(s)
	first := &Memory{}
	if err := s.preDump(p, first, 100, ""); err != nil {
		s.Fatal(describe(err))
	}
	if err := os.Remove(filepath.Join(filepath.Dir(s.dir), "100", criu.InventoryName)); err != nil {
		s.Fatal(err)
	}
	err := s.preDump(p, &Memory{Parent: first}, 101, "../100")
	if e, ok := errors.AsType[*criu.Error](err); !ok || !strings.Contains(e.Cause, "round before") {
		s.Errorf("PreDump = %v, want a *criu.Error that says what is missing", err)
	}
	s.wantAlive(p)
}

func testPreDumpGone(s *session) {
	s.needTracking()
	p := s.e.Start(s)
	s.mustDump(p)
	if e, ok := errors.AsType[*criu.Error](s.preDump(p, &Memory{}, 100, "")); !ok || e.Op != "pre-dump" || e.Cause == "" {
		s.Errorf("PreDump = %+v, want a *criu.Error with a cause", e)
	}
}
