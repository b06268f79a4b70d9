package vm

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"migrate"
)

// clocks are about wall clocks that are wrong: no time that counts may be taken
// from them. (Certificates are valid from ten minutes before they were made, so
// that no clock here goes back behind that.)
var clocks = []scenario{
	{name: "clocks hours apart", fits: once, run: (*stage).hoursApart},
	{name: "clock step in pre-copy", fits: once, run: func(s *stage) { s.clockStep("source:pre-copy") }},
	{name: "clock step while frozen", fits: once, run: func(s *stage) { s.clockStep("source:stop-and-copy") }},
}

// hoursApart moves a workload to a host whose clock is five hours ahead, and
// back.
func (s *stage) hoursApart() {
	ref := s.capsule(s.a, "--memory", "8", "--dirty", "50")
	before := s.verify(s.a)
	s.setClock(s.b, time.Now().Add(5*time.Hour))
	skew := s.clockOf(s.b) - s.clockOf(s.a)
	if skew < 4*time.Hour {
		s.Fatalf("B's clock is ahead by %v", skew)
	}
	r, after := s.move(s.a, ref, s.b, "--tracker", "hash")
	s.checkClocks(r, before, after, skew)
	s.plausible(r)
	r, back := s.move(s.b, ref, s.a, "--tracker", "hash")
	s.checkClocks(r, after, back, -skew)
	s.plausible(r)
}

// clockStep sets both hosts' clocks, one ahead and one back, as a time service
// does that finds them wrong, while a move is under way.
func (s *stage) clockStep(point string) {
	s.setClock(s.b, time.Now().Add(2*time.Hour))
	ref := s.capsule(s.a, "--memory", "8", "--dirty", "50")
	before := s.verify(s.a)
	var stepA time.Duration
	r, code := s.moveStopped(ref, point, func() {
		a := s.clockOf(s.a)
		s.setClock(s.a, time.Now().Add(time.Hour))
		s.setClock(s.b, time.Now())
		stepA = s.clockOf(s.a) - a
	}, "--tracker", "hash")
	if code != 0 || r.Status != migrate.StatusCompleted {
		s.Fatalf("status %d, report %+v", code, r)
	}
	if stepA < 50*time.Minute {
		s.Fatalf("A's clock was set by %v", stepA)
	}
	// before was read on A when its clock was right, and B's is right now.
	s.checkClocks(r, before, s.verify(s.b), 0)
	s.plausible(r)
}

// plausible demands times that no clock's step is in.
func (s *stage) plausible(r migrate.Report) {
	s.Helper()
	total, down, frozen := time.Duration(r.TotalTime), time.Duration(r.Downtime), time.Duration(r.FrozenTime)
	if total <= 0 || total > 20*time.Minute || down <= 0 || down > total || frozen <= 0 || frozen > total {
		s.Errorf("total time %v, downtime %v, frozen time %v", total, down, frozen)
	}
}

func (s *stage) setClock(m *Machine, to time.Time) {
	s.Helper()
	s.sh(m, fmt.Sprintf("date -s @%d.%09d", to.Unix(), to.Nanosecond()))
}

// clockOf tells by how much a machine's clock is ahead of this one's.
func (s *stage) clockOf(m *Machine) time.Duration {
	s.Helper()
	start := time.Now()
	out := s.sh(m, "date +%s%N")
	ns, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		s.Fatal(err)
	}
	return time.Unix(0, ns).Sub(start)
}
