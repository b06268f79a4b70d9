package workload

import "migrate/workload/proc"

// Facts is a snapshot of what the kernel says about a process tree. Everything
// that [Inspect] concludes, it concludes from this, by [Facts.Workload] and
// [Facts.Blockers].
type Facts struct {
	Caller    int             // PID of who asks
	Ours      proc.Namespaces // of who asks, which are those of a CRIU that it starts
	Us        proc.Status     // likewise
	Tasks     []TaskFacts     // the tree, root first, parents before children
	Joined    []proc.Process  // in the root's own PID namespace, but not of the tree
	Inet      map[uint64]Inet // by inode, of the root's network namespace
	Unix      map[uint64]Unix // likewise
	Command   []string
	Dir       string // working directory of the root
	Mono      int64  // by how much the root's clocks are ahead of ours, by its time namespace, nanoseconds
	Boot      int64
	Terminals map[uint64]Size // of pseudo-terminal slaves, by device number
	Container bool            // the root is the first process of a container, which has mounts of its own
	Mounts    map[int]bool    // by their numbers, those that a container has; nil if that is not known
}

// TaskFacts is one process of the tree. A zombie has only what [proc.Process]
// and [proc.Status] say.
type TaskFacts struct {
	proc.Process
	Status     proc.Status
	Threads    []int // in the innermost PID namespace, the leader first
	Namespaces proc.Namespaces
	FDs        []FD
	Maps       []Mapping
	Memory     uint64 // bytes, see readMemory
	Tracer     string // the process that traces one of its threads, for people; "" if none
	Stuck      bool   // a thread stayed in uninterruptible sleep
}

// FileFacts is what a descriptor or a mapping refers to.
type FileFacts struct {
	Path    string // as the kernel prints it: an absolute path, "pipe:[1]", "anon_inode:[eventfd]" …
	Dev     uint64
	Rdev    uint64
	Inode   uint64
	Mode    uint32 // st_mode
	Size    int64
	Links   uint64 // st_nlink
	Blocks  int64  // of 512 bytes
	Pseudo  bool   // on a filesystem that the kernel makes up, such as proc
	Named   bool   // Path leads to this very file
	BuildID string // of a mapped ELF file
}

// FD is a descriptor, or what a process refers to in the same way.
type FD struct {
	FileFacts
	Number int    // workingDir for the working directory
	Flags  int    // open(2)
	Proto  string // of a socket, as the kernel names it: "TCP", "UNIX-STREAM" …
	Slave  int    // of a pseudo-terminal master: the number of its slave; else -1
	PidFD  int    // of a pidfd: the process, -1 if that has ended; else 0
	Mount  int    // number of the mount that it was opened through
}

// workingDir is the Number of a process's working directory.
const workingDir = -1

// Mapping is a mapped file or special area of memory.
type Mapping struct {
	FileFacts
	Start uint64
	Write bool // shared and writable: the file changes with it
}

// Size is the size of a terminal.
type Size struct{ Rows, Columns uint16 }

// Inet is a TCP or UDP socket.
type Inet struct {
	Proto  string // "tcp" or "udp", for both versions of IP
	Local  string // host:port
	Remote string
	State  int // as in include/net/tcp_states.h
}

// Unix is a socket of the local domain.
type Unix struct {
	Type int    // SOCK_STREAM …
	Path string // "@name" if abstract
	Peer uint64 // inode of the other end, 0 if not connected
}

// Root returns the first process of the tree.
func (f Facts) Root() TaskFacts { return f.Tasks[0] }

// has reports whether the process pid is of the tree.
func (f Facts) has(pid int) bool {
	for _, t := range f.Tasks {
		if t.PID == pid {
			return true
		}
	}
	return false
}

// VPID returns the number of the process in its innermost PID namespace.
func (t TaskFacts) VPID() int { return last(t.Status.PIDs) }

func last(list []int) int {
	if len(list) == 0 {
		return 0
	}
	return list[len(list)-1]
}

// ownPIDs reports whether the tree's root is the init of a PID namespace below
// ours.
func (f Facts) ownPIDs() bool {
	r := f.Root()
	return len(r.Status.PIDs) > 1 && r.VPID() == 1
}

// own reports whether the root is in another namespace of that kind than we are.
func (f Facts) own(kind string) bool {
	ns := f.Root().Namespaces
	return ns != nil && ns[kind] != f.Ours[kind]
}
