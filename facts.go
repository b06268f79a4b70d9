package migrate

import (
	"fmt"
	"time"
)

// Host is what one host tells the other about itself in preflight.
type Host struct {
	Name             string `json:"name"`
	Version          string `json:"version"`           // of migrate
	Kernel           string `json:"kernel"`            // uname -r
	Arch             string `json:"arch"`              // GOARCH
	CRIU             string `json:"criu"`              // such as "4.2.1"
	CRIUNumber       int    `json:"criu-number"`       // major*10000 + minor*100 + sublevel
	TimeNamespaces   bool   `json:"time-namespaces"`   // probed, not guessed from the kernel version
	Cgroup           string `json:"cgroup"`            // "v1", "v2" or "hybrid"
	SoftDirty        bool   `json:"soft-dirty"`        // CRIU's own answer to mem_track
	UffdWP           bool   `json:"uffd-wp"`           // probed: write protection without a fault handler, and PAGEMAP_SCAN
	LazyPages        bool   `json:"lazy-pages"`        // CRIU's own answer to lazy_pages
	MemoryAvailable  uint64 `json:"memory-available"`  // bytes, MemAvailable
	StoreAvailable   uint64 `json:"store-available"`   // bytes free where received pages are kept; 0 on a source
	MonotonicNow     int64  `json:"monotonic-now-ns"`  // CLOCK_MONOTONIC of the initial namespace the agent is in
	BoottimeNow      int64  `json:"boottime-now-ns"`   // CLOCK_BOOTTIME, likewise
	RestoreSupported bool   `json:"restore-supported"` // false on a host that only sends
}

// Workload is what the source tells the target about the process tree.
type Workload struct {
	Kind        string     `json:"kind"` // "process", "capsule", "runc" or "crun"
	Name        string     `json:"name"` // unique on a host: the capsule's name, "process-PID", or the runtime and the container's ID
	ID          string     `json:"id"`   // as in KIND:ID
	Command     []string   `json:"command"`
	Dir         string     `json:"dir,omitempty"`  // working directory given to "migrate run"
	RootPID     int        `json:"root-pid"`       // in the workload's own PID namespace
	OwnPIDs     bool       `json:"own-pids"`       // the root is init of its own PID namespace
	OwnNet      bool       `json:"own-net"`        // the root has a network namespace of its own
	OwnTime     bool       `json:"own-time"`       // the tree lives in a time namespace of its own
	MonoOffset  int64      `json:"mono-offset-ns"` // of that namespace; 0 without one
	BootOffset  int64      `json:"boot-offset-ns"`
	Tasks       []Task     `json:"tasks"`
	MemoryBytes uint64     `json:"memory-bytes"` // resident, private and shared pages that a dump holds
	Files       []File     `json:"files,omitempty"`
	Pipes       []Pipe     `json:"pipes,omitempty"`
	Terminals   []Terminal `json:"terminals,omitempty"`
	Listeners   []string   `json:"listeners,omitempty"`   // "tcp 0.0.0.0:80", of the host's network namespace
	Connections []string   `json:"connections,omitempty"` // established TCP, "local remote"
	ShellJob    bool       `json:"shell-job"`             // the root's session leader is outside the tree
	Init        string     `json:"init,omitempty"`        // path of the tiny init in front of the program, if any
	LogLimit    int64      `json:"log-limit,omitempty"`   // bytes a log file may grow to before it is rotated; 0 is no limit

	Labels    map[string]string `json:"labels,omitempty"`    // that go with the workload
	Container *Container        `json:"container,omitempty"` // if it is one
}

// Task is one process of the tree, with its threads.
type Task struct {
	PID     int    `json:"pid"`     // in the host's PID namespace
	VPID    int    `json:"vpid"`    // in the workload's own
	Parent  int    `json:"parent"`  // in the host's PID namespace
	Session int    `json:"session"` // as seen in the workload's PID namespace
	Group   int    `json:"group"`
	Threads []int  `json:"threads"` // in the workload's PID namespace, the leader included
	Comm    string `json:"comm"`
}

// File is a regular file that the tree has open or mapped, a directory or a
// named pipe that it has open, or a working directory: what a restore opens by
// path and must find equal.
type File struct {
	Path    string `json:"path"`
	Size    int64  `json:"size"`               // of a regular file, else 0
	Mode    uint32 `json:"mode"`               // st_mode, the type included
	BuildID string `json:"build-id,omitempty"` // of a mapped ELF file, hexadecimal
	Mapped  bool   `json:"mapped,omitempty"`
	Written bool   `json:"written,omitempty"` // open for writing: size may change until the freeze
}

// Pipe is one end of a pipe (or FIFO) whose other end is outside the tree.
type Pipe struct {
	Inode  uint64 `json:"inode"`
	Write  bool   `json:"write"`  // the workload holds the write end
	Stream string `json:"stream"` // "stdin", "stdout", "stderr" or "fdN": the lowest descriptor that refers to it
}

// Terminal is a pseudo-terminal slave whose master is outside the tree.
type Terminal struct {
	Rdev    uint64 `json:"rdev"`
	Dev     uint64 `json:"dev"`
	Path    string `json:"path"`
	Rows    uint16 `json:"rows"`
	Columns uint16 `json:"columns"`
	Control bool   `json:"control"` // some task of the tree has it as its controlling terminal
}

// Finding is one thing that preflight has to say.
type Finding struct {
	Code   string `json:"code"`             // stable word, such as "pid-taken"
	What   string `json:"what"`             // one line: what is in the way
	Advice string `json:"advice,omitempty"` // one line: what to do about it
}

// String returns the finding on one line.
func (f Finding) String() string {
	if f.Advice == "" {
		return f.What
	}
	return fmt.Sprintf("%s (%s)", f.What, f.Advice)
}

// Check is the answer of preflight: every blocker and every warning at once.
type Check struct {
	Source   Host      `json:"source"`
	Target   Host      `json:"target"`
	Files    []Tree    `json:"files,omitempty"` // that the workload uses, and what would be done about each
	Blockers []Finding `json:"blockers"`
	Warnings []Finding `json:"warnings"`
}

// ClockReading is a pair of clock values read in one place at one time.
type ClockReading struct {
	Monotonic time.Duration `json:"monotonic-ns"`
	Boottime  time.Duration `json:"boottime-ns"`
}
