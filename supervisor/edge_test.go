package supervisor

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"migrate"
	"migrate/clock"
	"migrate/workload"
	"migrate/workload/cgroup"
)

// sleeper is a workload that needs nobody to read its output.
func sleeper(t *testing.T, name string) dumped {
	t.Helper()
	src := newHost(t)
	c := src.runIn(name, script("echo up; sleep 1000"))
	src.waitLog(name, "stdout", "up")
	d := src.dump(c, name)
	waitGone(t, src.record(name).Supervisor.PID)
	return d
}

// A supervisor that dies while CRIU asks for the last time leaves a tree that
// runs: nobody may restore it again.
func TestSupervisorKilledLettingGo(t *testing.T) {
	tests := []struct {
		name, point string
		ran         bool
	}{
		{n("s-lg-resuming"), "supervisor:resuming", false},
		{n("s-lg-preresume"), "supervisor:pre-resume", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := sleeper(t, tt.name)
			h := newHost(t)
			t.Setenv("MIGRATE_FAILPOINT", tt.point+"=kill")
			c, hold := h.restoreHeld(tt.name+"-b", d)
			t.Cleanup(func() { unix.Kill(hold.PID, unix.SIGKILL) })
			if _, err := c.Resume(t.Context()); !errors.Is(err, ErrGone) {
				t.Errorf("Resume() = %v, want ErrGone", err)
			}
			if got := Ran(t.Context(), h.state, h.run, tt.name+"-b"); got != tt.ran {
				t.Errorf("Ran() = %v, want %v", got, tt.ran)
			}
			err := Cleanup(t.Context(), h.state, h.run, tt.name+"-b")
			if tt.ran != errors.Is(err, ErrRuns) || alive(hold.PID) != tt.ran {
				t.Errorf("Cleanup() = %v; the tree is alive: %v", err, alive(hold.PID))
			}
			if !tt.ran {
				h.nothingLeft(tt.name + "-b")
				return
			}
			if b, _ := os.ReadFile("/proc/" + strconv.Itoa(hold.PID) + "/status"); !strings.Contains(string(b), "TracerPid:\t0") || !strings.Contains(string(b), "State:\tS") {
				t.Errorf("the tree does not run:\n%s", b)
			}
			kill(t, hold.PID)
			waitGone(t, hold.PID)
			if err := Cleanup(t.Context(), h.state, h.run, tt.name+"-b"); err != nil {
				t.Error(err)
			}
			h.nothingLeft(tt.name + "-b")
		})
	}
}

// After a hop, a program that joins the workload has its clocks.
func TestExecAfterRestore(t *testing.T) {
	t.Parallel()
	d := sleeper(t, n("s-er"))
	h := newHost(t)
	spec := d.spec(n("s-er-b"))
	spec.Clock.Difference.Monotonic.Offset = -time.Hour // the source's clock is an hour ahead of ours
	spec.Clock.Difference.Boottime.Offset = -time.Hour
	c := h.start(n("s-er-b"))
	hold, err := c.Restore(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := hold.Clock.Outage; time.Duration(got) < time.Hour {
		t.Errorf("outage = %v, want more than an hour", got)
	}
	cmd, err := ExecCommand(t.Context(), h.state, h.record(n("s-er-b")), []string{"cat", "/proc/self/timens_offsets", "/proc/uptime"}, false)
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.Output()
	closeAll(cmd.ExtraFiles)
	if err != nil {
		t.Fatal(err)
	}
	here := clock.Now().Boottime
	f := strings.Fields(string(out)) // monotonic S NS boottime S NS UPTIME IDLE
	up, err := time.ParseDuration(f[6] + "s")
	if err != nil || up < here+59*time.Minute || up > here+61*time.Minute {
		t.Errorf("uptime inside = %v, here %v; want an hour more\n%s", up, here, out)
	}
}

func TestRestoreNet(t *testing.T) {
	t.Parallel()
	src := newHost(t)
	spec := script("echo up; sleep 1000")
	spec.Net = true
	c := src.runIn(n("s-net"), spec)
	src.waitLog(n("s-net"), "stdout", "up")
	d := src.dump(c, n("s-net"))
	if !d.facts.OwnNet {
		t.Errorf("facts = %+v", d.facts)
	}
	h := newHost(t)
	c, _ = h.restoreHeld(n("s-net-b"), d)
	if _, err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestClockWithoutNamespace(t *testing.T) {
	d := sleeper(t, n("s-cn"))
	h := newHost(t)
	t.Setenv("MIGRATE_PROBE_DISABLE", "timens")
	_, hold := h.restoreHeld(n("s-cn-b"), d)
	if hold.Clock.Namespace || hold.Clock.Outage <= 0 {
		t.Errorf("clock = %+v", hold.Clock)
	}
}

// A job of a shell: its session's leader stays behind.
func TestRestoreShellJob(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	pidFile := filepath.Join(t.TempDir(), "pid")
	cmd := exec.Command("/bin/sh", "-c", `set -m; sh -c 'echo $$ > `+pidFile+`; while read l; do echo got $l; done; exit 4' & fg; sleep 1000`)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	t.Cleanup(func() { unix.Kill(-cmd.Process.Pid, unix.SIGKILL); cmd.Wait() })
	pid := 0
	eventually(t, "the job's number", func() bool {
		b, _ := os.ReadFile(pidFile)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		return pid > 0
	})
	time.Sleep(20 * time.Millisecond)
	d := h.dumpTree(pid)
	if !d.facts.ShellJob || len(d.facts.Terminals) != 1 {
		t.Fatalf("facts = %+v", d.facts)
	}
	eventually(t, "the shell to reap its job", func() bool { return unix.Kill(pid, 0) != nil })
	c, _ := h.restoreHeld(n("s-sj-b"), d)
	if _, err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	in, w := newTestPipe(t)
	done := make(chan error)
	go func() { done <- c.Attach(t.Context(), in, io.Discard, nil) }()
	io.WriteString(w, "line\n")
	h.waitLog(n("s-sj-b"), "stdout", "got line")
	io.WriteString(w, "\x04") // end of file: the line discipline is still there
	if err := <-done; err != nil {
		t.Error(err)
	}
	if r := h.record(n("s-sj-b")); r.ExitCode != 4 {
		t.Errorf("record = %+v", r)
	}
}

// In version 1 a thread joins the cgroup to start a process there.
func TestLaunchV1(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	l, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	if l.Freezer.Dir == "" {
		t.Skip("this machine has no version 1 freezer")
	}
	l.Unified = cgroup.Mount{}
	g, err := l.Create(n("s-v1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Remove() })
	r, w := newTestPipe(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	before := len(threadsIn(t, g.Path()))
	pid, err := launch(RunSpec{Net: true}, []string{"/bin/cat", "/proc/self/cgroup"}, []*os.File{null, w, os.Stderr}, g)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	out, _ := io.ReadAll(r)
	unix.Wait4(pid, nil, 0, nil)
	if !strings.Contains(string(out), "freezer:/migrate/"+n("s-v1")+"\n") {
		t.Errorf("its cgroups are %s", out)
	}
	if after := len(threadsIn(t, g.Path())); before != 0 || after != 0 {
		t.Errorf("threads left in the cgroup: %d", after)
	}
}

func threadsIn(t *testing.T, dir string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "tasks"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(b))
}

func TestPassPIDs(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	const behind = 2000 // far below the end, where the counter would wrap
	if err := os.WriteFile(lastPID, []byte(strconv.Itoa(behind)), 0); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	ahead := cmd.Process.Pid + 20
	if err := passPIDs([]int{ahead, behind}); err != nil {
		t.Fatal(err)
	}
	next := exec.Command("true")
	if err := next.Start(); err != nil {
		t.Fatal(err)
	}
	next.Wait()
	if next.Process.Pid <= ahead {
		t.Errorf("the next PID is %d, want above %d", next.Process.Pid, ahead)
	}
	if err := ownConflict([]int{os.Getpid()}, 1); err == nil {
		t.Error("ownConflict of our own number gives no error")
	}
}

func TestPIDs(t *testing.T) {
	w := migrate.Workload{Tasks: []migrate.Task{{PID: 7, VPID: 7, Threads: []int{7, 8}}, {PID: 9, VPID: 9, Threads: []int{9}}}}
	if got := PIDs(w); !slices.Contains(got, 8) || !slices.Contains(got, 9) {
		t.Errorf("PIDs() = %v", got)
	}
	w.OwnPIDs = true
	if got := PIDs(w); got != nil {
		t.Errorf("PIDs() of a tree with its own namespace = %v", got)
	}
}

func TestAbandoned(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, leased := range []bool{true, false} {
		s := newServer(config{"nobody", t.TempDir(), t.TempDir()}, slog.New(slog.DiscardHandler), l, nil)
		if leased {
			s.leases[nil] = true
		}
		s.abandoned()
		if gone := s.snapshot().State == Discarded; gone == leased {
			t.Errorf("with a client %v: gave up %v", leased, gone)
		}
	}
}

func TestStreamNames(t *testing.T) {
	s := newStdio(t.TempDir(), 0, slog.New(slog.DiscardHandler))
	defer s.close()
	for name, ok := range map[string]bool{"stdout": true, "fd17": true, "../x": false, "": false, "fd1/2": false, "supervisor": false} {
		f, err := s.pipeOut(name)
		if (err == nil) != ok {
			t.Errorf("pipeOut(%q) = %v", name, err)
		}
		if f != nil {
			f.Close()
		}
	}
}

func TestHub(t *testing.T) {
	var h hub
	slow, _ := h.subscribe()
	for range backlog + 1 {
		h.publish([]byte("x"))
	}
	n := 0
	for range slow {
		n++
	}
	if n != backlog {
		t.Errorf("a slow client got %d, want %d and the end", n, backlog)
	}
	h.keep = 3
	h.publish([]byte("abcde"))
	h.close()
	late, cancel := h.subscribe()
	cancel()
	if got := string(<-late); got != "cde" {
		t.Errorf("scrollback = %q", got)
	}
	if _, more := <-late; more {
		t.Error("a closed hub goes on")
	}
}

func TestProtocol(t *testing.T) {
	long := strings.Repeat("d/", 100)
	path := filepath.Join(t.TempDir(), long, "w", "x.sock")
	l, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := checkPeer(conn); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "\x00\x00", "\xff\xff\xff\xff", "\x00\x00\x00\x05abc", "\x00\x00\x00\x03abc"} {
		var req request
		if err := readMessage(strings.NewReader(bad), &req); err == nil {
			t.Errorf("readMessage(%q) gives no error", bad)
		}
	}
	err = error(&Error{migrate.Failure{What: "a", Cause: "b", Advice: "c"}})
	if f, _ := migrate.FailureOf(err); err.Error() != "a: b" || f.Advice != "c" {
		t.Errorf("failure = %+v of %v", f, err)
	}
}

func TestExecOfNobody(t *testing.T) {
	if _, err := ExecCommand(t.Context(), t.TempDir(), workload.Record{Name: "x"}, []string{"true"}, false); err == nil {
		t.Error("no error")
	}
}
