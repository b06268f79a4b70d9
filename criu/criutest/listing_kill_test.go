package criutest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"migrate/criu"
)

// listVariable makes TestListUntilKilled list the pages of a process, again and
// again: it holds the PID and a directory for the images.
const listVariable = "CRIUTEST_LIST"

// TestListUntilKilled is the victim of TestRealListingKilled.
func TestListUntilKilled(t *testing.T) {
	var pid int
	var dir string
	if n, _ := fmt.Sscan(os.Getenv(listVariable), &pid, &dir); n != 2 {
		return
	}
	e := NewReal(t).(*realEngine)
	for i := 0; ; i++ {
		s := &session{T: t, e: e, dir: filepath.Join(dir, fmt.Sprint(i))}
		if err := os.Mkdir(s.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		fmt.Println("listing", i)
		if _, err := s.list(&realProcess{pid: pid, freezer: e.freezer}, func(o *criu.DumpOptions) { o.LeaveRunning = true }, nil); err != nil {
			t.Fatal(describe(err))
		}
	}
}

// TestRealListingKilled kills this process at any moment of a listing dump. The
// tree must run on, and neither a CRIU nor its cache may be left.
func TestRealListingKilled(t *testing.T) {
	e := NewReal(t).(*realEngine)
	canList(t, e)
	p := e.startLoad(t, syscall.SysProcAttr{}, "--memory 8 --children 1")
	before, _ := filepath.Glob("/run/criu.kdat*")
	for i := range 6 {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestListUntilKilled$", "-test.v")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", listVariable, p.PID(), dir))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		started := firstLine(out, "listing 0")
		time.Sleep(time.Duration(i) * 80 * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if !started {
			t.Fatal("the victim did not begin")
		}
		if err := waitFor("criu to end", func() bool { return len(criusOf(t, dir)) == 0 }); err != nil {
			t.Errorf("killed after %d ms: %v: %v", i*80, err, criusOf(t, dir))
		}
		if err := p.Alive(); err != nil {
			t.Errorf("killed after %d ms: %v", i*80, err)
		}
	}
	if after, _ := filepath.Glob("/run/criu.kdat*"); len(after) != len(before) {
		t.Errorf("caches %v, were %v", after, before)
	}
}

// firstLine waits for a line of out, and has the rest of it discarded.
func firstLine(out io.Reader, line string) bool {
	var seen []byte
	b := make([]byte, 4096)
	for !bytes.Contains(seen, []byte(line)) {
		n, err := out.Read(b)
		if err != nil {
			return false
		}
		seen = append(seen, b[:n]...)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return true
}

// criusOf lists the CRIUs that a victim left. They have its environment.
func criusOf(t *testing.T, dir string) (all []string) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		comm, _ := os.ReadFile(filepath.Join(p, "comm"))
		env, _ := os.ReadFile(filepath.Join(p, "environ"))
		if strings.HasPrefix(string(comm), "criu") && bytes.Contains(env, []byte(dir)) {
			all = append(all, p)
		}
	}
	return all
}

// TestRealListingCRIUKilled kills CRIU in each part of a listing dump.
func TestRealListingCRIUKilled(t *testing.T) {
	e := NewReal(t).(*realEngine)
	canList(t, e)
	p := e.startLoad(t, syscall.SysProcAttr{}, "--memory 8 --children 1")
	for _, at := range []criu.Hook{criu.PreDump, criu.PostDump} {
		s := &session{T: t, e: e, dir: t.TempDir()}
		ours, theirs, err := criu.PageSocket()
		if err != nil {
			t.Fatal(err)
		}
		c := s.start(criu.ChildOptions{Files: []*os.File{theirs}, Listing: true})
		theirs.Close()
		served := make(chan error, 1)
		go func() {
			served <- criu.ServePages(t.Context(), ours, e.tool.Version, &lister{cgroup: p.Cgroup()})
		}()
		o := criu.DumpOptions{PID: p.PID(), ImagesDir: s.dir, PageSocket: new(0), LeaveRunning: true}
		err = c.Dump(t.Context(), o, func(_ context.Context, ev criu.HookEvent) error {
			if ev.Hook == at {
				return syscall.Kill(c.PID(), syscall.SIGKILL)
			}
			return nil
		})
		if err == nil {
			t.Errorf("killed at %s: Dump = nil, want an error", at)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		<-served
		s.wantAlive(p)
		s.wantNoParent()
	}
}
