package predump

import (
	"cmp"

	"migrate"
)

// Decision is what to do after a round.
type Decision uint8

// The decisions.
const (
	Again  Decision = 1 // another round
	Freeze Decision = 2 // stop-and-copy
)

// PolicyOptions are the limits of pre-copy.
type PolicyOptions struct {
	MaxRounds int    // default 4
	Few       uint64 // changed pages that are not worth another round; default 1024 (4 MiB)
}

// Next decides after each round, from nothing but the rounds so far. The first
// sends everything, so a second always pays: it leaves to the freeze what
// changes during a short pass instead of a long one. From then on another round
// pays while fewer pages change from one to the next.
func Next(rounds []migrate.Round, o PolicyOptions) Decision {
	n := len(rounds)
	switch {
	case n >= cmp.Or(o.MaxRounds, 4):
		return Freeze
	case n < 2:
		return Again
	}
	changed, before := changed(rounds[n-1]), changed(rounds[n-2])
	if changed <= cmp.Or(o.Few, 1024) || 4*changed > 3*before {
		return Freeze
	}
	return Again
}

func changed(r migrate.Round) uint64 { return r.Sent + r.Zero }
