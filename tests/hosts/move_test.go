package hosts

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"migrate"
	"migrate/internal/testhost"
)

// TestProcessThreeHops moves a plain process there, back and there again: same
// PID, clocks that never step back, every check of the workload good, and in
// the end its exit status known to the last host.
func TestProcessThreeHops(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	l := startLoad(t, a, "--memory", "32", "--dirty", "2000", "--children", "2", "--threads", "3")
	before := l.verify(t, a)
	hosts := []*testhost.Host{a, b, a, b}
	for i := range 3 {
		from, to := hosts[i], hosts[i+1]
		r := move(t, from, l.ref(), to)
		after := l.verify(t, to)
		if after.PID != before.PID || after.SID != before.SID || after.PGID != before.PGID {
			t.Errorf("hop %d: pid, sid, pgid = %d, %d, %d, want %d, %d, %d", i+1, after.PID, after.SID, after.PGID, before.PID, before.SID, before.PGID)
		}
		checkClocks(t, i+1, r, before.Mono, after.Mono, after.Realtime-before.Realtime)
		before = after
		nothingLeft(t, from)
	}
	if _, err := l.ask(t.Context(), b, "exit 7"); err != nil {
		t.Logf("exit: %v", err)
	}
	await(t, "migrate ps tells the exit status", func() bool {
		out := b.Run(t, "migrate", "ps", "--all")
		return strings.Contains(out, "exited (7)")
	})
}

// lateness is what the clocks may lose: what passes between the writing of their image
// and CRIU's reading it, some milliseconds, or more where other tests run.
const lateness = 250 * time.Millisecond

// checkClocks demands that the monotonic clock advanced by as much as the wall
// clock, which the machine's hosts share.
func checkClocks(t *testing.T, hop int, r migrate.Report, before, after, wall int64) {
	t.Helper()
	gained := after - before
	if gained < 0 {
		t.Errorf("hop %d: CLOCK_MONOTONIC went back by %v", hop, time.Duration(-gained))
	}
	if d := time.Duration(wall - gained); d > lateness || d < -time.Millisecond {
		t.Errorf("hop %d: CLOCK_MONOTONIC gained %v while %v passed", hop, time.Duration(gained), time.Duration(wall))
	}
	if !r.Clock.Namespace || r.Clock.Policy != migrate.ClockContinue || r.Clock.Bound <= 0 {
		t.Errorf("hop %d: report says of the clock %+v", hop, r.Clock)
	}
}

// TestCapsuleThereAndBack moves a capsule, whose process numbers are its own.
func TestCapsuleThereAndBack(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	l := startCapsule(t, a, "web", "--memory", "16", "--children", "1")
	before := l.verify(t, a)
	for _, hop := range [][2]*testhost.Host{{a, b}, {b, a}} {
		move(t, hop[0], "capsule:web", hop[1])
		after := l.verify(t, hop[1])
		if after.PID != before.PID || after.Mono < before.Mono {
			t.Errorf("after the hop to %s: pid %d and clock %d, before: %d and %d", hop[1].Name, after.PID, after.Mono, before.PID, before.Mono)
		}
		before = after
		await(t, "the other host knows where it went", func() bool {
			return strings.Contains(hop[0].Run(t, "migrate", "ps", "--all"), "moved to "+hop[1].Name)
		})
	}
	a.Run(t, "migrate", "stop", "--rm", "web")
	nothingLeft(t, a)
	nothingLeft(t, b)
}

func startCapsule(t *testing.T, h *testhost.Host, name string, args ...string) load {
	t.Helper()
	l := load{port: 7001}
	h.Run(t, append([]string{"migrate", "run", "--name", name, "--", "testload", "--listen", fmt.Sprintf("0.0.0.0:%d", l.port), "--dir", t.TempDir()}, args...)...)
	l.awaitReady(t, h)
	return l
}

// TestPausedClock keeps CRIU's own behaviour on request: the clock hides the
// outage.
func TestPausedClock(t *testing.T) {
	a, b := pair(t)
	l := startLoad(t, a, "--memory", "8")
	before := l.verify(t, a)
	r := move(t, a, l.ref(), b, "--clock", "pause")
	after := l.verify(t, b)
	hidden := time.Duration((after.Realtime - before.Realtime) - (after.Mono - before.Mono))
	if after.Mono < before.Mono || hidden <= time.Millisecond || hidden > time.Duration(r.Clock.Outage) {
		t.Errorf("the clock hid %v of an outage of %v", hidden, r.Clock.Outage)
	}
}

// TestDowntimeIsWhatTheWorkloadSaw compares the report with the workload's own
// largest gap.
func TestDowntimeIsWhatTheWorkloadSaw(t *testing.T) {
	a, b := pair(t)
	l := startLoad(t, a, "--memory", "64", "--tick", "1ms")
	if _, err := l.ask(t.Context(), a, "reset-gap"); err != nil {
		t.Fatal(err)
	}
	r := move(t, a, l.ref(), b)
	seen := l.verify(t, b).Gap
	said := float64(r.Downtime) / 1e6
	if seen < said-5 || seen > said+60 {
		t.Errorf("the report says a downtime of %.1f ms, the workload saw %.1f ms", said, seen)
	}
	if len(r.Rounds) < 2 || !r.Rounds[len(r.Rounds)-1].Final || r.MemoryBytes < 64<<20 || r.Transferred == 0 {
		t.Errorf("report: %+v", r)
	}
}
