package containers

import (
	"strings"
	"testing"
	"time"

	"migrate"
	"migrate/internal/testhost"
)

// TestHops moves a container there, back and there again, with a process
// exec'd in between, by each runtime.
func TestHops(t *testing.T) {
	t.Parallel()
	a, b := pair(t, nil)
	for _, runtime := range []string{"runc", "crun"} {
		t.Run(runtime, func(t *testing.T) { testHops(t, runtime, a, b) })
	}
}

func testHops(t *testing.T, runtime string, a, b *testhost.Host) {
	c := load(t, a, runtime, "web-"+runtime, nil, "--memory", "48", "--children", "2", "--dirty", "500")
	before := c.verify(t, a)
	hosts := []*testhost.Host{a, b, a, b}
	for i := range 3 {
		from, to := hosts[i], hosts[i+1]
		r := c.move(t, from, to)
		if r.Restore != migrate.RestoreLazy || r.Tracker != migrate.TrackerUffdWP && r.Tracker != migrate.TrackerSoftDirty {
			t.Errorf("hop %d: restore %s, tracker %s", i+1, r.Restore, r.Tracker)
		}
		after := c.verify(t, to)
		wall, gained := after.Realtime-before.Realtime, after.Mono-before.Mono
		if d := time.Duration(wall - gained); after.PID != before.PID || gained < 0 || d > 250*time.Millisecond || d < -time.Millisecond {
			t.Errorf("hop %d: pid %d, was %d; the clock gained %v while %v passed", i+1, after.PID, before.PID, time.Duration(gained), time.Duration(wall))
		}
		before = after
		// What is exec'd is in the container's time namespace, and so does not keep
		// the next move from it. The first line of offsets is the clock's.
		_, pid := c.state(to)
		if got, want := offsets(c.exec(t, to, "cat", "/proc/self/timens_offsets")), offsets(to.Run(t, "cat", procFile(pid, "timens_offsets"))); got != want || want == "0 0" {
			t.Errorf("hop %d: exec'd with clock offsets %s, the container has %s", i+1, got, want)
		}
	}
	testExecStays(t, c, b, a)
	testOwned(t, c, b)
}

func procFile(pid int, name string) string { return "/proc/" + itoa(pid) + "/" + name }

// offsets is the monotonic clock's line of timens_offsets, without its name.
func offsets(text string) string {
	f := strings.Fields(text)
	if len(f) < 3 {
		return text
	}
	return f[1] + " " + f[2]
}

// testExecStays demands that a process that was exec'd and runs is named: its
// parent is outside, and so it would be left behind.
func testExecStays(t *testing.T, c container, from, to *testhost.Host) {
	from.Run(t, c.runtime, "exec", "--detach", c.id, "sleep", "600")
	r, _, err := c.tryMove(from, to)
	if err == nil || len(r.Blockers) != 1 || r.Blockers[0].Code != "joined" || !strings.Contains(r.Blockers[0].What, "sleep") {
		t.Errorf("with a process exec'd: %v, %+v", err, r.Blockers)
	}
	c.verify(t, from)
}

// testOwned uses a container that arrived as its runtime's own, up to its end.
func testOwned(t *testing.T, c container, h *testhost.Host) {
	if out := h.Run(t, c.runtime, "list", "-q"); strings.TrimSpace(out) != c.id {
		t.Errorf("%s list: %q", c.runtime, out)
	}
	if c.runtime == "runc" {
		if out := h.Run(t, "runc", "events", "--stats", c.id); !strings.Contains(out, `"pids"`) {
			t.Errorf("runc events: %s", out)
		}
	}
	if out := h.Run(t, "migrate", "ps"); !strings.Contains(out, c.runtime+"-"+c.id) || !strings.Contains(out, "running") {
		t.Errorf("migrate ps: %s", out)
	}
	h.Run(t, c.runtime, "kill", c.id, "KILL")
	await(t, "the runtime sees the end", func() bool { s, _ := c.state(h); return s == "stopped" })
	await(t, "migrate ps tells the exit status", func() bool {
		return strings.Contains(h.Run(t, "migrate", "ps", "--all"), "exited (signal 9)")
	})
	h.Run(t, c.runtime, "delete", c.id)
	c.gone(t, h)
}
