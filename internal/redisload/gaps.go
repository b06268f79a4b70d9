package redisload

import (
	"sync"
	"time"
)

// Gaps are the longest times without a good answer.
type Gaps struct {
	Before time.Duration // while the server was where it had been
	Switch time.Duration // from the last answer there to the first from elsewhere; 0 until then
	After  time.Duration // since
}

// Longest is the downtime: the longest gap of all.
func (g Gaps) Longest() time.Duration { return max(g.Before, g.Switch, g.After) }

// gaps watches when and from where good answers come.
type gaps struct {
	mu    sync.Mutex
	last  time.Time
	where int // whence the last one came
	home  int // whence they came at the reset
	moved bool
	Gaps
}

// answered notes a good answer from an address.
func (g *gaps) answered(where int, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	gap := now.Sub(g.last)
	switch {
	case g.last.IsZero():
		g.home = where
	case !g.moved && where != g.home:
		g.moved, g.Switch = true, gap
	case g.moved:
		g.After = max(g.After, gap)
	default:
		g.Before = max(g.Before, gap)
	}
	g.last, g.where = now, where
}

// reset begins again, from where the last answer came.
func (g *gaps) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.home, g.moved, g.Gaps = g.where, false, Gaps{}
}

func (g *gaps) read() Gaps {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Gaps
}

// silent reports whether there was no answer for that long, and if there was,
// whence.
func (g *gaps) silent(now time.Time, limit time.Duration) (silent bool, where int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return now.Sub(g.last) > limit, g.where
}
