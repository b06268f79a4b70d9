package vm

import (
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"

	"migrate"
)

var withLarge = flag.Bool("large", false, "also run the scenarios that need 20 GiB of memory on this machine")

// sizes are about idle workloads, of which one is larger than the other.
var sizes = []scenario{
	{name: "downtime 64 to 512 MiB", fits: once, machines: machines{memory: 2048}, measures: true, run: func(s *stage) { s.grows("never", 64, 512) }},
	{name: "downtime 64 to 512 MiB huge pages", fits: once, machines: machines{memory: 2048}, measures: true, run: func(s *stage) { s.grows("always", 64, 512) }},
	{name: "downtime 1 to 4 GiB", fits: once, machines: machines{memory: 11500}, measures: true, large: true, run: func(s *stage) { s.grows("never", 1024, 4096) }},
	{name: "downtime 1 to 4 GiB huge pages", fits: once, machines: machines{memory: 11500}, measures: true, large: true, run: func(s *stage) { s.grows("always", 1024, 4096) }},
}

// grows moves idle workloads of two sizes in turn. It demands that the larger
// one is down for at most half as long again, as what the final dump does for a
// page that has not changed must be next to nothing; and that its frozen time is
// longer by no more than what the kernel needs to walk the larger page tables,
// half a frozen time left to the noise of emulated machines.
func (s *stage) grows(hugePages string, small, large int) {
	s.Helper()
	for _, m := range []*Machine{s.a, s.b} {
		s.sh(m, "echo "+hugePages+" >/sys/kernel/mm/transparent_hugepage/enabled")
	}
	s.idle(small)                       // the first move after a boot reads programs from disk
	var down, frozen, walk [2][]float64 // ms
	for range 3 {
		for i, mib := range []int{small, large} {
			r, w := s.idle(mib)
			down[i] = append(down[i], float64(r.Downtime)/1e6)
			frozen[i] = append(frozen[i], float64(r.FrozenTime)/1e6)
			walk[i] = append(walk[i], float64(w)/1e6)
		}
	}
	s.Logf("%d MiB: down %.0f, frozen %.0f ms, a walk %.0f ms", small, down[0], frozen[0], walk[0])
	s.Logf("%d MiB: down %.0f, frozen %.0f ms, a walk %.0f ms", large, down[1], frozen[1], walk[1])
	if a, b := median(down[0]), median(down[1]); b > 1.5*a {
		s.Errorf("median downtime of %d MiB is %.0f ms, of %d MiB %.0f ms: more than 1.5 times as long", small, a, large, b)
	}
	a, b, w := median(frozen[0]), median(frozen[1]), median(walk[1])-median(walk[0])
	s.Logf("medians: downtime times %.2f, frozen time times %.2f and %.0f ms longer; a walk is %.0f ms longer", median(down[1])/median(down[0]), b/a, b-a, w)
	if b-a > walks*w+a/2 {
		s.Errorf("median frozen time grows from %.0f to %.0f ms; %d walks over the page tables grow by %.0f ms", a, b, walks, walks*w)
	}
}

// walks is how often the page tables are walked while frozen: by the tracker,
// by CRIU for smaps, and by CRIU to list pages.
const walks = 3

// idle moves an idle workload and removes it. It returns also how long one walk
// over its page tables takes, that for smaps. Every page has the same content, so that the first round takes a tenth of the time
// and the source still looks at each page, and the target still stores it.
func (s *stage) idle(mib int) (migrate.Report, time.Duration) {
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
	walk := s.walk("mawk")
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
	return r, walk
}

// walk reads a program's smaps on A three times, and returns the shortest time.
func (s *stage) walk(program string) time.Duration {
	s.Helper()
	out := s.sh(s.a, `p=$(pgrep -x `+program+`)
		for i in 1 2 3; do t=$(date +%s%N); cat /proc/$p/smaps >/dev/null; echo $(($(date +%s%N) - t)); done | sort -n | head -n 1`)
	ns, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		s.Fatalf("reading smaps: %q", out)
	}
	return time.Duration(ns)
}
