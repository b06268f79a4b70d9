package migrate

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
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
	TCPRefuse      TCPPolicy = "refuse"      // a connection blocks the move
	TCPClose       TCPPolicy = "close"       // connections are closed on the target
	TCPEstablished TCPPolicy = "established" // connections move, with the network namespace that is the workload's own
)

// Tracker names the way memory is copied ahead of the freeze.
type Tracker string

// The trackers.
const (
	TrackerAuto      Tracker = "auto"       // the first of the following that works
	TrackerSoftDirty Tracker = "soft-dirty" // CRIU's pre-dumps; a kernel with CONFIG_MEM_SOFT_DIRTY
	TrackerUffdWP    Tracker = "uffd-wp"    // userfaultfd write protection; x86-64 from Linux 6.7, arm64 from 6.10
	TrackerHash      Tracker = "hash"       // whole-memory passes compared by hash; any kernel
	TrackerNone      Tracker = "none"       // stop-and-copy only
)

// Trackers lists them, the first one first.
var Trackers = []Tracker{TrackerAuto, TrackerSoftDirty, TrackerUffdWP, TrackerHash, TrackerNone}

// RestoreMode says when the target puts memory into the restored tree.
type RestoreMode string

// The restore modes.
const (
	RestoreAuto  RestoreMode = "auto"  // lazy above a small size, where the target can
	RestoreEager RestoreMode = "eager" // all of it before the tree runs
	RestoreLazy  RestoreMode = "lazy"  // from the target's own store, while it runs
)

// TimeoutAction says what to do when no round brings the predicted downtime
// below DowntimeLimit.
type TimeoutAction string

// The timeout actions.
const (
	TimeoutAuto    TimeoutAction = "auto"    // freeze nevertheless, as soon as rounds stop helping
	TimeoutCancel  TimeoutAction = "cancel"  // try until Timeout or MaxRounds ends, then roll back
	TimeoutSuspend TimeoutAction = "suspend" // try until Timeout or MaxRounds ends, then freeze nevertheless
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
	Verify            bool          `json:"verify"`              // compare what the target holds with the frozen memory before it is restored
	DowntimeLimit     time.Duration `json:"downtime-limit"`      // downtime to aim at; default 300 ms
	MaxRounds         int           `json:"max-rounds"`          // of pre-copy; default 30
	TimeoutAction     TimeoutAction `json:"timeout-action"`      // default "auto"
	AutoConverge      Throttle      `json:"auto-converge"`       // the zero value never slows the workload
	DeltaCache        int64         `json:"delta-cache"`         // bytes kept of what was sent, to send differences; 0 takes a share of free memory, below 0 is none
	Streams           int           `json:"streams"`             // for pages, 1 to 4; default 2
	Restore           RestoreMode   `json:"restore"`             // default "auto"
	// MapBridge says which links of the source's host have another name on the
	// target: bridges, and what macvlan and ipvlan links are on.
	MapBridge   map[string]string `json:"map-bridge,omitempty"`
	Sync        []string          `json:"sync,omitempty"` // directories that go with the workload, by absolute path, and take the place of what the target has there
	ShipImage   bool              `json:"ship-image"`     // send lower layers of a container's root file system that the target lacks
	RuntimeRoot string            `json:"runtime-root"`   // directory of a container runtime's state, on both hosts; default the runtime's own
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
	o.DowntimeLimit = cmp.Or(o.DowntimeLimit, 300*time.Millisecond)
	o.MaxRounds = cmp.Or(o.MaxRounds, 30)
	o.TimeoutAction = cmp.Or(o.TimeoutAction, TimeoutAuto)
	o.Streams = cmp.Or(o.Streams, 2)
	o.Restore = cmp.Or(o.Restore, RestoreAuto)
	return o
}

// Validate reports every problem of options that have their defaults.
func (o Options) Validate() error {
	return errors.Join(
		oneOf("manage-cgroups-mode", o.ManageCgroupsMode, CgroupModes...),
		oneOf("clock", o.Clock, ClockContinue, ClockPause),
		oneOf("tcp", o.TCP, TCPRefuse, TCPClose, TCPEstablished),
		oneOf("tracker", o.Tracker, Trackers...),
		oneOf("compress", o.Compress, "auto", "none", "s2", "zstd"),
		positive("bandwidth", o.Bandwidth+1),
		positive("timeout", o.Timeout),
		positive("freeze-timeout", o.FreezeTimeout),
		positive("commit-timeout", o.CommitTimeout),
		positive("downtime-limit", o.DowntimeLimit),
		positive("max-rounds", o.MaxRounds),
		oneOf("timeout-action", o.TimeoutAction, TimeoutAuto, TimeoutCancel, TimeoutSuspend),
		o.AutoConverge.Validate(),
		within("streams", o.Streams, 1, MaxStreams),
		oneOf("restore", o.Restore, RestoreAuto, RestoreEager, RestoreLazy),
		linkNames("map-bridge", o.MapBridge),
		absolute("sync", o.Sync),
	)
}

// MaxStreams is how many streams pages may take at once.
const MaxStreams = 4

// absolute accepts clean paths of directories other than the root.
func absolute(name string, paths []string) error {
	for _, p := range paths {
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" {
			return fmt.Errorf("%s: %q is not an absolute path of a directory below /", name, p)
		}
	}
	return nil
}

func within(name string, v, low, high int) error {
	if v < low || v > high {
		return fmt.Errorf("%s: %d is not between %d and %d", name, v, low, high)
	}
	return nil
}

// maxMapped bounds how many links can have other names.
const maxMapped = 256

// linkNames demands that both sides are names that a network link can have
// (dev_valid_name of Linux).
func linkNames(name string, links map[string]string) error {
	if len(links) > maxMapped {
		return fmt.Errorf("%s: more than %d", name, maxMapped)
	}
	for from, to := range links {
		for _, s := range []string{from, to} {
			if s == "" || len(s) > 15 || s == "." || s == ".." || strings.ContainsFunc(s, notInLinkName) {
				return fmt.Errorf("%s: %.40q is not the name of a network link", name, s)
			}
		}
	}
	return nil
}

func notInLinkName(r rune) bool { return r == '/' || r == ':' || r <= ' ' || r >= 0x7f }

func oneOf[T ~string](name string, got T, want ...T) error {
	if slices.Contains(want, got) {
		return nil
	}
	return fmt.Errorf("%s: %q is not one of %q", name, got, want)
}

func positive[T ~int | ~int64](name string, v T) error {
	if v > 0 {
		return nil
	}
	return fmt.Errorf("%s: must not be negative or zero", name)
}
