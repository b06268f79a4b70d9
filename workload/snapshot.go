package workload

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"migrate/workload/proc"
)

// Snapshot reads the facts about the tree whose first process is root. Processes
// that end meanwhile are left out; if root is not there, or ends, the error
// matches syscall.ESRCH.
//
// It may take some seconds for a tree with a thread in uninterruptible sleep, to
// tell one that is stuck from one that reads a disk, or waits for a child of
// vfork(2) whose program comes from a slow one.
func Snapshot(ctx context.Context, root int) (Facts, error) {
	f, err := snapshot(root)
	if err != nil {
		return f, err
	}
	return f, f.markStuck(ctx)
}

// snapshot is Snapshot as things are at this moment.
func snapshot(root int) (Facts, error) {
	f := Facts{Caller: os.Getpid(), Terminals: map[uint64]Size{}}
	all, err := proc.All()
	if err != nil {
		return f, err
	}
	if f.Ours, err = proc.ReadNamespaces(f.Caller); err != nil {
		return f, err
	}
	if f.Us, err = proc.ReadStatus(f.Caller, f.Caller); err != nil {
		return f, err
	}
	tree := proc.Tree(all, root)
	if len(tree) > 0 && system(tree[0]) {
		f.Tasks = []TaskFacts{{Process: tree[0]}}
		return f, nil
	}
	for _, p := range tree {
		t, err := readTask(p)
		if proc.Gone(err) {
			continue
		}
		if err != nil {
			return f, fmt.Errorf("process %d (%s): %w", p.PID, p.Comm, err)
		}
		f.Tasks = append(f.Tasks, t)
	}
	if len(f.Tasks) == 0 || f.Root().PID != root {
		return f, syscall.ESRCH
	}
	f.readRoot(all)
	if f.ownPIDs() {
		f.Joined = joined(f, all)
	}
	return f, nil
}

// system reports whether a process is the host's own. Nothing more is asked about
// it: its tree is the whole host.
func system(p proc.Process) bool { return p.PID == 1 || p.Kernel }

func readTask(p proc.Process) (TaskFacts, error) {
	t := TaskFacts{Process: p}
	var err error
	if t.Status, err = proc.ReadStatus(p.PID, p.PID); err != nil {
		return t, err
	}
	if p.State == 'Z' {
		return t, nil
	}
	if t.Namespaces, err = proc.ReadNamespaces(p.PID); err != nil {
		return t, err
	}
	if err := t.readThreads(); err != nil {
		return t, err
	}
	if t.FDs, err = readFDs(p.PID); err != nil {
		return t, err
	}
	if t.Maps, err = readMaps(p.PID); err != nil {
		return t, err
	}
	t.Memory, err = readMemory(p.PID)
	return t, err
}

func (t *TaskFacts) readThreads() error {
	tids, err := proc.Threads(t.PID)
	if err != nil {
		return err
	}
	for _, tid := range tids {
		s, err := proc.ReadStatus(t.PID, tid)
		if proc.Gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		t.Threads = append(t.Threads, last(s.PIDs))
		if s.Tracer != 0 && t.Tracer == "" {
			t.Tracer = describe(s.Tracer)
		}
	}
	return nil
}

// describe names a process for people.
func describe(pid int) string {
	p, err := proc.Read(pid)
	if err != nil {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("process %d (%s)", pid, p.Comm)
}

// readRoot reads what is only known of the tree as a whole. What cannot be
// read is left unknown: a kernel without an interface is no reason to refuse.
func (f *Facts) readRoot(all []proc.Process) {
	pid := f.Root().PID
	dir := fmt.Sprintf("/proc/%d", pid)
	if b, err := os.ReadFile(dir + "/cmdline"); err == nil && len(b) > 0 {
		f.Command = strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	}
	f.Dir, _ = os.Readlink(dir + "/cwd")
	if f.own("time") {
		theirs, _ := os.ReadFile(dir + "/timens_offsets")
		ours, _ := os.ReadFile("/proc/self/timens_offsets")
		f.Mono, f.Boot = betweenOffsets(string(theirs), string(ours))
	}
	f.Inet = readInet(dir + "/net")
	f.Unix, _ = readUnix(pid)
	for _, t := range f.Tasks {
		for _, fd := range t.FDs {
			if _, slave := ptySlave(fd.Rdev); slave && fd.isChar() {
				f.Terminals[fd.Rdev] = windowSize(fmt.Sprintf("/proc/%d/fd/%d", t.PID, fd.Number))
			}
		}
	}
}

// betweenOffsets returns by how much their clocks are ahead of ours: the kernel
// tells both from the initial namespace, in which we need not be.
func betweenOffsets(theirs, ours string) (mono, boot int64) {
	mono, boot = parseOffsets(theirs)
	ourMono, ourBoot := parseOffsets(ours)
	return mono - ourMono, boot - ourBoot
}

// parseOffsets reads lines "CLOCK SECONDS NANOSECONDS" (time_namespaces(7)).
// Old kernels print the clock's number instead of its name.
func parseOffsets(text string) (mono, boot int64) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		sec, err1 := strconv.ParseInt(f[1], 10, 64)
		nsec, err2 := strconv.ParseInt(f[2], 10, 64)
		if err1 != nil || err2 != nil {
			continue
		}
		switch f[0] {
		case "monotonic", "1":
			mono = sec*int64(time.Second) + nsec
		case "boottime", "7":
			boot = sec*int64(time.Second) + nsec
		}
	}
	return mono, boot
}

// windowSize opens a slave anew, which does not make it anyone's controlling
// terminal and is not seen by its master.
func windowSize(path string) Size {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return Size{}
	}
	defer unix.Close(fd)
	ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
	if err != nil {
		return Size{}
	}
	return Size{Rows: ws.Row, Columns: ws.Col}
}

// joined returns the processes that are in the PID namespace of the tree's
// root without being of the tree: whatever entered it from outside.
func joined(f Facts, all []proc.Process) []proc.Process {
	var list []proc.Process
	for _, p := range all {
		if f.has(p.PID) || p.State == 'Z' {
			continue
		}
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", p.PID))
		if ino, ok := proc.Inode(link); err == nil && ok && ino == f.Root().Namespaces["pid"] {
			list = append(list, p)
		}
	}
	// A fork while we looked may have put a child of the tree on the list.
	if tree, err := proc.Descendants(f.Root().PID); err == nil {
		list = slices.DeleteFunc(list, func(p proc.Process) bool {
			return slices.ContainsFunc(tree, func(t proc.Process) bool { return t.PID == p.PID })
		})
	}
	return list
}

// A task that sleeps so for longer will not be stopped in time for a dump.
const (
	stuckLooks = 120
	stuckWait  = 25 * time.Millisecond
)

// markStuck looks several times at processes of which a thread is in
// uninterruptible sleep.
func (f *Facts) markStuck(ctx context.Context) error {
	for i := range f.Tasks {
		t := &f.Tasks[i]
		for look := 0; len(t.Threads) > 0 && asleep(t.PID); look++ {
			if look == stuckLooks {
				t.Stuck = true
				break
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(stuckWait):
			}
		}
	}
	return nil
}

func asleep(pid int) bool {
	tids, _ := proc.Threads(pid)
	return slices.ContainsFunc(tids, func(tid int) bool {
		p, err := proc.Thread(pid, tid)
		return err == nil && p.State == 'D'
	})
}
