package hosts

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"migrate"
	"migrate/internal/testhost"
)

// TestControl tests what users expect of the commands around a move: that it
// can be watched, cancelled and driven from elsewhere, and that agents come and
// go.
func TestControl(t *testing.T) {
	t.Parallel()
	runCases(t, []behaviour{
		{"ctrl-c in pre-copy", testInterrupt},
		{"cancel from another terminal", testCancel},
		{"settings of a move under way", testSet},
		{"time-outs", testTimeouts},
		{"cancel at every phase", testCancelPhases},
		{"drive from a third host", testDrive},
		{"operator right", testOperatorRight},
		{"agent dies behind a workload", testAgentDies},
		{"agent is stopped while it receives", testAgentStops},
	})
}

// slow makes pre-copy take some ten seconds.
var slow = []string{"--memory", "32", "--fill", "random", "--children", "1"}

const slowBandwidth = "3MB"

// staysBehind demands what is due after a rollback: exit code 4, the workload
// runs on the source, and nothing is left on the target.
func staysBehind(t *testing.T, h trio, l load, r migrate.Report, code int, want migrate.Status) {
	t.Helper()
	if code != 4 || r.Status != want || r.Owner != migrate.OwnerSource || r.Error == nil {
		t.Errorf("exit code %d, status %s, owner %s, error %+v, want 4, %s, source", code, r.Status, r.Owner, r.Error, want)
	}
	l.verify(t, h.a)
	await(t, "nothing is left on B", func() bool { return leftOn(h.b) == "" })
	images := h.a.Run(t, "sh", "-c", `find /run/migrate/images -mindepth 1; find /run/migrate/m -mindepth 1; find /sys/fs/cgroup -type d -path "*migrate/move-*"`)
	if images != "" {
		t.Errorf("left on A: %s", images)
	}
}

// awaitPhase waits until a move under way is in a phase, and returns its row of
// migrate status.
func awaitPhase(t *testing.T, h *testhost.Host, phase string) (row struct {
	ID       migrate.ID
	Phase    string
	Status   string
	Live     bool
	Progress *migrate.Progress
}) {
	t.Helper()
	await(t, "the move is in "+phase, func() bool {
		out := h.Run(t, "migrate", "status", "--json")
		return json.Unmarshal([]byte(out), &row) == nil && row.Progress != nil && row.Progress.Phase.String() == phase && row.Progress.Done > 0
	})
	return row
}

func testInterrupt(t *testing.T, h trio) {
	l := startLoad(t, h.a, slow...)
	for _, signal := range []string{"INT", "TERM"} {
		m := begin(t, h.a, "migrate", "move", l.ref(), "B", "--json", "--bandwidth", slowBandwidth)
		awaitPhase(t, h.a, "pre-copy")
		sent := time.Now()
		pkill(h.a, signal, "migrate move")
		r, code := m.end(t)
		if d := time.Since(sent); d > 3*time.Second {
			t.Errorf("%s took %v", signal, d)
		}
		staysBehind(t, h, l, r, code, migrate.StatusCancelled)
	}
}

func testCancel(t *testing.T, h trio) {
	l := startLoad(t, h.a, slow...)
	m := begin(t, h.a, "migrate", "move", l.ref(), "B", "--json", "--bandwidth", slowBandwidth)
	row := awaitPhase(t, h.a, "pre-copy")
	if !row.Live || row.Status != "active" || row.Progress.Total == 0 {
		t.Errorf("status: %+v", row)
	}
	for _, host := range []*testhost.Host{h.a, h.b} {
		out := host.Run(t, "migrate", "status")
		if !strings.Contains(out, string(row.ID)) || !strings.Contains(out, "active") || host == h.a && !strings.Contains(out, "%") {
			t.Errorf("status on %s: %s", host.Name, out)
		}
	}
	if out, err := h.b.Output(t.Context(), "migrate", "cancel", string(row.ID)); err == nil || !strings.Contains(err.Error(), "cancel it there") {
		t.Errorf("cancel on the target: %s, %v", out, err)
	}
	if out := h.a.Run(t, "migrate", "cancel", string(row.ID)); !strings.Contains(out, "runs on here") {
		t.Errorf("cancel: %s", out)
	}
	r, code := m.end(t)
	staysBehind(t, h, l, r, code, migrate.StatusCancelled)
	if out, err := h.a.Output(t.Context(), "migrate", "cancel", string(row.ID)); err == nil || !strings.Contains(err.Error(), "is over") {
		t.Errorf("a second cancel: %s, %v", out, err)
	}
	if out := h.a.Run(t, "migrate", "history"); !strings.Contains(out, "cancelled") {
		t.Errorf("history: %s", out)
	}
}

func testTimeouts(t *testing.T, h trio) {
	l := startLoad(t, h.a, slow...)
	r, code, _ := tryMove(t, h.a, l.ref(), "B", "--bandwidth", slowBandwidth, "--timeout", "1s")
	staysBehind(t, h, l, r, code, migrate.StatusFailed)
	t.Logf("time-out: %+v after %v", *r.Error, r.TotalTime)
	if r.TotalTime > migrate.Millis(4*time.Second) {
		t.Errorf("a time-out of 1 s took %v", r.TotalTime)
	}
	r, code, _ = tryMove(t, h.a, l.ref(), "B", "--bandwidth", slowBandwidth, "--tracker", "none", "--freeze-timeout", "1s")
	staysBehind(t, h, l, r, code, migrate.StatusFailed)
	t.Logf("freeze time-out: %+v, frozen %v", *r.Error, r.FrozenTime)
	if r.FrozenTime > migrate.Millis(4*time.Second) || r.FrozenTime < migrate.Millis(500*time.Millisecond) {
		t.Errorf("a freeze time-out of 1 s left it frozen for %v", r.FrozenTime)
	}
}

// testCancelPhases interrupts a move at each place where it can be told to stop
// itself.
func testCancelPhases(t *testing.T, h trio) {
	l := startLoad(t, h.a, "--memory", "4")
	for _, point := range []string{"prepare", "pre-copy", "freeze", "frozen", "stop-and-copy", "post-dump", "restore", "commit"} {
		h.a.Run(t, "rm", "-f", pointLog)
		m := begin(t, h.a, "env", "MIGRATE_FAILPOINT=source:"+point, "MIGRATE_FAILPOINT_LOG="+pointLog,
			"migrate", "move", l.ref(), "B", "--json")
		logged := fmt.Sprintf("/proc/%d/root%s", h.a.InitPID(), pointLog)
		await(t, "the move is at "+point, func() bool { b, _ := os.ReadFile(logged); return len(b) > 0 })
		if point == "commit" {
			cancelTooLate(t, h, l, m)
			continue
		}
		pkill(h.a, "INT", "migrate move")
		pkill(h.a, "CONT", "migrate move")
		r, code := m.end(t)
		t.Logf("cancelled at %s: frozen for %v", point, r.FrozenTime)
		staysBehind(t, h, l, r, code, migrate.StatusCancelled)
	}
}

// cancelTooLate asks a move that stands just behind its commit point to cancel,
// in both ways.
func cancelTooLate(t *testing.T, h trio, l load, m *running) {
	t.Helper()
	id := records(h.a)
	cancel := begin(t, h.a, "migrate", "cancel", id[len(id)-1].ID)
	time.Sleep(200 * time.Millisecond) // for it to have asked
	pkill(h.a, "INT", "migrate move")
	pkill(h.a, "CONT", "migrate move")
	cancel.cmd.Wait()
	if said := cancel.stderr.String(); exitCode(cancel.cmd) != 4 || !strings.Contains(said, "commit point is passed") {
		t.Errorf("cancel behind the commit point: exit code %d, %s", exitCode(cancel.cmd), said)
	}
	if r, code := m.end(t); code != 0 || r.Status != migrate.StatusCompleted {
		t.Errorf("a move that was cancelled too late: exit code %d, %+v", code, r)
	}
	l.verify(t, h.b)
	h.b.Run(t, "migrate", "stop", fmt.Sprintf("process-%d", l.pid))
}

// testDrive moves workloads of A to B by commands on C.
func testDrive(t *testing.T, h trio) {
	l := startLoad(t, h.a, slow...)
	m := begin(t, h.c, "migrate", "move", "A/"+l.ref(), "B", "--json", "--bandwidth", slowBandwidth)
	awaitPhase(t, h.a, "pre-copy")
	pkill(h.c, "INT", "migrate move")
	r, code := m.end(t)
	staysBehind(t, h, l, r, code, migrate.StatusCancelled)
	if out := h.c.Run(t, "migrate", "check", "A/"+l.ref(), "B", "--json"); !strings.Contains(out, `"movable":true`) {
		t.Errorf("check from C: %s", out)
	}
	m = begin(t, h.c, "migrate", "move", "A/"+l.ref(), "B", "--json")
	m.cmd.Wait()
	said := m.stdout.String()
	r, code = result(t, nil, &m.stdout), exitCode(m.cmd)
	if code != 0 || r.Status != migrate.StatusCompleted || r.SourceHost != "A" || r.TargetHost != "B" {
		t.Fatalf("driven move: exit code %d, %+v, %s", code, r, &m.stderr)
	}
	for _, event := range []string{`"phase":"pre-copy"`, `"phase":"commit"`, `"type":"round"`} {
		if !strings.Contains(said, event) {
			t.Errorf("no event %s came to C", event)
		}
	}
	l.verify(t, h.b)
	h.b.Run(t, "migrate", "stop", fmt.Sprintf("process-%d", l.pid))

	startCapsule(t, h.a, "driven", "--memory", "4")
	if r, code, stderr := tryMove(t, h.c, "A/capsule:driven", "B"); code != 0 {
		t.Fatalf("driven move of a capsule: exit code %d, %+v\n%s", code, r, stderr)
	}
	l.verify(t, h.b)
	if r, code, _ := tryMove(t, h.c, "A/capsule:driven", "B"); code == 0 || code == 5 {
		t.Errorf("driven move of what is not there: exit code %d, %+v", code, r)
	}
	h.b.Run(t, "migrate", "stop", "--rm", "driven")
}

// testOperatorRight lets C send to A but not drive it.
func testOperatorRight(t *testing.T, h trio) {
	if err := h.a.KillAgent(); err != nil {
		t.Fatal(err)
	}
	pid, err := h.a.Start(t.Context(), "migrate", "agent", "--listen", ":7420", "--allow", "B", "--allow", "C", "--allow-operator", "B")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.a.Output(context.Background(), "kill", "-9", fmt.Sprint(pid))
		await(t, "the agent is gone", func() bool { return h.a.AgentPID() == 0 })
		if err := h.a.StartAgent(nil); err != nil {
			t.Fatal(err)
		}
	})
	l := startLoad(t, h.a, "--memory", "4")
	for _, command := range []string{"move", "check"} {
		var said string
		var code int
		await(t, "the agent answers", func() bool {
			m := begin(t, h.c, "migrate", command, "A/"+l.ref(), "B")
			m.cmd.Wait()
			said, code = m.stderr.String(), exitCode(m.cmd)
			return !strings.Contains(said, "no agent answers")
		})
		if code != 4 || !strings.Contains(said, "host C may not do that") {
			t.Errorf("%s without the right to: exit code %d, %s", command, code, said)
		}
	}
	l.verify(t, h.a)
	if r, code, stderr := tryMove(t, h.b, "A/"+l.ref(), "B"); code != 0 {
		t.Errorf("%s with the right to: exit code %d, %+v\n%s", "move", code, r, stderr)
	}
	l.verify(t, h.b)
	h.b.Run(t, "migrate", "stop", fmt.Sprintf("process-%d", l.pid))
}

// testAgentDies kills the agent behind workloads that have arrived.
func testAgentDies(t *testing.T, h trio) {
	l := startCapsule(t, h.a, "orphan", "--memory", "4", "--heartbeat", "10ms")
	move(t, h.a, "capsule:orphan", h.b)
	if err := h.b.KillAgent(); err != nil {
		t.Fatal(err)
	}
	l.verify(t, h.b)
	lines := func() int { return strings.Count(h.b.Run(t, "migrate", "logs", "orphan"), "heartbeat") }
	before := lines()
	await(t, "its log goes on", func() bool { return lines() > before+5 })
	if out := h.b.Run(t, "migrate", "ps"); !strings.Contains(out, "orphan") || !strings.Contains(out, "running") {
		t.Errorf("ps without an agent: %s", out)
	}
	h.b.Run(t, "migrate", "exec", "orphan", "--", "true")
	if err := h.b.StartAgent(nil); err != nil {
		t.Fatal(err)
	}
	l.verify(t, h.b)
	move(t, h.b, "capsule:orphan", h.a)
	l.verify(t, h.a)
	if err := h.a.KillAgent(); err != nil {
		t.Fatal(err)
	}
	h.a.Run(t, "migrate", "stop", "orphan")
	if out := h.a.Run(t, "migrate", "ps", "--all"); !strings.Contains(out, "exited") {
		t.Errorf("ps after stop: %s", out)
	}
	if err := h.a.StartAgent(nil); err != nil {
		t.Fatal(err)
	}
}

// testAgentStops asks the target's agent to end while it receives.
func testAgentStops(t *testing.T, h trio) {
	l := startLoad(t, h.a, slow...)
	m := begin(t, h.a, "migrate", "move", l.ref(), "B", "--json", "--bandwidth", slowBandwidth)
	awaitPhase(t, h.a, "pre-copy")
	sent := time.Now()
	pkill(h.b, "TERM", "migrate agent")
	r, code := m.end(t)
	if d := time.Since(sent); d > 2*time.Second {
		t.Errorf("the source noticed after %v", d)
	}
	if r.Error == nil || !strings.Contains(r.Error.What, "the agent of B is being stopped") {
		t.Errorf("the source says: %+v", r.Error)
	}
	await(t, "the agent is gone", func() bool { return h.b.AgentPID() == 0 })
	staysBehind(t, h, l, r, code, migrate.StatusFailed)
	if err := h.b.StartAgent(nil); err != nil {
		t.Fatal(err)
	}
	move(t, h.a, l.ref(), h.b)
	l.verify(t, h.b)
	h.b.Run(t, "migrate", "stop", fmt.Sprintf("process-%d", l.pid))
}
