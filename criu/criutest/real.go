package criutest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrate/criu"
)

// NewReal returns the engine of this machine's CRIU. It skips the test when
// it does not run as root, and fails it when there is no usable CRIU.
func NewReal(t testing.TB) Engine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("CRIU needs root")
	}
	tool, err := criu.Find(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	root, err := unifiedCgroup()
	if err != nil {
		t.Fatal(err)
	}
	return &realEngine{tool: tool, cgroups: root}
}

type realEngine struct {
	tool    criu.Tool
	cgroups string // where cgroup v2 is mounted
}

// unifiedCgroup finds where cgroup v2 is mounted.
func unifiedCgroup() (string, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	return "", errors.New("cgroup v2 is not mounted")
}

// Tool returns this machine's CRIU.
func (e *realEngine) Tool() criu.Tool { return e.tool }

// Cgroup makes a cgroup v2.
func (e *realEngine) Cgroup(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(e.cgroups, "criutest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removeCgroup(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// removeCgroup waits for the last task to be unhashed.
func removeCgroup(dir string) error {
	return waitFor("cgroup to be empty: "+dir, func() bool {
		err := os.Remove(dir)
		return err == nil || errors.Is(err, os.ErrNotExist)
	})
}

// Freeze freezes or thaws a cgroup v2.
func (e *realEngine) Freeze(t testing.TB, cgroup string, on bool) {
	t.Helper()
	want := "0"
	if on {
		want = "1"
	}
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.freeze"), []byte(want), 0); err != nil {
		t.Fatal(err)
	}
	if err := waitFor("cgroup.freeze "+want, func() bool { return frozen(cgroup) == on }); err != nil {
		t.Fatal(err)
	}
}

func frozen(cgroup string) bool {
	b, err := os.ReadFile(filepath.Join(cgroup, "cgroup.events"))
	return err == nil && bytes.Contains(b, []byte("frozen 1"))
}

// program answers each line from the FIFO "ask" by writing it to "answer".
const program = `cd "$1"; exec 3<>ask; while read -r line <&3; do echo "$line" >answer; done`

// Start starts a shell in a session of its own.
func (e *realEngine) Start(t testing.TB) Process {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "ask"), 0o600); err != nil {
		t.Fatal(err)
	}
	cg := e.Cgroup(t)
	cmd := exec.Command("/bin/sh", "-c", program, "sh", dir)
	fd, err := os.Open(cg)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(fd.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &realProcess{pid: cmd.Process.Pid, dir: dir, root: e.cgroups}
	p.reapAtEnd(t)
	if err := p.Alive(); err != nil {
		t.Fatal(err)
	}
	return p
}

// Restored takes over a restored process as a child of this one.
func (e *realEngine) Restored(t testing.TB, p Process, pid int) Process {
	t.Helper()
	q := *p.(*realProcess)
	q.pid = pid
	q.reapAtEnd(t)
	return &q
}

type realProcess struct {
	pid  int
	dir  string
	root string
}

// reapAtEnd kills and reaps the process when the test is over.
func (p *realProcess) reapAtEnd(t testing.TB) {
	t.Cleanup(func() {
		if p.State() != Gone {
			unix.Kill(p.pid, unix.SIGKILL)
		}
		if err := waitFor("process to end", func() bool { return p.State() == Gone }); err != nil {
			t.Error(err)
		}
	})
}

// PID returns the process's PID.
func (p *realProcess) PID() int { return p.pid }

// State reads it from /proc, and reaps the process if it has ended.
func (p *realProcess) State() State {
	unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		return Gone
	}
	if f := field(b, "State:"); strings.HasPrefix(f, "Z") || strings.HasPrefix(f, "X") {
		return Gone
	}
	if field(b, "TracerPid:") != "0" || strings.HasPrefix(field(b, "State:"), "t") || frozen(p.Cgroup()) {
		return Stopped
	}
	return Running
}

// field returns what stands behind name in a /proc file.
func field(b []byte, name string) string {
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// Alive sends a word and waits until the process has written it down.
func (p *realProcess) Alive() error {
	word := strconv.FormatInt(time.Now().UnixNano(), 10)
	// Read-write does not wait for somebody to read.
	f, err := os.OpenFile(filepath.Join(p.dir, "ask"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(word + "\n"); err != nil {
		return err
	}
	return waitFor("process to answer", func() bool {
		b, err := os.ReadFile(filepath.Join(p.dir, "answer"))
		return err == nil && strings.TrimSpace(string(b)) == word
	})
}

// Cgroup returns the process's cgroup v2.
func (p *realProcess) Cgroup() string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.pid))
	if err != nil {
		return ""
	}
	return filepath.Join(p.root, field(b, "0::"))
}

// Monotonic is this process's clock with the difference of time namespaces.
func (p *realProcess) Monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano()) + offset(p.pid) - offset(os.Getpid())
}

func offset(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/timens_offsets", pid))
	if err != nil {
		return 0
	}
	var sec, nsec int64
	fmt.Sscan(field(b, "monotonic"), &sec, &nsec)
	return time.Duration(sec)*time.Second + time.Duration(nsec)
}

func waitFor(what string, ok func() bool) error {
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return errors.New("waited too long for " + what)
		}
	}
	return nil
}
