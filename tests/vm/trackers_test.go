package vm

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"migrate"
)

// at6x7 tells whether a kernel has write protection that works without a
// reader of events, and PAGEMAP_SCAN: Linux 6.7.
func at6x7(k Kernel) bool { return k.Label() != "6.1" }

var trackers = []scenario{
	{name: "soft-dirty shrinks", always: true, fits: ring, run: func(s *stage) { s.shrinks(migrate.TrackerSoftDirty) }},
	{name: "uffd-wp shrinks", fits: func(a, b Kernel) bool { return ring(a, b) && at6x7(a) }, run: func(s *stage) { s.shrinks(migrate.TrackerUffdWP) }},
	{name: "soft-dirty huge pages", fits: once, run: (*stage).hugePages},
	{name: "soft-dirty and uffd-wp compared", fits: once, measures: true, run: (*stage).compared},
	{name: "uffd-wp falls back", fits: func(a, b Kernel) bool { return ring(a, b) && !at6x7(a) }, run: func(s *stage) {
		ref := s.capsule(s.a, "--memory", "8", "--dirty", "100")
		r, _ := s.move(s.a, ref, s.b, "--tracker", "uffd-wp")
		if r.Tracker != migrate.TrackerSoftDirty || !strings.Contains(r.TrackerWhy, "write protection") {
			s.Errorf("tracker %s, because %q; want soft-dirty, and why", r.Tracker, r.TrackerWhy)
		}
	}},
}

// shrinks moves 64 MiB of which a quarter is written to, or a quarter of that
// when it has to be quick, and demands of every round after the first that it
// found what was dirtied in the one before.
func (s *stage) shrinks(tracker migrate.Tracker) {
	mib := 64
	if quick() {
		mib = 16
	}
	memory, hot := mib<<20>>12, float64(mib<<20>>12)/4 // pages
	const rate = 100                                   // pages a second
	s.sh(s.a, "echo never >/sys/kernel/mm/transparent_hugepage/enabled")
	ref := s.capsule(s.a, fmt.Sprintf("--memory %d --hot 0.25 --dirty %d --threads 1 --children 0", mib, rate))
	before := s.verify(s.a)
	r, after := s.move(s.a, ref, s.b, "--tracker", string(tracker), "--downtime-limit", "1ms", "--max-rounds", "4")
	if r.Tracker != tracker {
		s.Fatalf("tracker %s (%s), want %s", r.Tracker, r.TrackerWhy, tracker)
	}
	if len(r.Rounds) < 3 || r.Rounds[0].Dirty() < uint64(memory) {
		s.Fatalf("rounds %+v", r.Rounds)
	}
	// What was written in truth: an emulated processor may not come up to the rate.
	real := float64(after.PagesDirtied-before.PagesDirtied) / (time.Duration(after.Mono-before.Mono) - time.Duration(r.Downtime)).Seconds()
	for i, round := range r.Rounds[1:] {
		between := time.Duration(r.Rounds[i].Duration).Seconds()
		want := hot * (1 - math.Exp(-real*between/hot)) // of random pages, some are the same
		s.Logf("round %d: %d pages, of %.0f that were dirtied in %.1f s at %.0f a second (asked for %d)", round.Round, round.Dirty(), want, between, real, rate)
		if got := float64(round.Dirty()); got > hot*1.2+overhead || math.Abs(got-want) > 0.2*want+overhead {
			s.Errorf("round %d found %d dirty pages, want %.0f", round.Round, round.Dirty(), want)
		}
	}
}

// overhead is how many pages the workload's own runtime may dirty in a round.
const overhead = 200

// hugePages moves memory in huge pages, of which one written byte dirties
// 2 MiB: more is looked at, but not more is sent.
func (s *stage) hugePages() {
	s.sh(s.a, "echo always >/sys/kernel/mm/transparent_hugepage/enabled")
	ref := s.capsule(s.a, "--memory 64 --hot 0.25 --dirty 100 --threads 1 --children 0")
	r, _ := s.move(s.a, ref, s.b, "--tracker", "soft-dirty", "--downtime-limit", "1ms", "--max-rounds", "3")
	if r.Tracker != migrate.TrackerSoftDirty || len(r.Rounds) < 3 {
		s.Fatalf("tracker %s, rounds %+v", r.Tracker, r.Rounds)
	}
	for _, round := range r.Rounds[1 : len(r.Rounds)-1] {
		written := 100*1.2*time.Duration(r.Rounds[round.Round-2].Duration).Seconds() + overhead
		s.Logf("round %d looked at %d pages and sent %d", round.Round, round.Pages, round.Dirty())
		if round.Pages < 2*round.Dirty() || float64(round.Dirty()) > written {
			s.Errorf("round %d: %d of %d pages were sent, at most %.0f were written", round.Round, round.Dirty(), round.Pages, written)
		}
	}
}

// compared moves one workload after the other between the same machines, by
// soft-dirty and by uffd-wp in turn. It says what came of it, for the
// benchmarks, and demands that neither copies the hot pages over and over
// without the other doing so.
func (s *stage) compared() {
	s.sh(s.a, "echo never >/sys/kernel/mm/transparent_hugepage/enabled")
	trackers := []migrate.Tracker{migrate.TrackerSoftDirty, migrate.TrackerUffdWP}
	frozen, down, sent := map[migrate.Tracker][]float64{}, map[migrate.Tracker][]float64{}, map[migrate.Tracker][]float64{}
	for range 3 {
		for _, tracker := range trackers {
			ref := s.capsule(s.a, "--memory 32 --hot 0.25 --dirty 100 --threads 1 --children 0")
			r, _ := s.move(s.a, ref, s.b, "--tracker", string(tracker), "--downtime-limit", "1ms", "--max-rounds", "4")
			if r.Tracker != tracker {
				s.Fatalf("tracker %s (%s), want %s", r.Tracker, r.TrackerWhy, tracker)
			}
			s.sh(s.b, "migrate stop --rm --timeout 0 load")
			s.nothingOf(s.b)
			frozen[tracker] = append(frozen[tracker], float64(r.FrozenTime)/1e6)
			down[tracker] = append(down[tracker], float64(r.Downtime)/1e6)
			sent[tracker] = append(sent[tracker], float64(r.Transferred)/(1<<20))
		}
	}
	for _, t := range trackers {
		s.Logf("medians of %s: frozen %.0f ms, down %.0f ms, %.1f MiB sent", t, median(frozen[t]), median(down[t]), median(sent[t]))
	}
	if a, b := median(sent[trackers[0]]), median(sent[trackers[1]]); a > 2*b || b > 2*a {
		s.Errorf("one tracker sends more than twice as much as the other: %.1f and %.1f MiB", a, b)
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
