package workload

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"migrate"
)

// Workload describes the tree to the target.
func (f Facts) Workload() migrate.Workload {
	root := f.Root()
	ref := Ref{Kind: Process, ID: fmt.Sprint(root.PID)}
	w := migrate.Workload{
		Kind:        string(ref.Kind),
		Name:        ref.Name(),
		ID:          ref.ID,
		Command:     f.Command,
		Dir:         f.Dir,
		RootPID:     root.VPID(),
		OwnPIDs:     f.ownPIDs(),
		OwnNet:      f.own("net"),
		OwnTime:     f.own("time"),
		MonoOffset:  f.Mono,
		BootOffset:  f.Boot,
		MemoryBytes: f.memory(),
		Files:       f.files(),
		Pipes:       f.pipes(),
		Terminals:   f.terminals(),
		Connections: f.connections(),
		ShellJob:    root.Session != root.PID,
	}
	if !w.OwnNet {
		w.Listeners = f.listeners()
	}
	for _, t := range f.Tasks {
		w.Tasks = append(w.Tasks, t.task())
	}
	return w
}

func (t TaskFacts) task() migrate.Task {
	return migrate.Task{
		PID:     t.PID,
		VPID:    t.VPID(),
		Parent:  t.Parent,
		Session: last(t.Status.Sessions),
		Group:   last(t.Status.Groups),
		Threads: t.Threads,
		Comm:    t.Comm,
	}
}

// memory adds what the tasks have in memory and what is in memory files that
// none of them has mapped, which a dump holds as well.
func (f Facts) memory() uint64 {
	var sum uint64
	seen := map[uint64]bool{}
	for _, t := range f.Tasks {
		sum += t.Memory
		for _, m := range t.Maps {
			seen[m.Inode] = true
		}
	}
	for _, t := range f.Tasks {
		for _, fd := range t.FDs {
			if strings.HasPrefix(fd.Path, "/memfd:") && !seen[fd.Inode] {
				seen[fd.Inode] = true
				sum += uint64(fd.Blocks) * 512
			}
		}
	}
	return sum
}

// shipped reports whether a restore opens the file by its path: whether it has one,
// and is something that the target does not make by itself.
func (m FileFacts) shipped() bool {
	switch m.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFIFO:
		return strings.HasPrefix(m.Path, "/") && m.Links > 0 && !m.Pseudo && m.Named
	}
	return false
}

// files returns what the tree has open or mapped, sorted by path.
func (f Facts) files() []migrate.File {
	byPath := map[string]migrate.File{}
	add := func(m FileFacts, mapped, written bool) {
		if !m.shipped() {
			return
		}
		e := byPath[m.Path]
		e.Path, e.Mode = m.Path, m.Mode
		if m.Mode&unix.S_IFMT == unix.S_IFREG {
			e.Size = max(e.Size, m.Size)
		}
		e.BuildID = cmp.Or(e.BuildID, m.BuildID)
		e.Mapped = e.Mapped || mapped
		e.Written = e.Written || written
		byPath[m.Path] = e
	}
	for _, t := range f.Tasks {
		for _, fd := range t.FDs {
			add(fd.FileFacts, false, fd.Flags&unix.O_ACCMODE != unix.O_RDONLY)
		}
		for _, m := range t.Maps {
			add(m.FileFacts, true, m.Write)
		}
	}
	var list []migrate.File
	for _, e := range byPath {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b migrate.File) int { return cmp.Compare(a.Path, b.Path) })
	return list
}

// pipes returns the pipes of which the tree holds only one end. A named pipe is
// not among them: a restore opens it by its path.
func (f Facts) pipes() []migrate.Pipe {
	type ends struct {
		read, write bool
		lowest      int
	}
	pipes := map[uint64]*ends{}
	for _, t := range f.Tasks {
		for _, fd := range t.FDs {
			if !strings.HasPrefix(fd.Path, "pipe:[") {
				continue
			}
			e := pipes[fd.Inode]
			if e == nil {
				e = &ends{lowest: fd.Number}
				pipes[fd.Inode] = e
			}
			e.lowest = min(e.lowest, fd.Number)
			e.read = e.read || fd.Flags&unix.O_ACCMODE != unix.O_WRONLY
			e.write = e.write || fd.Flags&unix.O_ACCMODE != unix.O_RDONLY
		}
	}
	var list []migrate.Pipe
	for inode, e := range pipes {
		if e.read != e.write {
			list = append(list, migrate.Pipe{Inode: inode, Write: e.write, Stream: stream(e.lowest)})
		}
	}
	slices.SortFunc(list, func(a, b migrate.Pipe) int { return cmp.Compare(a.Inode, b.Inode) })
	return list
}

func stream(fd int) string {
	switch fd {
	case 0:
		return "stdin"
	case 1:
		return "stdout"
	case 2:
		return "stderr"
	}
	return fmt.Sprintf("fd%d", fd)
}

// ptySlave returns the number of a pseudo-terminal slave by its device number
// (majors 136 to 143, Documentation/admin-guide/devices.txt).
func ptySlave(rdev uint64) (int, bool) {
	major := int(unix.Major(rdev))
	if major < 136 || major > 143 {
		return 0, false
	}
	return (major-136)<<20 | int(unix.Minor(rdev)), true
}

// terminals returns the pseudo-terminals whose master is outside the tree.
func (f Facts) terminals() []migrate.Terminal {
	masters := map[int]bool{}
	control := map[uint64]bool{}
	for _, t := range f.Tasks {
		control[ttyDevice(t.TTY)] = true
		for _, fd := range t.FDs {
			if fd.Slave >= 0 {
				masters[fd.Slave] = true
			}
		}
	}
	var list []migrate.Terminal
	seen := map[uint64]bool{}
	for _, t := range f.Tasks {
		for _, fd := range t.FDs {
			n, slave := ptySlave(fd.Rdev)
			if !fd.isChar() || !slave || masters[n] || seen[fd.Rdev] {
				continue
			}
			seen[fd.Rdev] = true
			size := f.Terminals[fd.Rdev]
			list = append(list, migrate.Terminal{
				Rdev: fd.Rdev, Dev: fd.Dev, Path: fd.Path,
				Rows: size.Rows, Columns: size.Columns, Control: control[fd.Rdev],
			})
		}
	}
	return list
}

func (m FileFacts) isChar() bool { return m.Mode&unix.S_IFMT == unix.S_IFCHR }

func (m FileFacts) isDevice() bool { return m.isChar() || m.Mode&unix.S_IFMT == unix.S_IFBLK }

// ttyDevice converts tty_nr of proc_pid_stat(5) to a device number.
func ttyDevice(nr uint32) uint64 {
	return unix.Mkdev(nr>>8&0xfff, nr&0xff|nr>>12&0xfff00)
}

// states of include/net/tcp_states.h.
const (
	tcpClose  = 7
	tcpListen = 10
)

// listeners returns the addresses that a restore binds, sorted: TCP that
// listens, and UDP.
func (f Facts) listeners() []string {
	return f.inet(func(s Inet) (string, bool) {
		return s.Proto + " " + s.Local, s.Proto == "udp" || s.State == tcpListen
	})
}

// connections returns TCP connections in any state that has a peer, sorted.
func (f Facts) connections() []string {
	return f.inet(func(s Inet) (string, bool) {
		return s.Local + " " + s.Remote, s.Proto == "tcp" && s.State != tcpListen && s.State != tcpClose
	})
}

func (f Facts) inet(choose func(Inet) (string, bool)) []string {
	var list []string
	for inode := range f.sockets() {
		if s, ok := f.Inet[inode]; ok {
			if text, ok := choose(s); ok {
				list = append(list, text)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// sockets returns the inodes of all sockets of the tree, each with one holder.
func (f Facts) sockets() map[uint64]TaskFacts {
	holders := map[uint64]TaskFacts{}
	for _, t := range f.Tasks {
		for _, fd := range t.FDs {
			if _, seen := holders[fd.Inode]; !seen && fd.Mode&unix.S_IFMT == unix.S_IFSOCK {
				holders[fd.Inode] = t
			}
		}
	}
	return holders
}
