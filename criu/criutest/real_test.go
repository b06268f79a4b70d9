package criutest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"migrate/criu"
)

// TestRealPIDNamespace moves a tree that is the init of its PID namespace and
// shares everything else with the host, twice.
func TestRealPIDNamespace(t *testing.T) {
	e := NewReal(t).(*realEngine)
	s := &session{T: t, e: e}
	dir := t.TempDir()
	cmd := exec.Command("/bin/sh", "-c", program, "sh", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID}
	var p Process = e.start(t, cmd, dir)
	for range 2 {
		s.dir = t.TempDir()
		s.mustDump(p)
		pid, err := s.restore(t.Context(), s.at(criu.PostRestore, func(ev criu.HookEvent) error {
			wantInit(t, ev.PID)
			return nil
		}))
		if err != nil {
			t.Fatal(describe(err))
		}
		p = e.Restored(t, p, pid)
		wantInit(t, pid)
		s.wantAlive(p)
	}
}

// TestRealRefusals has what CRIU says where something of memory is missing, in
// plain words.
func TestRealRefusals(t *testing.T) {
	e := NewReal(t).(*realEngine)
	t.Run("no tracking", func(t *testing.T) {
		f, err := e.tool.Features(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if f.MemTrack {
			t.Skip("this machine has soft-dirty tracking")
		}
		s := &session{T: t, e: e, dir: t.TempDir()}
		p := e.Start(t)
		wantRefusal(t, s.preDump(p, &Memory{}, 1, ""), "does not track changed memory")
		s.wantAlive(p)
	})
	t.Run("no server of lazy pages", func(t *testing.T) {
		s := &session{T: t, e: e, dir: t.TempDir()}
		p := e.Start(t)
		s.mustDump(p)
		c := s.start(criu.ChildOptions{})
		pid, err := c.Restore(t.Context(), criu.RestoreOptions{ImagesDir: s.dir, Sibling: true, Lazy: true}, nil)
		wantRefusal(t, err, "server of lazy pages is not there")
		if pid != 0 {
			e.Restored(t, p, pid)
		}
		s.wantState(p, Gone)
	})
}

func wantRefusal(t *testing.T, err error, cause string) {
	t.Helper()
	e, ok := errors.AsType[*criu.Error](err)
	if !ok || !strings.Contains(e.Cause, cause) || e.Advice == "" {
		t.Errorf("error = %v, want a *criu.Error that says %q, with advice", err, cause)
	}
}

// wantInit fails unless pid is a child of this process and PID 1 in its own
// namespace.
func wantInit(t *testing.T, pid int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	if pids, parent := field(b, "NSpid:"), field(b, "PPid:"); !strings.HasSuffix(pids, "\t1") || parent != fmt.Sprint(os.Getpid()) {
		t.Errorf("NSpid = %q, PPid = %s, want init of a namespace and a child of %d", pids, parent, os.Getpid())
	}
}

// TestRealTerminal moves a process whose controlling terminal has its master
// outside of the tree, and gives it another terminal.
func TestRealTerminal(t *testing.T) {
	e := NewReal(t).(*realEngine)
	s := &session{T: t, e: e, dir: t.TempDir()}
	_, slave := openTerminal(t)
	dir := t.TempDir()
	cmd := exec.Command("/bin/sh", "-c", program, "sh", dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	p := e.start(t, cmd, dir)

	var st unix.Stat_t
	if err := unix.Fstat(int(slave.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	key := fmt.Sprintf("tty[%x:%x]", st.Rdev, st.Dev)
	mem := &Memory{}
	if err := s.dump(t.Context(), p, mem, func(o *criu.DumpOptions) { o.External = []string{key} }, nil); err != nil {
		t.Fatal(describe(err))
	}
	if err := mem.WriteImages(s.dir); err != nil {
		t.Fatal(err)
	}
	s.wantState(p, Gone)

	master, other := openTerminal(t)
	c := s.start(criu.ChildOptions{Files: []*os.File{other}})
	o := criu.RestoreOptions{ImagesDir: s.dir, Sibling: true, InheritFDs: []criu.InheritFD{{Key: key, File: 0}}}
	pid, err := c.Restore(t.Context(), o, func(context.Context, criu.HookEvent) error { return nil })
	if err != nil {
		t.Fatal(describe(err))
	}
	q := e.Restored(t, p, pid)
	s.wantAlive(q)
	if got, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/1", pid)); err != nil || got != other.Name() {
		t.Errorf("stdout = %s, %v, want the new terminal, %s", got, err, other.Name())
	}
	if _, err := master.Write([]byte{3}); err != nil { // ^C reaches it only through its controlling terminal
		t.Fatal(err)
	}
	s.wantState(q, Gone)
}

func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}
