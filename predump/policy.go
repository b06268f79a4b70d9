package predump

import (
	"fmt"
	"time"

	"migrate"
)

// Decision is what to do after a round.
type Decision uint8

// The decisions.
const (
	Again    Decision = 1 // make another round
	Freeze   Decision = 2 // freeze the workload and send the rest
	Throttle Decision = 3 // make another round, with the workload slowed more
	Cancel   Decision = 4 // roll back
)

// String returns the decision's name.
func (d Decision) String() string {
	switch d {
	case Again:
		return "again"
	case Freeze:
		return "freeze"
	case Throttle:
		return "throttle"
	case Cancel:
		return "cancel"
	}
	return "invalid"
}

// Costs are the parts of the downtime that no round makes shorter, as measured
// on the two hosts.
type Costs struct {
	Fixed         time.Duration // source: freeze, CRIU's own work, images
	PerPage       time.Duration // source: CRIU's walk and the last scan, for each page of the workload
	Restore       time.Duration // target: whatever the workload's size
	RestorePerMiB time.Duration // target: for each MiB of the workload; 0 when it is restored lazily
}

// State is how far pre-copy has come.
type State struct {
	Rounds    []migrate.Round // made so far, without the final one
	Pages     uint64          // of the workload
	Elapsed   time.Duration   // of the move's Timeout
	Throttle  int             // percent by which the workload is slowed now
	Costs     Costs
	Bandwidth int64 // cap on the wire now, bytes per second; 0 is none
}

// Limits are what was asked for. Zero values are the defaults of
// [migrate.Options]; a Timeout of zero is none.
type Limits struct {
	Downtime      time.Duration
	MaxRounds     int
	Timeout       time.Duration
	TimeoutAction migrate.TimeoutAction
	AutoConverge  migrate.Throttle
}

func (l Limits) withDefaults() Limits {
	o := migrate.Options{DowntimeLimit: l.Downtime, MaxRounds: l.MaxRounds, TimeoutAction: l.TimeoutAction}.WithDefaults()
	l.Downtime, l.MaxRounds, l.TimeoutAction = o.DowntimeLimit, o.MaxRounds, o.TimeoutAction
	return l
}

const (
	minGain  = 10 * time.Millisecond // a round that shortens the freeze by less is not worth its work
	dearness = 100                   // nor is one that takes so many times longer than it gains
	shrink   = 0.95                  // a round helps if it leaves at most this part of what was left before
	patience = 2                     // so many rounds in a row that do not help are enough
	slowed   = 0.75                  // the same as shrink while the workload is slowed: its users notice, so it should be soon over
	lateness = 10                    // trying ends when less than this part of the timeout (at most a second) would be left
)

// Predict returns the downtime of a freeze now: what no round makes shorter,
// and sending what has changed since the last round looked. It is not ok before
// two rounds have shown how fast memory changes.
func Predict(s State) (downtime time.Duration, ok bool) {
	m := newModel(s)
	if !m.known {
		return 0, false
	}
	return s.fixed() + m.rest(), true
}

// fixed is the downtime with nothing left to send.
func (s State) fixed() time.Duration {
	const pagesPerMiB = 1 << 20 / PageSize
	c := s.Costs
	return c.Fixed + c.Restore + span((float64(c.PerPage)+float64(c.RestorePerMiB)/pagesPerMiB)*float64(s.Pages))
}

// Decide says what to do after a round, how much the workload is to be slowed
// from now on (in percent), and why. It looks at nothing but its arguments.
//
// When the predicted downtime fits the limit, the workload is frozen, unless one
// more round is cheap and shortens the freeze noticeably. While it does not fit
// and rounds leave less and less, there is another one. When two in a row left as
// much as was there before, memory changes as fast as it is sent. Then:
//
//   - with AutoConverge the workload is slowed, a step more after each round
//     that does not help, up to its maximum; when that does not help either, as
//     without it;
//   - [migrate.TimeoutAuto] freezes it now, however long that takes;
//   - [migrate.TimeoutSuspend] tries on, for a moment in which it writes less, until
//     Timeout or MaxRounds ends, and freezes it then; with no Timeout at once;
//   - [migrate.TimeoutCancel] tries on in the same way and rolls back then.
//     It is the only one that never freezes for longer than the limit.
//
// Timeout ends, here, when a further round and the freeze would not fit into it.
// With TimeoutAuto that decides nothing: who calls Decide rolls back at Timeout.
func Decide(s State, l Limits) (d Decision, throttle int, why string) {
	l = l.withDefaults()
	throttle = min(s.Throttle, l.AutoConverge.Max)
	n, m := len(s.Rounds), newModel(s)
	left := fmt.Sprintf("downtime of %v predicted, %v allowed", round(s.fixed()+m.rest()), l.Downtime)
	fits := m.known && s.fixed()+m.rest() <= l.Downtime
	switch {
	case !m.known && n < l.MaxRounds:
		return Again, throttle, "not known yet how fast memory changes"
	case !m.known:
		return Freeze, throttle, "as many rounds as are allowed"
	case fits && (n >= l.MaxRounds || !m.pays()):
		return Freeze, throttle, left
	case n >= l.MaxRounds:
		return l.giveUp(), throttle, "as many rounds as are allowed; " + left
	case fits:
		return Again, throttle, "another round is cheap and shortens the freeze; " + left
	case s.late(m, l) && l.TimeoutAction != migrate.TimeoutAuto:
		return l.giveUp(), throttle, "the timeout ends before another round; " + left
	}
	return s.converge(m, l, throttle, left)
}

// converge decides over a freeze that would take too long.
func (s State) converge(m model, l Limits, throttle int, left string) (Decision, int, string) {
	idle := m.rest() < minGain // what is left to send is not what takes so long
	if more := next(l.AutoConverge, s.Throttle); more > s.Throttle && !idle && s.stuck(throttle > 0) {
		return Throttle, more, "memory changes as fast as it is sent; " + left
	}
	switch {
	case idle && !l.holdsOut():
		return Freeze, throttle, "no round makes it shorter; " + left
	case s.stalled() && !l.holdsOut():
		return Freeze, throttle, "memory changes as fast as it is sent, frozen nevertheless; " + left
	}
	return Again, throttle, left
}

// next returns the level of slowing that follows now, or now if there is none.
func next(t migrate.Throttle, now int) int {
	if now == 0 {
		return t.Initial
	}
	return max(now, min(now+t.Step, t.Max))
}

// stuck reports whether the workload is to be slowed (more).
func (s State) stuck(slow bool) bool {
	if slow {
		return !s.helped(len(s.Rounds), slowed)
	}
	return s.stalled()
}

// stalled reports whether the last rounds did not help.
func (s State) stalled() bool {
	n := len(s.Rounds)
	for i := range patience {
		if n-i < 2 || s.helped(n-i, shrink) {
			return false
		}
	}
	return true
}

// helped reports whether round n left at most part of what was left before it.
func (s State) helped(n int, part float64) bool {
	return float64(s.after(n).rest()) <= part*float64(s.after(n-1).rest())
}

// after returns the model as it was after n rounds.
func (s State) after(n int) model {
	s.Rounds = s.Rounds[:n]
	return newModel(s)
}

// late reports whether another round and the freeze do not fit into the timeout.
func (s State) late(m model, l Limits) bool {
	if l.Timeout <= 0 {
		return false
	}
	need := m.length() + s.fixed() + m.rest() + min(time.Second, l.Timeout/lateness)
	return s.Elapsed+need >= l.Timeout
}

// holdsOut reports whether rounds that do not help are made all the same.
func (l Limits) holdsOut() bool {
	return l.TimeoutAction == migrate.TimeoutCancel || l.TimeoutAction == migrate.TimeoutSuspend && l.Timeout > 0
}

// giveUp is the decision when there is no more time, or no more rounds.
func (l Limits) giveUp() Decision {
	if l.TimeoutAction == migrate.TimeoutCancel {
		return Cancel
	}
	return Freeze
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
