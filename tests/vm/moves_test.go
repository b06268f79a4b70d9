package vm

import (
	"time"

	"migrate"
	"migrate/internal/testload"
)

// moves are the plain stories, in which memory is copied in a way that every
// kernel can.
var moves = []scenario{
	{name: "capsule three hops", always: true, run: func(s *stage) {
		s.threeHops(s.capsule(s.a, "--memory", "16", "--dirty", "100"), "--tracker", "hash")
	}},
	{name: "process three hops", always: true, run: func(s *stage) {
		s.threeHops(s.process(s.a, "--memory", "16", "--dirty", "100"), "--tracker", "hash")
	}},
}

// threeHops moves a workload there, back and there again, between hosts that
// have been up for different times.
func (s *stage) threeHops(ref string, flags ...string) {
	s.Helper()
	before := s.verify(s.a)
	for i, hop := range [][2]*Machine{{s.a, s.b}, {s.b, s.a}, {s.a, s.b}} {
		r, after := s.move(hop[0], ref, hop[1], flags...)
		if after.PID != before.PID || after.SID != before.SID {
			s.Errorf("hop %d: pid and sid are %d and %d, were %d and %d", i+1, after.PID, after.SID, before.PID, before.SID)
		}
		s.checkClocks(r, before, after)
		s.nothingOf(hop[0])
		before = after
	}
}

// checkClocks demands that the monotonic clock went on by about as much as the
// wall clocks of the machines, which QEMU sets alike to within a second or two.
func (s *stage) checkClocks(r migrate.Report, before, after testload.Status) {
	s.Helper()
	gained, wall := time.Duration(after.Mono-before.Mono), time.Duration(after.Realtime-before.Realtime)
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
