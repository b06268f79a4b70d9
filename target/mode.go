package target

import (
	"sync"
	"time"

	"migrate"
	"migrate/transport"
)

// lazyAbove is the memory below which an eager restore takes no longer than a
// lazy one.
const lazyAbove = 32 << 20

// restoreMode decides how a workload with so many bytes of memory is restored.
func restoreMode(asked migrate.RestoreMode, canLazy bool, bytes uint64) migrate.RestoreMode {
	if canLazy && (asked == migrate.RestoreLazy || asked == migrate.RestoreAuto && bytes > lazyAbove) {
		return migrate.RestoreLazy
	}
	return migrate.RestoreEager
}

// cost is what a restore takes: something always, and more for each MiB.
type cost struct{ fixed, perMiB time.Duration }

func (c cost) of(bytes uint64) time.Duration {
	return c.fixed + time.Duration(float64(c.perMiB)*float64(bytes)/(1<<20))
}

// after returns the cost as it is thought to be after a restore that took so
// long: a running average over about the last four.
func (c cost) after(bytes uint64, took time.Duration) cost {
	ratio := min(max(float64(took)/float64(max(c.of(bytes), time.Millisecond)), 0.1), 10)
	scale := 1 + (ratio-1)/4
	return cost{time.Duration(float64(c.fixed) * scale), time.Duration(float64(c.perMiB) * scale)}
}

// costs is what restores on this host take. Make it with newCosts.
type costs struct {
	mu     sync.Mutex
	byMode map[migrate.RestoreMode]cost
}

// newCosts begins with what was measured where memory was warm.
func newCosts() *costs {
	return &costs{byMode: map[migrate.RestoreMode]cost{
		migrate.RestoreEager: {25 * time.Millisecond, 600 * time.Microsecond},
		migrate.RestoreLazy:  {30 * time.Millisecond, 0},
	}}
}

func (c *costs) observe(mode migrate.RestoreMode, bytes uint64, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byMode[mode] = c.byMode[mode].after(bytes, took)
}

// prepared tells the source what its restore will take.
func (c *costs) prepared(mode migrate.RestoreMode) transport.Prepared {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.byMode[mode]
	return transport.Prepared{RestoreFixedNS: int64(k.fixed), RestorePerMiBNS: int64(k.perMiB), Lazy: mode == migrate.RestoreLazy}
}
