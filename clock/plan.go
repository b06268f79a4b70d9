package clock

import (
	"fmt"
	"time"

	"migrate"
)

// limit is the highest value that the kernel accepts for a clock of a new time
// namespace: half of KTIME_MAX in whole seconds, so that the clock does not
// overflow while the namespace lives (proc_timens_set_offset in
// kernel/time/namespace.c).
const limit = 9223372036 / 2 * time.Second

// lead is how far BOOTTIME is ahead of MONOTONIC in what we write. CRIU turns
// the image into offsets one clock after the other (timens.c), and whatever
// passes between its two readings is taken from BOOTTIME. On a host that never
// suspended the clocks are equal, so without a lead BOOTTIME came out some
// microseconds below MONOTONIC, which no kernel shows and no program expects.
// Later hops keep what the first one added.
const lead = 2 * time.Millisecond

// Restore is what is known when a tree is about to be restored.
type Restore struct {
	Policy    migrate.ClockPolicy
	Image     migrate.ClockReading // the tree's clocks at the dump, from the timens image
	Tree      migrate.ClockReading // offsets of the tree's time namespace on the source; zero without one
	Between   Difference           // target − source; see [Difference.After]
	Target    migrate.ClockReading // the target's clocks now
	Namespace bool                 // the images have a timens image and the target has time namespaces
}

// Written is the decision of [Plan].
type Written struct {
	Image  migrate.ClockReading // what to write into the timens image, if Report.Namespace
	Outage migrate.ClockReading // what that adds to each clock; without a namespace, what each lost for certain
	Report migrate.Clock
}

// Plan decides what a restored tree's clocks show at first. Under the policy
// continue they advance by the outage, by no more than is certain; under
// pause they stay as they were. In both, BOOTTIME is at least a little ahead of
// MONOTONIC, which is taken from what MONOTONIC would gain, or added to
// BOOTTIME if that is too little. Neither clock goes back, ever.
//
// The error is about values that the kernel would refuse, and about clocks that
// would step back where there is no namespace to prevent it.
func Plan(r Restore) (Written, error) {
	if err := r.validate(); err != nil {
		return Written{}, err
	}
	out := Written{Report: migrate.Clock{Policy: r.Policy, Bound: int64(r.Between.Monotonic.Error), Namespace: r.Namespace}}
	gone := r.outage()
	out.Report.Outage = migrate.Millis(gone.Monotonic)
	if !r.Namespace {
		out.Outage = gone
		return out, r.backward()
	}
	if r.Policy == migrate.ClockContinue {
		out.Outage = gone
	}
	out.Outage = withLead(r.Image, out.Outage)
	if r.Policy == migrate.ClockContinue {
		out.Report.Outage = migrate.Millis(out.Outage.Monotonic)
	}
	out.Image = add(r.Image, out.Outage)
	out.Report.Offset = int64(out.Image.Monotonic - r.Target.Monotonic)
	return out, inRange("clock after the move", out.Image)
}

// backward is the error for a tree that would see the target's own clocks
// behind what it has seen.
func (r Restore) backward() error {
	back := max(r.Image.Monotonic-r.Target.Monotonic, r.Image.Boottime-r.Target.Boottime)
	if back <= 0 {
		return nil
	}
	return fmt.Errorf("the workload's clocks would step back by %v on a host without time namespaces", back)
}

func (r Restore) validate() error {
	source := migrate.ClockReading{Monotonic: r.Image.Monotonic - r.Tree.Monotonic, Boottime: r.Image.Boottime - r.Tree.Boottime}
	for name, c := range map[string]migrate.ClockReading{
		"clock in the image": r.Image, "source's clock": source, "target's clock": r.Target,
	} {
		if err := inRange(name, c); err != nil {
			return err
		}
	}
	return nil
}

func inRange(name string, c migrate.ClockReading) error {
	for _, d := range []time.Duration{c.Monotonic, c.Boottime} {
		if d < 0 || d > limit {
			return fmt.Errorf("%s: %v is outside what a time namespace can have (0 to %v)", name, d, limit)
		}
	}
	return nil
}

// outage returns for how long each clock stood still, at least. A clock that
// was not compared is taken as not having stood.
//
// Without a suspend both clocks lost the same, of which the smaller of two
// lower bounds is the one that is surely right. The two disagree beyond their
// bounds only if a host was suspended after they were compared: the target, and
// BOOTTIME alone counts that time; or the source before the dump, and only
// the comparison of BOOTTIME is still good.
func (r Restore) outage() migrate.ClockReading {
	mono, monoError := elapsed(r.Target.Monotonic, r.Image.Monotonic-r.Tree.Monotonic, r.Between.Monotonic)
	boot, _ := elapsed(r.Target.Boottime, r.Image.Boottime-r.Tree.Boottime, r.Between.Boottime)
	both := min(mono, boot)
	if suspended := boot > mono+2*monoError && r.Between.Monotonic.Known(); !suspended {
		boot = both
	}
	return migrate.ClockReading{Monotonic: both, Boottime: boot}
}

// elapsed returns how much time passed at least between a reading of the
// source's clock and one of the target's, and the bounds' error.
func elapsed(target, source time.Duration, between Bounds) (least, bound time.Duration) {
	if !between.usable() {
		return 0, 0
	}
	return max(0, target-source-between.Offset-between.Error), between.Error
}

// withLead returns the outage to add so that BOOTTIME gets its lead.
func withLead(image, outage migrate.ClockReading) migrate.ClockReading {
	after := add(image, outage)
	missing := max(0, after.Monotonic+lead-after.Boottime)
	fromMono := min(missing, outage.Monotonic)
	outage.Monotonic -= fromMono
	outage.Boottime += missing - fromMono
	return outage
}

func add(a, b migrate.ClockReading) migrate.ClockReading {
	return migrate.ClockReading{Monotonic: a.Monotonic + b.Monotonic, Boottime: a.Boottime + b.Boottime}
}
