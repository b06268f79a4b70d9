package redisload

import (
	"testing"
	"time"
)

func TestGaps(t *testing.T) {
	const ms = time.Millisecond
	start := time.Unix(1000, 0)
	var g gaps
	for _, a := range []struct {
		where int
		at    time.Duration
	}{{0, 0}, {0, 3 * ms}, {0, 4 * ms}, {1, 54 * ms}, {1, 55 * ms}, {1, 63 * ms}, {0, 64 * ms}} {
		g.answered(a.where, start.Add(a.at))
	}
	if got, want := g.read(), (Gaps{Before: 3 * ms, Switch: 50 * ms, After: 8 * ms}); got != want || got.Longest() != 50*ms {
		t.Errorf("gaps %+v, want %+v", got, want)
	}
	if silent, where := g.silent(start.Add(67*ms), 2*ms); !silent || where != 0 {
		t.Errorf("silent %v, where %d", silent, where)
	}
	g.reset()
	g.answered(0, start.Add(66*ms))
	g.answered(1, start.Add(67*ms))
	if got, want := g.read(), (Gaps{Before: 2 * ms, Switch: ms}); got != want {
		t.Errorf("gaps after the reset %+v, want %+v", got, want)
	}
}
