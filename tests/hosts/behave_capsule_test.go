package hosts

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"migrate"
	"migrate/internal/testhost"
)

// testExit has migrate ps tell how workloads ended that had arrived.
func testExit(t *testing.T, h trio) {
	for _, c := range []struct{ end, want string }{
		{"kill -HUP %d", "exited (signal 1)"},
		{"migrate stop process-%d", "exited (signal 15)"},
		{"migrate stop --timeout 0s process-%d", "exited (signal"},
		{"kill -USR1 %d", "exited (42)"},
	} {
		pid, err := h.a.Start(t.Context(), "sh", "-c", "trap 'exit 42' USR1; while :; do sleep 0.02; done")
		if err != nil {
			t.Fatal(err)
		}
		move(t, h.a, fmt.Sprintf("process:%d", pid), h.b)
		h.b.Run(t, "sh", "-c", fmt.Sprintf(c.end, pid))
		await(t, c.want, func() bool {
			for line := range strings.Lines(h.b.Run(t, "migrate", "ps", "--all")) {
				if strings.HasPrefix(line, fmt.Sprintf("process-%d ", pid)) && strings.Contains(line, c.want) {
					return true
				}
			}
			return false
		})
	}
}

// execClocks runs the helper "clocks" inside a workload.
func execClocks(t *testing.T, h *testhost.Host, name string) (s clocksSeen) {
	t.Helper()
	out := h.Run(t, append([]string{"migrate", "exec", name, "--"}, helper("clocks")...)...)
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// checkExec compares a command that migrate exec runs with the workload.
func checkExec(t *testing.T, h *testhost.Host, l load, name string) {
	t.Helper()
	before := execClocks(t, h, name)
	status := l.verify(t, h)
	after := execClocks(t, h, name)
	if status.Mono < before.Mono || status.Mono > after.Mono {
		t.Errorf("%s: the workload's clock shows %d, exec's %d before and %d after", h.Name, status.Mono, before.Mono, after.Mono)
	}
	root := strings.TrimSpace(h.Run(t, "sh", "-c", `migrate ps | awk '$1 == "`+name+`" {print $NF, $0}' >/dev/null; migrate ps --json | sed -n 's/.*"name":"`+name+`".*"pid":\([0-9]*\).*/\1/p'`))
	for kind, ns := range before.NS {
		if got := h.Run(t, "readlink", "/proc/"+root+"/ns/"+kind); got != ns {
			t.Errorf("%s: exec is in %s, the workload in %s", h.Name, ns, got)
		}
	}
	if got := h.Run(t, "cat", "/proc/"+root+"/timens_offsets"); strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(before.Offsets), " ") {
		t.Errorf("%s: exec sees the clock offsets %q, the workload %q", h.Name, before.Offsets, got)
	}
}

// testExec leaves a daemon behind in a capsule that has moved, and moves it on.
func testExec(t *testing.T, h trio) {
	l := startCapsule(t, h.a, "web", "--memory", "8")
	checkExec(t, h.a, l, "web")
	move(t, h.a, "capsule:web", h.b)
	checkExec(t, h.b, l, "web")
	h.b.Run(t, "migrate", "exec", "web", "--", "sh", "-c", "setsid sleep 1234 >/dev/null 2>&1 </dev/null &")
	for _, hop := range [][2]*testhost.Host{{h.b, h.c}, {h.c, h.a}} {
		move(t, hop[0], "capsule:web", hop[1])
		checkExec(t, hop[1], l, "web")
		hop[1].Run(t, "pgrep", "-f", "^sleep 1234$")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	running := h.a.Command(ctx, "migrate", "exec", "web", "--", "sleep", "1234.5")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "exec runs", func() bool { _, err := h.a.Output(ctx, "pgrep", "-f", "^sleep 1234.5"); return err == nil })
	r, code, _ := tryMove(t, h.a, "capsule:web", "B")
	if code != 3 || r.Status != migrate.StatusBlocked || !hasBlocker(r, "joined") {
		t.Errorf("a move while exec runs: exit code %d, %+v", code, r)
	}
	pkill(h.a, "TERM", "^sleep 1234.5")
	if running.Wait(); exitCode(running) != 128+15 {
		t.Errorf("exec of a command that signal 15 ended: exit code %d", exitCode(running))
	}
	move(t, h.a, "capsule:web", h.b)
	l.verify(t, h.b)
	h.b.Run(t, "migrate", "stop", "--rm", "web")
}

func hasBlocker(r migrate.Report, code string) bool {
	return slices.ContainsFunc(r.Blockers, func(f migrate.Finding) bool { return f.Code == code })
}

// testAround moves a capsule over three hosts, back to where it began.
func testAround(t *testing.T, h trio) {
	l := startCapsule(t, h.a, "around", "--memory", "8", "--dirty", "500")
	before := l.verify(t, h.a)
	for _, hop := range [][2]*testhost.Host{{h.a, h.b}, {h.b, h.c}, {h.c, h.a}} {
		r := move(t, hop[0], "capsule:around", hop[1])
		after := l.verify(t, hop[1])
		checkClocks(t, 0, r, before.Mono, after.Mono, after.Realtime-before.Realtime)
		checkExec(t, hop[1], l, "around")
		before = after
	}
	h.a.Run(t, "migrate", "stop", "--rm", "around")
}

// testCapsules moves capsules that were started with each of the flags of run,
// there and back.
func testCapsules(t *testing.T, h trio) {
	for _, flag := range []string{"--net", "--time", "--no-init", "--tty"} {
		name := "kind" + strings.ReplaceAll(flag, "-", "")
		l := load{port: 7001}
		h.a.Run(t, "migrate", "run", "--name", name, flag, "--", "testload", "--listen", "0.0.0.0:7001", "--dir", t.TempDir(), "--memory", "4", "--heartbeat", "5ms")
		check := func(host *testhost.Host) {
			t.Helper()
			ask := []string{"testload", "query", l.address(), "verify"}
			if flag == "--net" { // only from inside; its loopback interface may be down
				ask = append([]string{"migrate", "exec", name, "--", "sh", "-c", "ip link set lo up; exec \"$@\"", "sh"}, ask...)
			}
			await(t, name+" answers on "+host.Name, func() bool {
				out, err := host.Output(t.Context(), ask...)
				return err == nil && strings.Contains(out, `"ok":true`)
			})
		}
		check(h.a)
		for _, hop := range [][2]*testhost.Host{{h.a, h.b}, {h.b, h.a}} {
			move(t, hop[0], "capsule:"+name, hop[1])
			check(hop[1])
		}
		if flag == "--tty" {
			if out := typed(t, h.a, name, "x"); !strings.Contains(out, "heartbeat") {
				t.Errorf("attach shows %q", out)
			}
		}
		h.a.Run(t, "migrate", "stop", "--rm", name)
	}
}

// testCgroupModes moves with each of CRIU's modes. With the default the tree
// stays in the group that its supervisor chose.
func testCgroupModes(t *testing.T, h trio) {
	from, to := h.a, h.b
	l := startCapsule(t, from, "modes", "--memory", "4")
	for _, mode := range append([]migrate.CgroupMode{""}, migrate.CgroupModes...) {
		var flags []string
		if mode != "" {
			flags = []string{"--manage-cgroups-mode", string(mode)}
		}
		r, code, stderr := tryMove(t, from, "capsule:modes", to.Name, flags...)
		if mode == "strict" { // does not allow a group that is there already, as that of the supervisor
			if code != 4 || r.Error == nil || !strings.Contains(r.Error.Cause, "strict") {
				t.Errorf("mode %q: exit code %d, %+v\n%s", mode, code, r.Error, stderr)
			}
			l.verify(t, from)
			continue
		}
		if code != 0 {
			t.Fatalf("mode %q: exit code %d, %+v\n%s", mode, code, r.Error, stderr)
		}
		l.verify(t, to)
		if mode == "" || mode == "ignore" {
			out := to.Run(t, "migrate", "exec", "modes", "--", "cat", "/proc/self/cgroup")
			if !strings.Contains(out+"\n", ":/migrate/modes\n") {
				t.Errorf("mode %q: the workload is in %q", mode, out)
			}
		}
		from, to = to, from
	}
	from.Run(t, "migrate", "stop", "--rm", "modes")
}

// testProcessCgroupModes does the same with a plain process, whose group is one
// made for the move.
func testProcessCgroupModes(t *testing.T, h trio) {
	for i, mode := range migrate.CgroupModes {
		h.spreadPIDs(t, 17+i)
		l := startLoad(t, h.a, "--memory", "4")
		for _, hop := range [][2]*testhost.Host{{h.a, h.b}, {h.b, h.a}} {
			r, code, stderr := tryMove(t, hop[0], l.ref(), hop[1].Name, "--manage-cgroups-mode", string(mode))
			if mode == "strict" && code == 4 {
				l.verify(t, hop[0])
				break
			}
			if code != 0 {
				t.Fatalf("mode %q: exit code %d, %+v\n%s", mode, code, r.Error, stderr)
			}
			l.verify(t, hop[1])
			t.Logf("%s: on %s in %s", mode, hop[1].Name, hop[1].Run(t, "sh", "-c", fmt.Sprintf("grep -h migrate /proc/%d/cgroup || true", l.pid)))
		}
		stopLoad(h.a, l)
		stopLoad(h.b, l)
		for _, host := range []*testhost.Host{h.a, h.b} {
			await(t, "nothing is left on "+host.Name, func() bool { return leftOn(host) == "" })
		}
	}
}

// testCheck looks at what is told before and after a move.
func testCheck(t *testing.T, h trio) {
	l := startLoad(t, h.a, "--memory", "4")
	if out := h.a.Run(t, "migrate", "check", l.ref(), "B"); out == "" {
		t.Error("check says nothing")
	}
	if out := h.a.Run(t, "migrate", "check", l.ref(), "B", "--json"); !strings.Contains(out, `"movable":true`) || !strings.Contains(out, `"blockers":[]`) {
		t.Errorf("check --json = %s", out)
	}
	l.verify(t, h.a)
	r := move(t, h.a, l.ref(), h.b)
	for _, host := range []*testhost.Host{h.a, h.b} {
		id := string(r.ID)
		if out := host.Run(t, "migrate", "history"); !strings.Contains(out, id) || !strings.Contains(out, "completed") {
			t.Errorf("history on %s: %s", host.Name, out)
		}
		if out := host.Run(t, "migrate", "history", "--json"); !strings.Contains(out, id) {
			t.Errorf("history --json on %s: %s", host.Name, out)
		}
		if out := host.Run(t, "migrate", "report", id); !strings.Contains(out, "completed") || !strings.Contains(out, l.ref()) {
			t.Errorf("report on %s: %s", host.Name, out)
		}
		var told migrate.Report
		out := host.Run(t, "migrate", "report", id, "--json")
		if err := json.Unmarshal([]byte(out), &told); err != nil || told.ID != r.ID || told.Status != migrate.StatusCompleted || told.Owner != migrate.OwnerTarget {
			t.Errorf("report --json on %s: %s, %v", host.Name, out, err)
		}
		if host == h.a && (told.Downtime != r.Downtime || len(told.Phases) == 0 || len(told.Rounds) == 0) {
			t.Errorf("report --json on A: %s", out)
		}
		t.Logf("recover on %s: %q", host.Name, host.Run(t, "migrate", "recover"))
		if out := host.Run(t, "migrate", "recover", id); !strings.Contains(out, "nothing to do") {
			t.Errorf("recover of a move that is over on %s: %q", host.Name, out)
		}
	}
	h.b.Run(t, "migrate", "stop", fmt.Sprintf("process-%d", l.pid))
}

// begin starts a move and does not wait for it.
func begin(t *testing.T, h *testhost.Host, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	m := &running{cmd: h.Command(ctx, args[0], args[1:]...)}
	m.cmd.Stdout, m.cmd.Stderr = &m.stdout, &m.stderr
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return m
}

type running struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
}

func (m *running) end(t *testing.T) (migrate.Report, int) {
	t.Helper()
	return result(t, m.cmd.Wait(), &m.stdout), exitCode(m.cmd)
}
