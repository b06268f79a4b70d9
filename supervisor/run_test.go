package supervisor

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrate/workload"
)

func TestRun(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	c := h.runIn(n("s-run"), script(`echo out; echo err >&2; ls /proc/self/fd | tr '\n' ' '; echo; exit 7`))
	e := h.waitExit(c, n("s-run"))
	if e.Code != 7 || e.Signal != 0 {
		t.Errorf("exit = %+v, want code 7", e)
	}
	if out, err := h.log(n("s-run"), "stdout"), h.log(n("s-run"), "stderr"); out != "out\n0 1 2 3 \n" || err != "err\n" {
		t.Errorf("stdout.log = %q, stderr.log = %q", out, err) // 3 is ls's own
	}
	r := h.record(n("s-run"))
	if r.State != workload.Exited || r.ExitCode != 7 || r.Ended.IsZero() || r.Kind != workload.Capsule || r.Init == "" {
		t.Errorf("record = %+v", r)
	}
	logs, err := LogPaths(h.state, n("s-run"))
	if err != nil || len(logs) != 2 {
		t.Errorf("LogPaths() = %v, %v", logs, err)
	}
	h.nothingLeft(n("s-run"))
}

func TestRunOptions(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		spec RunSpec
		want string
	}{
		{"init", script(`echo $$ $PPID`), "2 1\n"},
		{"noinit", RunSpec{Argv: []string{"/bin/sh", "-c", "echo $$"}, NoInit: true}, "1\n"},
		{"dir", RunSpec{Argv: []string{"/bin/pwd"}, Dir: "/usr"}, "/usr\n"},
		{"env", RunSpec{Argv: []string{"/usr/bin/env"}, Env: []string{"A=b"}}, "A=b\n"},
		{"net", RunSpec{Argv: []string{"/bin/sh", "-c", "tail -n +3 /proc/net/dev | wc -l; cat /proc/net/route | wc -l; cat /sys/class/net/lo/flags >/dev/null; ping -c1 127.0.0.1 >/dev/null 2>&1; grep -c 127.0.0.1 /proc/net/fib_trie"}, Net: true}, ""},
		{"time", RunSpec{Argv: []string{"/bin/sh", "-c", "readlink /proc/self/ns/time"}, Time: true}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t)
			name := n("s-opt-") + tt.name
			h.waitExit(h.runIn(name, tt.spec), name)
			got := h.log(name, "stdout")
			if tt.want != "" && got != tt.want {
				t.Errorf("output = %q, want %q", got, tt.want)
			}
			if ours, _ := os.Readlink("/proc/self/ns/time"); tt.spec.Time && (got == "" || strings.TrimSpace(got) == ours) {
				t.Errorf("time namespace = %q, ours is %q", got, ours)
			}
			if tt.spec.Net && !strings.HasSuffix(got, "\n2\n") && !strings.HasSuffix(got, "\n4\n") {
				t.Errorf("loopback addresses, and what is before: %q", got)
			}
		})
	}
}

func TestRunRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, spec := range []RunSpec{{}, {Argv: []string{"no-such-program-anywhere"}}, {Argv: []string{"/etc/passwd"}}, {Argv: []string{"/bin/true"}, Dir: "/nowhere"}} {
		c := h.start(n("s-refused"))
		pid := state(t, c).PID
		var e *Error
		if err := c.Run(t.Context(), spec); !errors.As(err, &e) {
			t.Errorf("Run(%+v) = %v, want an *Error", spec, err)
		}
		waitGone(t, pid)
		c.Close()
		h.nothingLeft(n("s-refused"))
		if _, err := os.Stat(workload.RecordDir(h.state, n("s-refused"))); err == nil {
			t.Error("its directory is left")
		}
	}
}

func TestStartTwice(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.runIn(n("s-twice"), script("sleep 1000"))
	_, err := Start(t.Context(), StartConfig{Name: n("s-twice"), StateDir: h.state, RunDir: h.run})
	if err == nil || !strings.Contains(err.Error(), "has a supervisor already") {
		t.Errorf("second Start = %v", err)
	}
	if err := Cleanup(t.Context(), h.state, h.run, n("s-twice")); !errors.Is(err, ErrRuns) {
		t.Errorf("Cleanup of a running workload = %v, want ErrRuns", err)
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		script  string
		timeout time.Duration
		signal  unix.Signal
		want    int
	}{
		{"term", `trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done`, 0, 0, 3},
		{"usr1", `trap 'exit 4' USR1; echo up; while :; do sleep 0.05; done`, 0, unix.SIGUSR1, 4},
		{"kill", `trap '' TERM; echo up; while :; do sleep 0.05; done`, 200 * time.Millisecond, 0, 137},
		{"now", `trap 'exit 5' TERM; echo up; sleep 1000`, -1, 0, 137},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t)
			name := n("s-stop-") + tt.name
			c := h.runIn(name, script(tt.script))
			h.waitLog(name, "stdout", "up")
			e, err := c.Stop(t.Context(), tt.timeout, tt.signal)
			if err != nil || e.Code != tt.want {
				t.Errorf("Stop() = %+v, %v, want code %d", e, err, tt.want)
			}
			waitGone(t, h.record(name).Supervisor.PID)
			h.nothingLeft(name)
		})
	}
}

func TestSIGTERMStops(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	c := h.runIn(n("s-term"), script(`trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done`))
	h.waitLog(n("s-term"), "stdout", "up")
	st := state(t, c)
	unix.Kill(st.PID, unix.SIGHUP)
	unix.Kill(st.PID, unix.SIGTERM)
	waitGone(t, st.PID)
	if r := h.record(n("s-term")); r.ExitCode != 3 {
		t.Errorf("record = %+v, want exit code 3", r)
	}
}

// The orphan is reaped by the tiny init, and its output is still logged.
func TestOrphans(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	c := h.runIn(n("s-orphan"), script(`(sh -c 'sleep 0.1; echo orphan' &); sleep 0.3; ls -d /proc/[0-9]* >/dev/null; echo end`))
	h.waitExit(c, n("s-orphan"))
	if got := h.log(n("s-orphan"), "stdout"); got != "orphan\nend\n" {
		t.Errorf("stdout.log = %q", got)
	}
}

func TestSurvivesStarter(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "start-and-hang", n("s-starter"), h.state, h.run)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	got, _ := out.Read(b)
	if line := string(b[:got]); line != "<nil>\n" {
		t.Fatalf("starter says %q", line)
	}
	cmd.Process.Kill()
	cmd.Wait()
	c, err := Connect(h.run, n("s-starter"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.end(c, n("s-starter")) })
	st := state(t, c)
	if st.State != Running || !alive(st.Root) {
		t.Errorf("after its starter was killed: %+v", st)
	}
	group, _ := os.ReadFile("/proc/" + strconv.Itoa(st.PID) + "/cgroup")
	if !strings.Contains(string(group), ownGroup) {
		t.Errorf("its cgroup is %s", group)
	}
}

func TestLogLimit(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	spec := script(`i=0; while [ $i -lt 100 ]; do echo 0123456789012345678; sleep 0.001; i=$((i+1)); done`)
	spec.LogLimit = 1000
	h.waitExit(h.runIn(n("s-limit"), spec), n("s-limit"))
	now, old := h.log(n("s-limit"), "stdout"), ""
	if b, err := os.ReadFile(logPath(workload.RecordDir(h.state, n("s-limit")), "stdout") + ".1"); err == nil {
		old = string(b)
	}
	if len(now) > 1000 || len(now) == 0 || len(old) > 1000 || len(old) == 0 {
		t.Errorf("sizes = %d and %d, want at most 1000", len(now), len(old))
	}
}

func TestStdinPipe(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	spec := script(`while read l; do echo got $l; [ "$l" = end ] && exit 0; done`)
	spec.Stdin = true
	c := h.runIn(n("s-stdin"), spec)
	var out strings.Builder
	if err := c.Attach(t.Context(), strings.NewReader("one\nend\n"), &out, nil); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "got one\ngot end\n" {
		t.Errorf("attached output = %q", got)
	}
	h.nothingLeftSoon(n("s-stdin"))
}

func (h *testHost) nothingLeftSoon(name string) {
	h.t.Helper()
	waitGone(h.t, h.record(name).Supervisor.PID)
	h.nothingLeft(name)
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	spec := script(`stty size; tty >/dev/null && echo is a tty; trap 'stty size' WINCH; until read l; do :; done; echo read $l; exec 3</dev/tty && echo controlling`)
	spec.TTY, spec.Rows, spec.Columns = true, 30, 90
	c := h.runIn(n("s-tty"), spec)
	h.waitLog(n("s-tty"), "stdout", "is a tty")
	sizes := make(chan Size, 1)
	sizes <- Size{Rows: 31, Columns: 91}
	in, w := newTestPipe(t)
	var out strings.Builder
	done := make(chan error)
	go func() { done <- c.Attach(t.Context(), in, &out, sizes) }()
	h.waitLog(n("s-tty"), "stdout", "31 91")
	w.WriteString("hello\n")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(out.String(), "\r", "")
	if want := "30 90\nis a tty\n31 91\nhello\nread hello\ncontrolling\n"; got != want {
		t.Errorf("attached output = %q, want %q", got, want)
	}
}

func newTestPipe(t *testing.T) (*os.File, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func TestExec(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	spec := script("sleep 1000")
	spec.Time = true
	h.runIn(n("s-exec"), spec)
	r := h.record(n("s-exec"))
	cmd, err := ExecCommand(t.Context(), h.state, r, []string{"/bin/sh", "-c", "readlink /proc/self/ns/time; echo $$; cat /proc/self/cgroup"}, false)
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.Output()
	closeAll(cmd.ExtraFiles)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitN(string(out), "\n", 3)
	want, _ := os.Readlink(filepath.Join("/proc", strconv.Itoa(r.Root.PID), "ns/time"))
	if lines[0] != want {
		t.Errorf("exec'd process is in %s, the workload in %s", lines[0], want)
	}
	if pid, _ := strconv.Atoi(lines[1]); pid > 10 || pid < 2 {
		t.Errorf("its PID is %s, want a small one", lines[1])
	}
	if !strings.Contains(lines[2], "/migrate/"+n("s-exec")) {
		t.Errorf("its cgroup is %s", lines[2])
	}
}
