package vm

import (
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

// benches keep machines for the scenarios of a pair of kernels, as many pairs of
// machines as scenarios run side by side.
type benches struct {
	root    string
	kernels [2]Kernel

	mu   sync.Mutex
	idle []bench
}

// bench is two machines that a scenario may have. After one that failed they are
// not used again.
type bench struct {
	set      *Set
	machines machines
}

func (b *benches) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, i := range b.idle {
		i.set.Stop()
	}
	b.idle = nil
}

// take returns a bench with the machines that are wanted, or ends one that
// nobody uses, if there is one, and returns none.
func (b *benches) take(want machines) (bench, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.idle) == 0 {
		return bench{}, false
	}
	i := max(0, slices.IndexFunc(b.idle, func(i bench) bool { return i.machines == want }))
	taken := b.idle[i]
	b.idle = slices.Delete(b.idle, i, i+1)
	if taken.machines == want {
		return taken, true
	}
	taken.set.Stop()
	return bench{}, false
}

func (b *benches) give(back bench) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.idle = append(b.idle, back)
}

// start starts machines afresh.
func (b *benches) start(t *testing.T, want machines) bench {
	t.Helper()
	start := time.Now()
	set, err := Start(t.Context(), Options{
		Root: b.root, Log: os.Stderr, Memory: want.memory,
		Kernels: map[string]string{"A": b.kernels[0].Version, "B": b.kernels[1].Version},
		CPU:     map[string]string{"B": want.cpuB},
		Uptime:  map[string]time.Duration{"A": want.uptimeA},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("machines ready after %v; they used %.0f s of processors", time.Since(start).Round(100*time.Millisecond), set.processorTime().Seconds())
	return bench{set, want}
}

// stage readies machines for a scenario.
func (b *benches) stage(t *testing.T, row *Row, want machines) *stage {
	t.Helper()
	has, ok := b.take(want)
	if !ok {
		has = b.start(t, want)
	}
	set := has.set
	before := set.processorTime()
	s := &stage{T: t, set: set, a: set.Machine("A"), b: set.Machine("B"), row: row}
	t.Cleanup(func() {
		row.Processor = (set.processorTime() - before).Seconds()
		t.Logf("the machines used %.0f s of processors", row.Processor)
		if !t.Failed() {
			err := s.clear()
			if err == nil {
				b.give(has)
				return
			}
			t.Errorf("clearing the stage: %v", err)
		}
		s.explain()
		set.Stop()
	})
	return s
}
