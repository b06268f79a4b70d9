package clock

import (
	"fmt"
	"time"

	"migrate"
)

// BackwardOnHost says what preflight has to say about a target without time
// namespaces, where the tree will see the host's own clocks. ownTime and tree
// are about the tree's time namespace on the source, between is target − source.
//
// A tree that would see a clock step backwards is refused, also if that is only
// possible within the error of the comparison. Of the outage still to come no
// more than [shortestOutage] is counted on; [Plan] makes sure in the end.
func BackwardOnHost(ownTime bool, tree migrate.ClockReading, between Difference) (blockers, warnings []migrate.Finding) {
	if ownTime {
		return []migrate.Finding{{
			Code:   "no-time-namespaces",
			What:   "the workload lives in a time namespace and the target's kernel has none",
			Advice: "move it to a host whose kernel has CONFIG_TIME_NS (Linux 5.6 or later)",
		}}, nil
	}
	mono := jump("CLOCK_MONOTONIC", tree.Monotonic, between.Monotonic)
	boot := jump("CLOCK_BOOTTIME", tree.Boottime, between.Boottime)
	for _, j := range []clockJump{mono, boot} {
		if !j.known || j.least < -shortestOutage {
			blockers = append(blockers, j.backward())
		}
	}
	if len(blockers) == 0 {
		warnings = append(warnings, mono.forward())
	}
	return blockers, warnings
}

// shortestOutage is less than any dump and restore takes. It lets a tree move
// between hosts whose clocks are equal as far as can be told.
const shortestOutage = 5 * time.Millisecond

// clockJump is how much a clock would step, at least; negative is backwards.
type clockJump struct {
	name  string
	least time.Duration
	known bool
}

func jump(name string, offset time.Duration, between Bounds) clockJump {
	if !between.usable() {
		return clockJump{name: name}
	}
	return clockJump{name, between.Offset - between.Error - offset, true}
}

func (j clockJump) backward() migrate.Finding {
	what := fmt.Sprintf("%s could step back by %v: the target has no time namespaces and was booted after the source", j.name, -j.least)
	if !j.known {
		what = fmt.Sprintf("%s could step back: the target has no time namespaces and its clock was not compared", j.name)
	}
	return migrate.Finding{
		Code:   "clock-backward",
		What:   what,
		Advice: "move it to a host whose kernel has CONFIG_TIME_NS, or to one that has been up for longer",
	}
}

func (j clockJump) forward() migrate.Finding {
	return migrate.Finding{
		Code:   "clock-jump",
		What:   fmt.Sprintf("the target has no time namespaces: %s jumps forward by %v", j.name, max(0, j.least)),
		Advice: "timeouts measured on that clock fire early; it cannot move on from there to a host booted later",
	}
}
