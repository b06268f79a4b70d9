package vm

import (
	"slices"
	"strings"
	"time"

	"migrate"
	"migrate/internal/testload"
)

// months is how long a host has been up for, of two of which the other one has
// just been started.
const months = 200 * 24 * time.Hour

// moves are the plain stories.
var moves = []scenario{
	{name: "capsule hops", always: true, run: (*stage).capsuleHops},
	{name: "process hops", always: true, run: func(s *stage) {
		s.hops(s.process(s.a, small()...), migrate.TrackerHash)
	}},
	{name: "capsule hops, restored lazily", run: func(s *stage) {
		s.hops(s.capsule(s.a, "--memory", "48", "--dirty", "100", "--hot", "0.25"), migrate.TrackerAuto)
	}},
	{name: "capsule hops, A up for months", fits: once, machines: machines{uptimeA: months}, run: (*stage).capsuleHops},
}

// small is a workload that has all that one may have, but not much of it.
func small() []string {
	if quick() {
		return []string{"--memory", "2", "--dirty", "20"}
	}
	return []string{"--memory", "8", "--dirty", "100"}
}

// capsuleHops leaves it to migrate how to track memory: all these kernels have
// soft-dirty. So little memory is restored eagerly.
func (s *stage) capsuleHops() {
	s.hops(s.capsule(s.a, small()...), migrate.TrackerAuto)
}

// hops moves a workload there, back and there again, between hosts that have
// been up for different times. When it has to be quick, a capsule moves there
// and back, and a process there.
func (s *stage) hops(ref string, tracker migrate.Tracker) {
	s.Helper()
	want := tracker
	if tracker == migrate.TrackerAuto {
		want = migrate.TrackerSoftDirty
	}
	s.Logf("up for: A %s, B %s", s.uptime(s.a), s.uptime(s.b))
	before := s.verify(s.a)
	hops := [][2]*Machine{{s.a, s.b}, {s.b, s.a}, {s.a, s.b}}
	switch {
	case quick() && strings.HasPrefix(ref, "process:"):
		hops = hops[:1]
	case quick():
		hops = hops[:2]
	}
	for i, hop := range hops {
		r, after := s.move(hop[0], ref, hop[1], "--tracker", string(tracker))
		if r.Tracker != want {
			s.Errorf("hop %d: tracker %s (%s), want %s", i+1, r.Tracker, r.TrackerWhy, want)
		}
		if after.PID != before.PID || after.SID != before.SID {
			s.Errorf("hop %d: pid and sid are %d and %d, were %d and %d", i+1, after.PID, after.SID, before.PID, before.SID)
		}
		s.checkClocks(r, before, after, 0)
		s.checkWarnings(r, hop[0].Kernel, hop[1].Kernel)
		s.nothingOf(hop[0])
		before = after
	}
}

func (s *stage) uptime(m *Machine) string {
	return strings.Fields(s.sh(m, "cat /proc/uptime"))[0] + " s"
}

// checkWarnings demands a warning of an older kernel where there is one, and
// no other.
func (s *stage) checkWarnings(r migrate.Report, from, to Kernel) {
	s.Helper()
	var codes []string
	for _, w := range r.Warnings {
		codes = append(codes, w.Code)
	}
	order := []string{"6.1", "6.12", "7.2"}
	var want []string
	if slices.Index(order, to.Label()) < slices.Index(order, from.Label()) {
		want = []string{"kernel-older"}
	}
	if !slices.Equal(codes, want) {
		s.Errorf("warnings %+v, want %q", r.Warnings, want)
	}
}

// checkClocks demands that the monotonic clock went on by about as much as the
// wall clocks of the machines, of which the target's is ahead by skew. Without
// one QEMU sets them alike to within a second or two.
func (s *stage) checkClocks(r migrate.Report, before, after testload.Status, skew time.Duration) {
	s.Helper()
	gained, wall := time.Duration(after.Mono-before.Mono), time.Duration(after.Realtime-before.Realtime)-skew
	if gained < 0 {
		s.Errorf("CLOCK_MONOTONIC went back by %v", -gained)
	}
	if d := (wall - gained).Abs(); d > 3*time.Second {
		s.Errorf("CLOCK_MONOTONIC gained %v while %v passed", gained, wall)
	}
	if !r.Clock.Namespace || r.Clock.Policy != migrate.ClockContinue {
		s.Errorf("the report says of the clock %+v", r.Clock)
	}
}
