package predump

import (
	"cmp"
	"time"

	"migrate"
)

// Decision is what to do after a pass.
type Decision uint8

// The decisions.
const (
	Again  Decision = 1 // make another pass
	Freeze Decision = 2 // freeze the workload and send the rest
)

// String returns the decision's name.
func (d Decision) String() string {
	switch d {
	case Again:
		return "again"
	case Freeze:
		return "freeze"
	}
	return "invalid"
}

// PolicyOptions are the limits of pre-copy. The zero value is usable.
type PolicyOptions struct {
	MaxRounds int           // passes at most; 0 means 3
	MinGain   time.Duration // by which a further pass must be expected to shorten the freeze; 0 means 10 ms
}

// Next decides whether another pass is expected to pay. It looks at nothing
// but its arguments; rounds are the passes made so far.
//
// A pass takes read + send × pages sent, both known from the last two passes.
// What changes during it is what the freeze would have to send now. With
// another pass that is sent while the workload runs, and the freeze has to send
// what changes during that pass instead: less, if it is shorter.
func Next(rounds []migrate.Round, o PolicyOptions) Decision {
	n := len(rounds)
	if n >= cmp.Or(o.MaxRounds, 3) {
		return Freeze
	}
	if n < 2 {
		return Again // one pass says nothing about how fast memory changes
	}
	if gain(rounds[n-2], rounds[n-1]) >= cmp.Or(o.MinGain, 10*time.Millisecond) {
		return Again
	}
	return Freeze
}

// gain returns by how much another pass is expected to shorten the freeze.
func gain(before, last migrate.Round) time.Duration {
	if last.Sent >= before.Sent || last.Duration <= 0 || before.Duration <= 0 {
		return 0 // as much changes as is sent
	}
	long, short := float64(before.Duration), float64(last.Duration)
	send := max(0, long-short) / float64(before.Sent-last.Sent) // ns per page
	read := max(0, short-send*float64(last.Sent))
	rest := min(float64(last.Sent), float64(last.Sent)*short/long) // changed during the last pass
	restAfter := rest * min(1, (read+send*rest)/short)
	return time.Duration(send * (rest - restAfter))
}
