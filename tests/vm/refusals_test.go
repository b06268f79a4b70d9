package vm

import (
	"encoding/json"
	"slices"
	"strings"

	"migrate"
)

// refusals are moves that preflight finds impossible.
var refusals = []scenario{
	{name: "target without memory", fits: once, run: (*stage).noMemory},
	// A model of 2008, without AVX and much else that others have.
	{name: "target with a lesser CPU", fits: once, machines: machines{cpuB: "Nehalem,-cx16"}, run: (*stage).lesserCPU},
}

// noMemory fills the target's memory: the move is refused until it is free.
func (s *stage) noMemory() {
	ref := s.capsule(s.a, "--memory", "16", "--dirty", "50", "--fill", "text")
	s.sh(s.b, `free=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo)
		mount -o remount,size=100% /dev/shm
		head -c $((free - 100 * 1024))K /dev/zero >/dev/shm/full`)
	f := s.refused(ref, "memory")
	if !strings.Contains(f.What, "MiB of memory free") || !strings.HasPrefix(f.What, "B ") {
		s.Errorf("the finding says %q", f.What)
	}
	s.sh(s.b, "rm /dev/shm/full")
	s.move(s.a, ref, s.b)
}

// lesserCPU demands that the features are named that the target lacks, and that
// a workload may come from there.
func (s *stage) lesserCPU() {
	ref := s.capsule(s.a, "--memory", "8")
	f := s.refused(ref, "cpu")
	has, lacks := s.cpuFlags(s.a), s.cpuFlags(s.b)
	if !slices.Contains(has, "avx") || slices.Contains(lacks, "avx") {
		s.Fatalf("A's CPU has %q, B's %q", has, lacks)
	}
	names := strings.FieldsFunc(f.What[strings.LastIndex(f.What, ":")+1:], func(r rune) bool { return r == ' ' || r == ',' })
	if !slices.Contains(names, "avx") {
		s.Errorf("AVX is not named in %q", f.What)
	}
	for _, n := range names {
		if slices.Contains(lacks, n) {
			s.Errorf("B has %s; the finding says %q", n, f.What)
		}
	}
	s.sh(s.a, "migrate stop --rm --timeout 0 load")
	s.move(s.b, s.capsule(s.b, "--memory", "8"), s.a)
}

func (s *stage) cpuFlags(m *Machine) []string {
	_, flags, _ := strings.Cut(s.sh(m, "grep -m 1 ^flags /proc/cpuinfo"), ":")
	return strings.Fields(flags)
}

// refused demands that check and move both refuse to move a workload from A to
// B for one reason, that A's runs on, and that nothing is left on B.
func (s *stage) refused(ref, code string) migrate.Finding {
	s.Helper()
	r, status, stderr := s.tryMove(s.a, ref, s.b)
	if status != 3 || r.Status != migrate.StatusBlocked || r.Owner != migrate.OwnerSource || len(r.Blockers) != 1 || r.Blockers[0].Code != code {
		s.Fatalf("migrate move: status %d, %+v\n%s", status, r, stderr)
	}
	stdout, stderr, status, err := s.a.Try(s.Context(), "migrate", "check", ref, s.b.Name, "--json")
	var c struct{ Blockers []migrate.Finding }
	if err != nil || status != 3 || json.Unmarshal([]byte(stdout), &c) != nil || len(c.Blockers) != 1 || c.Blockers[0].Code != code {
		s.Fatalf("migrate check: status %d, %v, %s\n%s", status, err, stdout, stderr)
	}
	s.Logf("blocked: %s", r.Blockers[0])
	s.verify(s.a)
	s.nothingOf(s.b)
	return r.Blockers[0]
}
