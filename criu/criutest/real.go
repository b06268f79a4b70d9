package criutest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrate/criu"
)

// freezer is a cgroup hierarchy that can freeze.
type freezer struct {
	fstype, option string // of its mount
	root           string // where it is mounted
	line           string // what its line in /proc/PID/cgroup begins with, behind the number
	file, on, off  string
	status, frozen string // the file that tells, and what it then holds
}

var (
	unified = freezer{fstype: "cgroup2", line: ":", file: "cgroup.freeze", on: "1", off: "0", status: "cgroup.events", frozen: "frozen 1"}
	legacy  = freezer{
		fstype: "cgroup", option: "freezer", line: "freezer:",
		file: "freezer.state", on: "FROZEN", off: "THAWED", status: "freezer.state", frozen: "FROZEN",
	}
)

// NewReal returns the engine of this machine's CRIU, with cgroup v2. It skips
// the test when it does not run as root, and fails it when there is no usable
// CRIU.
func NewReal(t testing.TB) Engine {
	t.Helper()
	return newReal(t, unified)
}

// NewRealV1 is [NewReal] with the v1 freezer, which has to be there: see [HasV1].
func NewRealV1(t testing.TB) Engine {
	t.Helper()
	return newReal(t, legacy)
}

// HasV1 tells whether this machine has a cgroup v1 freezer.
func HasV1() bool {
	_, ok := legacy.find()
	return ok
}

func newReal(t testing.TB, f freezer) *realEngine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("CRIU needs root")
	}
	tool, err := criu.Find(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	f, ok := f.find()
	if !ok {
		t.Fatalf("no %s with a freezer is mounted", f.fstype)
	}
	return &realEngine{tool: tool, freezer: f}
}

// find looks the hierarchy up in this process's mounts.
func (f freezer) find() (freezer, bool) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return f, false
	}
	for line := range strings.Lines(string(b)) {
		w := strings.Fields(line)
		if len(w) > 3 && w[2] == f.fstype && (f.option == "" || slices.Contains(strings.Split(w[3], ","), f.option)) {
			f.root = w[1]
			return f, true
		}
	}
	return f, false
}

func (f freezer) isFrozen(cgroup string) bool {
	b, err := os.ReadFile(filepath.Join(cgroup, f.status))
	return err == nil && bytes.Contains(b, []byte(f.frozen))
}

type realEngine struct {
	tool    criu.Tool
	freezer freezer
}

// Tool returns this machine's CRIU.
func (e *realEngine) Tool() criu.Tool { return e.tool }

// Cgroup makes a cgroup.
func (e *realEngine) Cgroup(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(e.freezer.root, "criutest-")
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

// Freeze freezes or thaws a cgroup.
func (e *realEngine) Freeze(t testing.TB, cgroup string, on bool) {
	t.Helper()
	want := e.freezer.off
	if on {
		want = e.freezer.on
	}
	if err := os.WriteFile(filepath.Join(cgroup, e.freezer.file), []byte(want), 0); err != nil {
		t.Fatal(err)
	}
	if err := waitFor("cgroup to be "+want, func() bool { return e.freezer.isFrozen(cgroup) == on }); err != nil {
		t.Fatal(err)
	}
}

// program answers each line from the FIFO "ask" by writing it to "answer".
const program = `cd "$1"; exec 3<>ask; while read -r line <&3; do echo "$line" >answer; done`

// Start starts a shell in a session of its own.
func (e *realEngine) Start(t testing.TB) Process {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("/bin/sh", "-c", program, "sh", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return e.start(t, cmd, dir)
}

// start starts cmd, which answers in dir, in a new cgroup.
func (e *realEngine) start(t testing.TB, cmd *exec.Cmd, dir string) *realProcess {
	t.Helper()
	if err := unix.Mkfifo(filepath.Join(dir, "ask"), 0o600); err != nil {
		t.Fatal(err)
	}
	return e.startAlive(t, cmd, func() error { return answers(dir) })
}

// startAlive starts cmd in a new cgroup and waits until it is alive.
func (e *realEngine) startAlive(t testing.TB, cmd *exec.Cmd, alive func() error) *realProcess {
	t.Helper()
	cg := e.Cgroup(t)
	if e.freezer.fstype == unified.fstype { // from its birth, with all that it starts
		dir, err := os.Open(cg)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &realProcess{pid: cmd.Process.Pid, alive: alive, freezer: e.freezer}
	p.reapAtEnd(t)
	if err := os.WriteFile(filepath.Join(cg, "cgroup.procs"), []byte(strconv.Itoa(p.pid)), 0); err != nil {
		t.Fatal(err)
	}
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
	pid     int
	alive   func() error
	freezer freezer
}

// reapAtEnd kills and reaps the process when the test is over.
func (p *realProcess) reapAtEnd(t testing.TB) {
	t.Cleanup(func() {
		if p.State() != Gone {
			p.Kill()
			// A task in a frozen v1 cgroup dies only once it is thawed.
			_ = os.WriteFile(filepath.Join(p.Cgroup(), p.freezer.file), []byte(p.freezer.off), 0)
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
	_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		return Gone
	}
	if f := field(b, "State:"); strings.HasPrefix(f, "Z") || strings.HasPrefix(f, "X") {
		// Its PID is taken until its last thread has ended and it is reaped.
		if got, err := unix.Wait4(p.pid, nil, unix.WNOHANG, nil); err == nil && got == 0 {
			return Stopped
		}
		return Gone
	}
	if field(b, "TracerPid:") != "0" || strings.HasPrefix(field(b, "State:"), "t") || p.freezer.isFrozen(p.Cgroup()) {
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

// Alive asks the process for an answer.
func (p *realProcess) Alive() error { return p.alive() }

// answers sends a word and waits until the process has written it down.
func answers(dir string) error {
	word := strconv.FormatInt(time.Now().UnixNano(), 10)
	// Read-write does not wait for somebody to read.
	f, err := os.OpenFile(filepath.Join(dir, "ask"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(word + "\n"); err != nil {
		return err
	}
	return waitFor("process to answer", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "answer"))
		return err == nil && strings.TrimSpace(string(b)) == word
	})
}

// Kill kills the process.
func (p *realProcess) Kill() { _ = unix.Kill(p.pid, unix.SIGKILL) } // gone is as good

// Cgroup returns the process's cgroup in the freezer's hierarchy.
func (p *realProcess) Cgroup() string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		_, rest, _ := strings.Cut(line, ":")
		if path, ok := strings.CutPrefix(strings.TrimSpace(rest), p.freezer.line); ok {
			return filepath.Join(p.freezer.root, path)
		}
	}
	return ""
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
