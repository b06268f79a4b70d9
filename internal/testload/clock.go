package testload

import (
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// reading is the clocks at one instant, in nanoseconds.
type reading struct{ mono, boot, real int64 }

func readClocks() reading {
	return reading{clock(unix.CLOCK_MONOTONIC), clock(unix.CLOCK_BOOTTIME), clock(unix.CLOCK_REALTIME)}
}

func clock(id int32) int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(id, &ts) // these clocks exist, and ts is an address
	return ts.Nano()
}

// stepBack says which monotonic clock went back between two readings.
func stepBack(before, after reading) error {
	switch {
	case after.mono < before.mono:
		return fmt.Errorf("CLOCK_MONOTONIC stepped back by %d ns", before.mono-after.mono)
	case after.boot < before.boot:
		return fmt.Errorf("CLOCK_BOOTTIME stepped back by %d ns", before.boot-after.boot)
	}
	return nil
}

// gap is a time in which the workload did not run.
type gap struct {
	wall time.Duration // by CLOCK_REALTIME: what anyone else saw
	mono time.Duration // by CLOCK_MONOTONIC: what the workload was shown
	at   int64         // CLOCK_REALTIME when it ran again
}

// watcher looks at the clocks once a tick.
type watcher struct {
	every  time.Duration
	mu     sync.Mutex
	ticks  uint64
	ever   gap // the largest since the start
	recent gap // the largest since the last reset

	// lead is by how much CLOCK_BOOTTIME was ahead of CLOCK_MONOTONIC when it
	// was least. It should never be negative. It is no error if it is, because
	// CRIU 4.2 alone, which reads one clock after the other, loses some
	// microseconds with each restore.
	lead int64
}

// watch never returns. It has a thread for itself, and sleeps in the kernel
// rather than in Go's scheduler, so that a busy program is not taken for one
// that did not run.
func (w *watcher) watch(fail func(error)) {
	runtime.LockOSThread()
	start, pause := time.Now(), unix.NsecToTimespec(int64(w.every))
	var elapsed time.Duration
	for last := readClocks(); ; {
		_ = unix.Nanosleep(&pause, nil) // a freeze interrupts it
		now := readClocks()
		if err := stepBack(last, now); err != nil {
			fail(err)
		}
		if e := time.Since(start); e < elapsed {
			fail(fmt.Errorf("time.Since stepped back by %s", elapsed-e))
		} else {
			elapsed = e
		}
		w.tick(last, now)
		last = now
	}
}

func (w *watcher) tick(last, now reading) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ticks++
	if lead := now.boot - now.mono; w.ticks == 1 || lead < w.lead {
		w.lead = lead
	}
	g := gap{time.Duration(now.real - last.real), time.Duration(now.mono - last.mono), now.real}
	if g.wall > w.ever.wall {
		w.ever = g
	}
	if g.wall > w.recent.wall {
		w.recent = g
	}
}

func (w *watcher) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.recent = gap{}
}

// fill writes what the watcher knows into s.
func (w *watcher) fill(s *Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.Ticks, s.BootLead = w.ticks, w.lead
	s.LargestGap, s.LargestGapMono, s.LargestGapAt = millis(w.ever.wall), millis(w.ever.mono), w.ever.at
	s.Gap, s.GapMono, s.GapAt = millis(w.recent.wall), millis(w.recent.mono), w.recent.at
}
