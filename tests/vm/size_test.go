package vm

import (
	"flag"
	"fmt"
	"slices"
	"time"

	"migrate"
)

var withLarge = flag.Bool("large", false, "also run the scenarios that need 20 GiB of memory on this machine")

// sizes are about idle workloads, of which one is larger than the other.
var sizes = []scenario{
	{name: "downtime 64 to 512 MiB", memory: 2048, run: func(s *stage) { s.grows("never", 64, 512) }},
	{name: "downtime 64 to 512 MiB huge pages", memory: 2048, run: func(s *stage) { s.grows("always", 64, 512) }},
	{name: "downtime 1 to 4 GiB", memory: 11500, large: true, run: func(s *stage) { s.grows("never", 1024, 4096) }},
	{name: "downtime 1 to 4 GiB huge pages", memory: 11500, large: true, run: func(s *stage) { s.grows("always", 1024, 4096) }},
}

// grows moves idle workloads of two sizes in turn, and demands that the larger
// one is down for at most half as long again: what the final dump does for a
// page that has not changed must be next to nothing.
func (s *stage) grows(hugePages string, small, large int) {
	s.Helper()
	for _, m := range []*Machine{s.a, s.b} {
		s.sh(m, "echo "+hugePages+" >/sys/kernel/mm/transparent_hugepage/enabled")
	}
	s.idle(small) // the first move after a boot reads programs from disk
	var down [2][]time.Duration
	for range 3 {
		for i, mib := range []int{small, large} {
			down[i] = append(down[i], s.idle(mib))
		}
	}
	for i := range down {
		slices.Sort(down[i])
	}
	s.Logf("down %v with %d MiB, %v with %d MiB", down[0], small, down[1], large)
	if a, b := down[0][1], down[1][1]; 2*b > 3*a {
		s.Errorf("median downtime of %d MiB is %v, of %d MiB %v: more than 1.5 times as long", small, a, large, b)
	}
}

// idle moves an idle workload and removes it; it returns the downtime. Every
// page has the same content, so that the first round takes a tenth of the time
// and the source still looks at each page, and the target still stores it.
func (s *stage) idle(mib int) time.Duration {
	s.Helper()
	const program = `BEGIN {
		s = "abcdefghijklmnop"; while (length(s) < 2^25) s = s s
		for (i = 0; i < %d; i++) a[i] = s s
		system("touch /tmp/filled; exec sleep 100000")
	}`
	s.sh(s.a, "rm -f /tmp/filled; migrate run --name idle -- mawk '"+fmt.Sprintf(program, mib/64)+"'")
	s.eventually("the memory is filled", func() bool {
		_, err := s.a.Output(s.Context(), "test", "-e", "/tmp/filled")
		return err == nil
	})
	r, code, stderr := s.tryMove(s.a, "capsule:idle", s.b, "--tracker", string(migrate.TrackerSoftDirty))
	if code != 0 || r.Status != migrate.StatusCompleted || r.Tracker != migrate.TrackerSoftDirty {
		s.Fatalf("status %d, %+v\n%s", code, r, stderr)
	}
	if least := uint64(mib) << 20; r.MemoryBytes < least {
		s.Fatalf("%d bytes of memory, want %d", r.MemoryBytes, least)
	}
	for _, p := range r.Phases {
		s.Logf("%d MiB: %s took %v", mib, p.Name, time.Duration(p.Duration))
	}
	s.sh(s.b, "migrate stop --rm --timeout 0 idle")
	s.nothingOf(s.a)
	s.nothingOf(s.b)
	return time.Duration(r.Downtime)
}
