package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/clock"
	"migrate/criu"
	"migrate/workload"
)

// counter prints 1, 2, 3 … until a file "stop" appears, and then ends with 9.
func counter(t *testing.T) (spec RunSpec, stop string) {
	stop = filepath.Join(t.TempDir(), "stop")
	return script(`i=0; while [ ! -e ` + stop + ` ]; do i=$((i+1)); echo $i; sleep 0.02; done; echo end >&2; exit 9`), stop
}

// leave runs a counter on a host of its own and takes it away as images.
func leave(t *testing.T, name string) (src *testHost, d dumped, stop string) {
	t.Helper()
	src = newHost(t)
	spec, stop := counter(t)
	c := src.runIn(name, spec)
	src.waitLog(name, "stdout", "\n3\n")
	d = src.dump(c, name)
	waitGone(t, src.record(name).Supervisor.PID)
	return src, d, stop
}

// inOrder checks that the numbers of one log go on in the next without one
// missing or twice.
func inOrder(t *testing.T, logs ...string) {
	t.Helper()
	for i, l := range strings.Fields(strings.Join(logs, "")) {
		if l != strconv.Itoa(i+1) {
			t.Fatalf("line %d is %q", i+1, l)
		}
	}
}

func TestMoved(t *testing.T) {
	t.Parallel()
	src, d, _ := leave(t, n("s-moved"))
	r := src.record(n("s-moved"))
	if r.State != workload.Moved || r.MovedTo != "elsewhere" || r.ExitCode != 0 || r.Migration != "0123456789abcdef" {
		t.Errorf("record = %+v", r)
	}
	src.nothingLeft(n("s-moved"))
	if len(d.facts.Pipes) != 2 {
		t.Errorf("pipes = %+v, want two", d.facts.Pipes)
	}
}

func TestRestoreResume(t *testing.T) {
	t.Parallel()
	src, d, stop := leave(t, n("s-rr"))
	h := newHost(t)
	c := h.start(n("s-rr-b"))
	if err := c.Prepare(t.Context(), d.prepare(n("s-rr-b"))); err != nil {
		t.Fatal(err)
	}
	spec := d.spec(n("s-rr-b"))
	begin := time.Now()
	hold, err := c.Restore(t.Context(), spec)
	if err != nil {
		t.Fatalf("restore: %v\n%s", err, criuLog(d))
	}
	t.Logf("restore to held: %v", time.Since(begin))
	time.Sleep(100 * time.Millisecond)
	if st := state(t, c); st.State != Held || st.Root != hold.PID || h.log(n("s-rr-b"), "stdout") != "" {
		t.Errorf("state = %+v, output %q", st, h.log(n("s-rr-b"), "stdout"))
	}
	asked := clock.Now()
	res, err := c.Resume(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("resume to running: %v; to the answer: %v", res.ResumedAt.Monotonic-asked.Monotonic, clock.Now().Monotonic-asked.Monotonic)
	if res.PID != hold.PID || res.ResumedAt.Monotonic < hold.At.Monotonic {
		t.Errorf("Resume() = %+v after %+v", res, hold)
	}
	if again, err := c.Resume(t.Context()); err != nil || again != res {
		t.Errorf("second Resume() = %+v, %v", again, err)
	}
	if err := c.Discard(t.Context()); err == nil {
		t.Error("Discard of what runs gives no error")
	}
	eventually(t, "more output", func() bool { return strings.Count(h.log(n("s-rr-b"), "stdout"), "\n") > 3 })
	checkTimens(t, d, hold, h.record(n("s-rr-b")))
	os.WriteFile(stop, nil, 0o600)
	if e := h.waitExit(c, n("s-rr-b")); e.Code != 9 {
		t.Errorf("exit = %+v, want 9", e)
	}
	inOrder(t, src.log(n("s-rr"), "stdout"), h.log(n("s-rr-b"), "stdout"))
	if got := h.log(n("s-rr-b"), "stderr"); got != "end\n" {
		t.Errorf("stderr.log = %q", got)
	}
	r := h.record(n("s-rr-b"))
	if r.State != workload.Exited || r.ExitCode != 9 || r.Arrived.IsZero() || r.Migration == "" || r.Kind != workload.Capsule {
		t.Errorf("record = %+v", r)
	}
	h.nothingLeft(n("s-rr-b"))
}

// checkTimens looks at what the tree really has.
func checkTimens(t *testing.T, d dumped, hold Hold, r workload.Record) {
	t.Helper()
	mono, boot, err := clock.Offsets(r.Root.PID)
	if err != nil {
		t.Fatal(err)
	}
	if hold.Clock.Offset != int64(mono) || r.MonoOffset != int64(mono) || r.BootOffset != int64(boot) {
		t.Errorf("offsets %d %d; hold says %d, the record %d %d", mono, boot, hold.Clock.Offset, r.MonoOffset, r.BootOffset)
	}
	if mono > 0 || mono < -500*time.Millisecond { // on one host and without an error, all of the outage is added, but for the lead
		t.Errorf("monotonic offset = %v, want next to nothing", mono)
	}
	if !hold.Clock.Namespace || hold.Clock.Outage <= 0 || hold.Clock.Policy != migrate.ClockContinue {
		t.Errorf("clock = %+v", hold.Clock)
	}
}

func TestRestoreTwoHops(t *testing.T) {
	t.Parallel()
	src, d, _ := leave(t, n("s-hop"))
	b := newHost(t)
	c, _ := b.restoreHeld(n("s-hop-b"), d)
	if _, err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.waitLog(n("s-hop-b"), "stdout", "\n")
	d2 := b.dump(c, n("s-hop-b"))
	waitGone(t, b.record(n("s-hop-b")).Supervisor.PID)
	if !d2.facts.OwnTime {
		t.Errorf("after a hop the facts are %+v", d2.facts)
	}
	e := newHost(t)
	c, _ = e.restoreHeld(n("s-hop-c"), d2)
	if _, err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "output", func() bool { return strings.Count(e.log(n("s-hop-c"), "stdout"), "\n") > 2 })
	if x, err := c.Stop(t.Context(), 0, 0); err != nil || x.Code != 143 {
		t.Errorf("Stop() = %+v, %v", x, err)
	}
	inOrder(t, src.log(n("s-hop"), "stdout"), b.log(n("s-hop-b"), "stdout"), e.log(n("s-hop-c"), "stdout"))
}

func TestRestoreDiscard(t *testing.T) {
	t.Parallel()
	_, d, _ := leave(t, n("s-rd"))
	h := newHost(t)
	c, hold := h.restoreHeld(n("s-rd-b"), d)
	pid := state(t, c).PID
	if err := c.Discard(t.Context()); err != nil {
		t.Fatal(err)
	}
	if alive(hold.PID) {
		t.Error("the tree is alive")
	}
	waitGone(t, pid)
	h.nothingLeft(n("s-rd-b"))
	if _, err := os.Stat(workload.RecordDir(h.state, n("s-rd-b"))); err == nil {
		t.Error("its directory is left")
	}
	if err := c.Discard(t.Context()); err != nil {
		t.Errorf("second Discard() = %v", err)
	}
	if err := Cleanup(t.Context(), h.state, h.run, n("s-rd-b")); err != nil {
		t.Errorf("Cleanup() of nothing = %v", err)
	}
}

// A client that goes away changes nothing in a hold; the next one decides.
func TestHoldOutlivesClient(t *testing.T) {
	t.Parallel()
	_, d, _ := leave(t, n("s-ho"))
	h := newHost(t)
	c, hold := h.restoreHeld(n("s-ho-b"), d)
	c.Close()
	c2, err := Connect(h.run, n("s-ho-b"))
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Close()
	st := state(t, c2)
	unix.Kill(st.PID, unix.SIGTERM) // nor does this
	if st = state(t, c2); st.State != Held || st.Held.PID != hold.PID {
		t.Errorf("state = %+v", st)
	}
	if _, err := c2.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.waitLog(n("s-ho-b"), "stdout", "\n")
}

func TestCRIUKilledInHold(t *testing.T) {
	t.Parallel()
	_, d, _ := leave(t, n("s-ck"))
	h := newHost(t)
	c, hold := h.restoreHeld(n("s-ck-b"), d)
	kill(t, criuOf(t, h, n("s-ck-b")))
	<-c.Lost()
	eventually(t, "the failure", func() bool { return state(t, c).State == Failed })
	if st := state(t, c); st.Failure == nil || st.Root != 0 || alive(hold.PID) {
		t.Errorf("state = %+v, root alive: %v", st, alive(hold.PID))
	}
	if _, err := c.Resume(t.Context()); err == nil {
		t.Error("Resume of what is lost gives no error")
	}
	if Ran(t.Context(), h.state, h.run, n("s-ck-b")) {
		t.Error("Ran() = true")
	}
	hold, err := c.Restore(t.Context(), d.spec(n("s-ck-b")))
	if err != nil {
		t.Fatalf("second restore: %v\n%s", err, criuLog(d))
	}
	if _, err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.waitLog(n("s-ck-b"), "stdout", "\n")
	if mono, _, err := clock.Offsets(hold.PID); err != nil || mono > 0 || mono < -500*time.Millisecond {
		t.Errorf("after the second restore the offset is %v, %v: want next to nothing", mono, err)
	}
}

func TestRootKilledInHold(t *testing.T) {
	t.Parallel()
	_, d, _ := leave(t, n("s-rk"))
	h := newHost(t)
	c, hold := h.restoreHeld(n("s-rk-b"), d)
	kill(t, hold.PID)
	eventually(t, "the failure", func() bool { return state(t, c).State == Failed })
	if err := c.Discard(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft(n("s-rk-b"))
}

func TestSupervisorKilledInHold(t *testing.T) {
	t.Parallel()
	_, d, _ := leave(t, n("s-sk"))
	h := newHost(t)
	c, hold := h.restoreHeld(n("s-sk-b"), d)
	kill(t, state(t, c).PID)
	<-c.Lost()
	if Ran(t.Context(), h.state, h.run, n("s-sk-b")) {
		t.Error("Ran() = true")
	}
	if err := Cleanup(t.Context(), h.state, h.run, n("s-sk-b")); err != nil {
		t.Fatal(err)
	}
	if alive(hold.PID) {
		t.Error("the tree is alive")
	}
	h.nothingLeft(n("s-sk-b"))
	// The same images restore again, under a new supervisor.
	c, _ = h.restoreHeld(n("s-sk-b"), d)
	if _, err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.waitLog(n("s-sk-b"), "stdout", "\n")
}

// The supervisor and CRIU are killed at once: nobody ends the stuck tasks.
func TestBothKilledInHold(t *testing.T) {
	t.Parallel()
	_, d, _ := leave(t, n("s-bk"))
	h := newHost(t)
	c, hold := h.restoreHeld(n("s-bk-b"), d)
	pid := state(t, c).PID
	unix.Kill(pid, unix.SIGSTOP)
	kill(t, criuOf(t, h, n("s-bk-b")))
	kill(t, pid)
	waitGone(t, pid)
	if err := Cleanup(t.Context(), h.state, h.run, n("s-bk-b")); err != nil {
		t.Fatal(err)
	}
	if alive(hold.PID) {
		t.Error("the tree is alive")
	}
	h.nothingLeft(n("s-bk-b"))
}

func criuOf(t *testing.T, h *testHost, name string) int {
	t.Helper()
	m, found, err := readMark(h.run, name)
	if err != nil || !found || !m.CRIU.Alive() {
		t.Fatalf("mark = %+v, %v, %v", m, found, err)
	}
	return m.CRIU.PID
}

func TestRestoreFails(t *testing.T) {
	t.Parallel()
	_, d, _ := leave(t, n("s-rf"))
	h := newHost(t)
	c := h.start(n("s-rf-b"))
	bad := d
	bad.images = t.TempDir()
	if _, err := c.Restore(t.Context(), bad.spec(n("s-rf-b"))); err == nil {
		t.Fatal("a restore from nothing succeeds")
	}
	files, _ := filepath.Glob(filepath.Join(d.images, "*"))
	for _, f := range files { // all but the process's core
		if !strings.HasPrefix(filepath.Base(f), "core-") {
			if err := os.Link(f, filepath.Join(bad.images, filepath.Base(f))); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err := c.Restore(t.Context(), bad.spec(n("s-rf-b")))
	var e *Error
	if !errors.As(err, &e) || e.Failure().What == "" {
		t.Fatalf("restore without a core image = %v", err)
	}
	t.Log(err)
	if _, err := c.Restore(t.Context(), d.spec(n("s-rf-b"))); err != nil {
		t.Fatal(err)
	}
	if err := c.Discard(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft(n("s-rf-b"))
}

func TestDiscardPrepared(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	c := h.start(n("s-dp"))
	if err := c.Prepare(t.Context(), PrepareSpec{Name: n("s-dp"), CRIU: criu.Tool{Path: criuPath}}); err != nil {
		t.Fatal(err)
	}
	if err := c.Discard(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft(n("s-dp"))
}

func TestRestoreTerminal(t *testing.T) {
	t.Parallel()
	src := newHost(t)
	spec := script(`trap 'stty size' WINCH; echo up; while :; do if read l; then echo read $l; fi; [ "$l" = end ] && exit 6; done`)
	spec.TTY, spec.Rows, spec.Columns = true, 33, 99
	c := src.runIn(n("s-rt"), spec)
	src.waitLog(n("s-rt"), "stdout", "up")
	time.Sleep(20 * time.Millisecond)
	d := src.dump(c, n("s-rt"))
	if len(d.facts.Terminals) != 1 || d.facts.Terminals[0].Rows != 33 {
		t.Fatalf("terminals = %+v", d.facts.Terminals)
	}
	h := newHost(t)
	c, hold := h.restoreHeld(n("s-rt-b"), d)
	if _, err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	in, w := newTestPipe(t)
	sizes := make(chan Size, 1)
	var out strings.Builder
	done := make(chan error)
	go func() { done <- c.Attach(t.Context(), in, &out, sizes) }()
	fmt.Fprintln(w, "one")
	h.waitLog(n("s-rt-b"), "stdout", "read one")
	sizes <- Size{Rows: 40, Columns: 100}
	h.waitLog(n("s-rt-b"), "stdout", "40 100")
	if p, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", hold.PID)); err != nil || strings.Fields(string(p))[6] == "0" {
		t.Errorf("no controlling terminal: %s, %v", p, err)
	}
	fmt.Fprintln(w, "end")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if r := h.record(n("s-rt-b")); r.ExitCode != 6 {
		t.Errorf("record = %+v", r)
	}
}

// A plain process keeps its PID, becomes our child, and what it leaves behind
// is waited for.
func TestRestoreProcess(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	stop := filepath.Join(t.TempDir(), "stop")
	cmd := exec.Command("/bin/sh", "-c", `sh -c 'sleep 1; echo late' & i=0; while [ ! -e `+stop+` ]; do i=$((i+1)); echo $i; sleep 0.02; done; exit 8`)
	r, w := newTestPipe(t)
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = sysProcSetsid()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Kill(-cmd.Process.Pid, unix.SIGKILL); cmd.Wait() })
	b := make([]byte, 10)
	r.Read(b)
	d := h.dumpForeign(cmd)
	if d.facts.OwnPIDs || len(PIDs(d.facts)) < 2 {
		t.Fatalf("facts = %+v", d.facts)
	}
	c, hold := h.restoreHeld(n("s-rp-b"), d)
	if hold.PID != cmd.Process.Pid {
		t.Errorf("PID = %d, was %d", hold.PID, cmd.Process.Pid)
	}
	if _, err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.waitLog(n("s-rp-b"), "stdout", "\n")
	os.WriteFile(stop, nil, 0o600)
	eventually(t, "the exit in the record", func() bool { return h.record(n("s-rp-b")).ExitCode == 8 })
	if e := h.waitExit(c, n("s-rp-b")); e.Code != 8 {
		t.Errorf("exit = %+v", e)
	}
	if got := h.log(n("s-rp-b"), "stdout"); !strings.HasSuffix(got, "late\n") {
		t.Errorf("stdout.log = %q, want late at its end", got)
	}
	h.nothingLeft(n("s-rp-b"))
}
