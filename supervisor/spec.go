package supervisor

import (
	"time"

	"migrate"
	"migrate/clock"
	"migrate/criu"
)

// State is what a supervisor is doing.
type State string

// The states. A supervisor in one of the first four has given no word to
// anybody and may discard what it has; from [Held] on it waits for the verdict.
const (
	Idle      State = "idle"      // nothing was asked of it yet
	Prepared  State = "prepared"  // CRIU is started and waits for the images
	Restoring State = "restoring" // CRIU restores
	Failed    State = "failed"    // the last restore failed; nothing of the tree is left
	Held      State = "held"      // restored; nothing of it has run
	Running   State = "running"
	Moved     State = "moved"     // a peer has the workload; what is here is about to be killed
	Exited    State = "exited"    // ended, and recorded
	Discarded State = "discarded" // a verdict, or SIGTERM, removed it before it ran
)

// Status is what a supervisor says about itself.
type Status struct {
	Name      string           `json:"name"`
	State     State            `json:"state"`
	PID       int              `json:"pid"`       // of the supervisor
	Root      int              `json:"root"`      // of the tree, in the host's PID namespace; 0 if there is none
	Migration migrate.ID       `json:"migration"` // the one that brought it here, or would
	Failure   *migrate.Failure `json:"failure,omitempty"`
	Held      *Hold            `json:"held,omitempty"`
	Resumed   *Resumed         `json:"resumed,omitempty"`
	Exit      *Exit            `json:"exit,omitempty"` // of the root; what it left may still run, and the logs be written
	Fill      *Fill            `json:"fill,omitempty"` // of a workload that was restored lazily
	MovedTo   string           `json:"moved-to,omitempty"`
}

// RunSpec is a new capsule: a program with its own PID namespace, cgroup,
// session and log files. It sees the host's mounts. Its standard output and
// error go to the logs; its standard input is /dev/null unless Stdin or TTY say
// otherwise.
type RunSpec struct {
	Argv     []string `json:"argv"` // Argv[0] is looked up in the PATH of Env unless it holds a slash
	Env      []string `json:"env"`
	Dir      string   `json:"dir"`       // working directory; default "/"
	TTY      bool     `json:"tty"`       // on a terminal of its own
	Rows     uint16   `json:"rows"`      // of the terminal; default 24
	Columns  uint16   `json:"columns"`   // default 80
	Stdin    bool     `json:"stdin"`     // a pipe that [Client.Attach] writes to. It stays open until the workload ends
	Net      bool     `json:"net"`       // in a network namespace of its own, whose lo is up
	Time     bool     `json:"time"`      // in a time namespace of its own
	NoInit   bool     `json:"no-init"`   // the program itself is PID 1, not the tiny init
	LogLimit int64    `json:"log-limit"` // bytes a log file may grow to before it becomes NAME.log.1; 0 is no limit
}

// PrepareSpec is what is known before the images are there.
type PrepareSpec struct {
	Name      string           `json:"name"`
	Migration migrate.ID       `json:"migration"`
	Workload  migrate.Workload `json:"workload"`
	CRIU      criu.Tool        `json:"criu"`           // the zero value means [criu.Find]
	Lazy      bool             `json:"lazy,omitempty"` // the restore may be lazy: what fills the memory is started as well
	Network   *NetworkSpec     `json:"network,omitempty"`
}

// RestoreSpec is one restore.
type RestoreSpec struct {
	Name      string           `json:"name"`
	Migration migrate.ID       `json:"migration"`
	Workload  migrate.Workload `json:"workload"` // at the freeze
	CRIU      criu.Tool        `json:"criu"`     // as in [PrepareSpec], for a restore that was not prepared or is tried again
	ImagesDir string           `json:"images-dir"`
	WorkDir   string           `json:"work-dir"` // for CRIU's log; default ImagesDir
	// Lazy lets the workload run before its memory is there: what LazyMap lists
	// is filled in while it runs, faults first. [Status].Fill tells how far it is.
	Lazy    bool   `json:"lazy,omitempty"`
	LazyMap string `json:"lazy-map,omitempty"` // path of the map (internal/lazymap); needed if Lazy
	// Options have their defaults. The cgroup mode, clock and TCP policies, file
	// locks and ghost limit matter here.
	Options migrate.Options `json:"options"`
	Clock   ClockSpec       `json:"clock"`
	Network *NetworkSpec    `json:"network,omitempty"` // as in [PrepareSpec], at the freeze
}

// ClockSpec is what the clocks of a restored tree are computed from.
type ClockSpec struct {
	Difference clock.Difference     `json:"difference"` // between the source's clocks and ours
	FrozenAt   migrate.ClockReading `json:"frozen-at"`  // of the source's clocks
	HasTimens  bool                 `json:"has-timens"` // the images hold clocks
}

// Hold describes a restored tree that waits for its verdict.
type Hold struct {
	PID   int                  `json:"pid"`   // of the root, in the host's PID namespace
	At    migrate.ClockReading `json:"at"`    // of this host, when the tree was complete
	Clock migrate.Clock        `json:"clock"` // what the tree's clocks will show
}

// Resumed describes a tree that was let run.
type Resumed struct {
	PID       int                  `json:"pid"`        // as in [Hold]
	ResumedAt migrate.ClockReading `json:"resumed-at"` // of this host, when CRIU was about to let the tasks go
	Clock     migrate.Clock        `json:"clock"`
}

// Fill is how far the memory of a lazily restored workload is filled in. The
// memory of children that it starts meanwhile counts as well.
type Fill struct {
	Total    uint64 `json:"total"`    // bytes
	Done     uint64 `json:"done"`     // bytes
	Complete bool   `json:"complete"` // the workload is like any other from now on
	// Failure says that filling ended before it was complete. The workload was
	// killed then, because it cannot run without its memory.
	Failure *migrate.Failure `json:"failure,omitempty"`
}

// Exit is how a workload ended.
type Exit struct {
	Code   int       `json:"code"`             // exit status; 128 plus Signal for a signal
	Signal int       `json:"signal,omitempty"` // that ended it
	Time   time.Time `json:"time"`
	Moved  bool      `json:"moved,omitempty"` // it was not an end: a peer has it
}

// Size is the size of a terminal in characters.
type Size struct {
	Rows    uint16 `json:"rows"`
	Columns uint16 `json:"columns"`
}
