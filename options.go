package migrate

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// CgroupMode is CRIU's --manage-cgroups-mode. It is always sent to CRIU, on
// dump and on restore: "ignore" is enum value 0 there, and a tool that takes
// zero for "not set" loses it.
type CgroupMode string

// CgroupModes lists the modes in the order of CRIU's own enum.
var CgroupModes = []CgroupMode{"ignore", "none", "props", "soft", "full", "strict"}

// ClockPolicy says what a workload's monotonic clocks show after the outage.
type ClockPolicy string

// The clock policies.
const (
	ClockContinue ClockPolicy = "continue" // advanced by the true outage
	ClockPause    ClockPolicy = "pause"    // as if the outage had not been
)

// TCPPolicy says what to do with established TCP connections.
type TCPPolicy string

// The TCP policies.
const (
	TCPRefuse TCPPolicy = "refuse" // a connection blocks the move
	TCPClose  TCPPolicy = "close"  // connections are closed on the target
)

// Tracker names the way memory is copied ahead of the freeze.
type Tracker string

// The trackers.
const (
	TrackerAuto Tracker = "auto" // the best that both hosts have
	TrackerHash Tracker = "hash" // whole-memory passes compared by hash; any kernel
	TrackerNone Tracker = "none" // stop-and-copy only
)

// Options are a move's settings. The zero value is usable; see [Options.WithDefaults].
type Options struct {
	ManageCgroupsMode CgroupMode    `json:"manage-cgroups-mode"` // default "ignore"
	Clock             ClockPolicy   `json:"clock"`               // default "continue"
	TCP               TCPPolicy     `json:"tcp"`                 // default "refuse"
	Tracker           Tracker       `json:"tracker"`             // default "auto"
	Compress          string        `json:"compress"`            // "auto", "none", "s2" or "zstd"; default "auto"
	Bandwidth         int64         `json:"bandwidth"`           // bytes per second on the wire; 0 is no cap
	Timeout           time.Duration `json:"timeout"`             // whole move up to the commit point; default 10 minutes
	FreezeTimeout     time.Duration `json:"freeze-timeout"`      // longest frozen time before a rollback; default 1 minute
	CommitTimeout     time.Duration `json:"commit-timeout"`      // how long to ask a silent target before saying "in doubt"; default 30 s
	GhostLimit        uint32        `json:"ghost-limit"`         // largest deleted file carried along, bytes; default 64 MiB
	FileLocks         bool          `json:"file-locks"`          // carry file locks
}

// WithDefaults returns o with every unset field at its default.
func (o Options) WithDefaults() Options {
	o.ManageCgroupsMode = cmp.Or(o.ManageCgroupsMode, "ignore")
	o.Clock = cmp.Or(o.Clock, ClockContinue)
	o.TCP = cmp.Or(o.TCP, TCPRefuse)
	o.Tracker = cmp.Or(o.Tracker, TrackerAuto)
	o.Compress = cmp.Or(o.Compress, "auto")
	o.Timeout = cmp.Or(o.Timeout, 10*time.Minute)
	o.FreezeTimeout = cmp.Or(o.FreezeTimeout, time.Minute)
	o.CommitTimeout = cmp.Or(o.CommitTimeout, 30*time.Second)
	o.GhostLimit = cmp.Or(o.GhostLimit, 64<<20)
	return o
}

// Validate reports every problem of options that have their defaults.
func (o Options) Validate() error {
	return errors.Join(
		oneOf("manage-cgroups-mode", o.ManageCgroupsMode, CgroupModes...),
		oneOf("clock", o.Clock, ClockContinue, ClockPause),
		oneOf("tcp", o.TCP, TCPRefuse, TCPClose),
		oneOf("tracker", o.Tracker, TrackerAuto, TrackerHash, TrackerNone),
		oneOf("compress", o.Compress, "auto", "none", "s2", "zstd"),
		positive("bandwidth", o.Bandwidth+1),
		positive("timeout", o.Timeout),
		positive("freeze-timeout", o.FreezeTimeout),
		positive("commit-timeout", o.CommitTimeout),
	)
}

func oneOf[T ~string](name string, got T, want ...T) error {
	if slices.Contains(want, got) {
		return nil
	}
	return fmt.Errorf("%s: %q is not one of %q", name, got, want)
}

func positive[T ~int64](name string, v T) error {
	if v > 0 {
		return nil
	}
	return fmt.Errorf("%s: must not be negative or zero", name)
}
