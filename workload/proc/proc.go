// Package proc reads what proc(5) says about processes and their descendants.
//
// A process may end at any moment. Functions about one process then return an
// error for which [Gone] is true; functions about many leave it out.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one line of /proc/PID/stat. Numbers of other processes are in the
// PID namespace of the mounted /proc; a parent, group or session outside of it
// is 0.
type Process struct {
	PID     int
	Comm    string
	State   byte // 'R', 'S', 'D', 'T', 't', 'Z', 'I' …
	Parent  int
	Group   int
	Session int
	TTY     uint32 // device number of the controlling terminal, 0 without one
	Kernel  bool   // a kernel thread
	Start   uint64 // clock ticks after boot: with PID, it names a process for good
}

// kernelThread is PF_KTHREAD of include/linux/sched.h.
const kernelThread = 0x00200000

// Gone reports whether err says that the process or thread has ended.
func Gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

// Read returns the process pid.
func Read(pid int) (Process, error) {
	return readStat(fmt.Sprintf("/proc/%d/stat", pid))
}

// userHz is the unit of times in proc(5), on all architectures that Go runs on.
const userHz = 100

// CPUTime returns the processor time that a process has used, all its threads
// together.
func CPUTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	rest := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(rest) < 13 {
		return 0, fmt.Errorf("malformed: %.80q", b)
	}
	user, err1 := strconv.ParseUint(rest[11], 10, 63)
	system, err2 := strconv.ParseUint(rest[12], 10, 63)
	return time.Duration(user+system) * (time.Second / userHz), errors.Join(err1, err2)
}

// Age returns how long ago the process began, by CLOCK_BOOTTIME of the reader's
// time namespace.
func (p Process) Age(boottime time.Duration) time.Duration {
	return boottime - time.Duration(p.Start)*(time.Second/userHz)
}

// Thread returns one thread of a process. Its PID is the thread's number.
func Thread(pid, tid int) (Process, error) {
	return readStat(fmt.Sprintf("/proc/%d/task/%d/stat", pid, tid))
}

func readStat(path string) (Process, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Process{}, err
	}
	p, err := parseStat(b)
	if err != nil {
		return Process{}, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// parseStat finds the name by its last parenthesis: it may hold any byte.
func parseStat(b []byte) (Process, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return Process{}, fmt.Errorf("malformed: %.80q", b)
	}
	rest := strings.Fields(string(b[end+1:]))
	if len(rest) < 20 || len(rest[0]) != 1 {
		return Process{}, fmt.Errorf("malformed: %.80q", b)
	}
	var err error
	num := func(s string) int64 {
		n, e := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		err = errors.Join(err, e)
		return n
	}
	p := Process{
		PID:     int(num(string(b[:open]))),
		Comm:    string(b[open+1 : end]),
		State:   rest[0][0],
		Parent:  int(num(rest[1])),
		Group:   int(num(rest[2])),
		Session: int(num(rest[3])),
		TTY:     uint32(num(rest[4])),
		Kernel:  num(rest[6])&kernelThread != 0,
		Start:   uint64(num(rest[19])),
	}
	return p, err
}

// All returns every process.
func All() ([]Process, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		p, err := Read(pid)
		if Gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// Tree returns the process root of all and its descendants, every parent
// before its children, or nil if root is not there. It goes by parents and not by
// /proc/PID/task/TID/children, which needs CONFIG_PROC_CHILDREN and may leave
// out children of tasks that are not frozen (proc(5)).
func Tree(all []Process, root int) []Process {
	children := map[int][]Process{}
	var tree []Process
	for _, p := range all {
		children[p.Parent] = append(children[p.Parent], p)
		if p.PID == root {
			tree = []Process{p}
		}
	}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i].PID]...)
	}
	return tree
}

// Descendants returns [Tree] of what runs now. A process that forks while it
// looks may have a child that is missing.
func Descendants(root int) ([]Process, error) {
	all, err := All()
	if err != nil {
		return nil, err
	}
	tree := Tree(all, root)
	if tree == nil {
		return nil, fmt.Errorf("process %d: %w", root, syscall.ESRCH)
	}
	return tree, nil
}

// Status is what /proc/PID/status says beyond [Process]. The lists run from the
// PID namespace of the mounted /proc to the innermost.
type Status struct {
	PIDs     []int  // NSpid
	Groups   []int  // NSpgid
	Sessions []int  // NSsid
	Tracer   int    // 0 if not traced
	UIDs     []int  // real, effective, saved, of the filesystem
	GIDs     []int  // likewise
	Caps     uint64 // effective capabilities
}

// ReadStatus returns the status of a thread; tid equals pid for the leader.
func ReadStatus(pid, tid int) (Status, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", pid, tid))
	if err != nil {
		return Status{}, err
	}
	return parseStatus(string(b))
}

func parseStatus(text string) (s Status, err error) {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "NSpid":
			s.PIDs, err = ints(value)
		case "NSpgid":
			s.Groups, err = ints(value)
		case "NSsid":
			s.Sessions, err = ints(value)
		case "TracerPid":
			s.Tracer, err = strconv.Atoi(strings.TrimSpace(value))
		case "Uid":
			s.UIDs, err = ints(value)
		case "Gid":
			s.GIDs, err = ints(value)
		case "CapEff":
			s.Caps, err = strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
		if err != nil {
			return s, fmt.Errorf("process status, %s: %w", key, err)
		}
	}
	if len(s.PIDs) == 0 || len(s.Groups) == 0 || len(s.Sessions) == 0 {
		return s, errors.New("process status: no NSpid, NSpgid or NSsid")
	}
	return s, nil
}

func ints(text string) ([]int, error) {
	var list []int
	for _, f := range strings.Fields(text) {
		n, err := strconv.Atoi(f)
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

// Threads returns the thread numbers of a process, the leader's included.
func Threads(pid int) ([]int, error) {
	dir, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	var tids []int
	for _, e := range dir {
		if tid, err := strconv.Atoi(e.Name()); err == nil {
			tids = append(tids, tid)
		}
	}
	return tids, nil
}

// sysVfork is vfork(2), which only amd64 has of the machines that we build for.
const sysVfork = 58

// Forking reports whether a task that does not run is in one of the system
// calls that make a child; with vfork(2), or clone(2) in that manner, it stays in
// there until the child starts a program. On a kernel that does not tell
// (CONFIG_HAVE_ARCH_TRACEHOOK) it is false.
func Forking(pid, tid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", pid, tid))
	if err != nil {
		return false
	}
	number, _, _ := strings.Cut(string(b), " ")
	switch n, err := strconv.Atoi(number); {
	case err != nil: // "running"
		return false
	case n == unix.SYS_CLONE, n == unix.SYS_CLONE3:
		return true
	default:
		return n == sysVfork && runtime.GOARCH == "amd64"
	}
}

// Namespaces are the inode numbers that identify a process's namespaces, by
// the names of /proc/PID/ns ("pid", "time_for_children" …). A kind that the
// kernel does not have is absent.
type Namespaces map[string]uint64

// ReadNamespaces returns the namespaces of a process. A zombie has none.
func ReadNamespaces(pid int) (Namespaces, error) {
	dir := fmt.Sprintf("/proc/%d/ns", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	ns := Namespaces{}
	for _, e := range entries {
		link, err := os.Readlink(dir + "/" + e.Name())
		if Gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if ino, ok := Inode(link); ok {
			ns[e.Name()] = ino
		}
	}
	return ns, nil
}

// Inode returns N of a link of the form "kind:[N]".
func Inode(link string) (uint64, bool) {
	_, rest, ok := strings.Cut(link, ":[")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 64)
	return n, err == nil
}
