package workload

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"migrate"
)

// Codes of what stands in the way on the source.
const (
	CodeHostInit      = "host-init"      // PID 1 or a kernel thread
	CodeInsideCaller  = "caller-inside"  // the tree holds the one who wants to move it
	CodeEnded         = "ended"          // the root is a zombie
	CodeTraced        = "traced"         // by a debugger
	CodeStuck         = "stuck"          // in uninterruptible sleep
	CodeJoined        = "joined"         // a process entered the PID namespace from outside
	CodePIDNamespace  = "pid-namespace"  // in a PID namespace without its init, or one in another
	CodeTimeNamespace = "time-namespace" // not all in one time namespace
	CodeMountNS       = "mount-namespace"
	CodeNamespace     = "namespace" // a task differs from the root in any other kind
	CodeIOUring       = "io-uring"
	CodeDevice        = "device"        // open or mapped device
	CodeDescriptor    = "descriptor"    // a kind that CRIU does not know
	CodeMapping       = "mapping"       // likewise
	CodePidFD         = "pidfd"         // of a process outside the tree, or of a thread
	CodeSocket        = "socket"        // a protocol that CRIU does not know
	CodeUnixPeer      = "unix-peer"     // connected to a process outside the tree
	CodeTCP           = "tcp-connected" // only in the way if TCP is to be refused
	CodeSysVShm       = "sysv-shm"
	CodeCapability    = "capability"    // this process may not dump it
	CodeTerminal      = "terminal"      // no pseudo-terminal
	CodeFileUnlinked  = "file-unlinked" // deleted under the name it was opened by, but not altogether
	CodeFileHidden    = "file-hidden"   // something else is now under its path
	CodeFileOutside   = "file-outside"  // a container has it open, and no mount that it is on
)

// Codes of what stands in the way on the target.
const (
	CodeNameTaken      = "name-taken"
	CodePIDTaken       = "pid-taken"
	CodePIDTooLarge    = "pid-too-large"
	CodeAddressTaken   = "address-in-use"
	CodeAddressMissing = "address-missing"
)

// Blockers returns everything in the tree that cannot be moved. A finding with
// [CodeTCP] stands for all connections, and is in the way only under the policy
// migrate.TCPRefuse.
func (f Facts) Blockers() []migrate.Finding {
	root := f.Root()
	if system(root.Process) {
		return []migrate.Finding{{Code: CodeHostInit, What: who(root) + " belongs to the system itself", Advice: "choose another process"}}
	}
	if root.State == 'Z' {
		return []migrate.Finding{{Code: CodeEnded, What: who(root) + " has ended and waits for its parent to notice", Advice: "there is nothing left to move"}}
	}
	list := slices.Concat(f.treeBlockers(), f.namespaceBlockers())
	for _, t := range f.Tasks {
		list = slices.Concat(list, t.stateBlockers(), f.descriptorBlockers(t), f.mappingBlockers(t))
	}
	list = append(list, f.socketBlockers()...)
	return unique(list)
}

// unique drops what was said before: a file that many have open is one thing.
func unique(list []migrate.Finding) []migrate.Finding {
	seen := map[migrate.Finding]bool{}
	return slices.DeleteFunc(list, func(f migrate.Finding) bool {
		was := seen[f]
		seen[f] = true
		return was
	})
}

func who(t TaskFacts) string { return fmt.Sprintf("process %d (%s)", t.PID, t.Comm) }

func (f Facts) treeBlockers() []migrate.Finding {
	var list []migrate.Finding
	if f.has(f.Caller) {
		list = append(list, migrate.Finding{
			Code:   CodeInsideCaller,
			What:   "the process tree to move has this command in it",
			Advice: "run migrate from outside of it, or move a process further down",
		})
	}
	for _, p := range f.Joined {
		list = append(list, migrate.Finding{
			Code:   CodeJoined,
			What:   fmt.Sprintf("process %d (%s) entered the workload from outside (migrate exec, nsenter) and still runs", p.PID, p.Comm),
			Advice: "end it, then move",
		})
	}
	if i := slices.IndexFunc(f.Tasks, f.limitsHidden); i >= 0 {
		list = append(list, migrate.Finding{
			Code:   CodeCapability,
			What:   who(f.Tasks[i]) + " runs as another user or group than migrate, which lacks CAP_SYS_RESOURCE: CRIU cannot read its limits",
			Advice: "run migrate with CAP_SYS_RESOURCE",
		})
	}
	return list
}

// limitsHidden follows check_prlimit_permission of Linux (kernel/sys.c). The
// owner of a user namespace has every capability in it.
func (f Facts) limitsHidden(t TaskFacts) bool {
	if f.Us.Caps&(1<<unix.CAP_SYS_RESOURCE) != 0 || t.Namespaces == nil || t.Namespaces["user"] != f.Ours["user"] {
		return false
	}
	differ := func(theirs, ours []int) bool {
		return len(ours) > 0 && slices.ContainsFunc(theirs[:min(3, len(theirs))], func(id int) bool { return id != ours[0] })
	}
	return differ(t.Status.UIDs, f.Us.UIDs) || differ(t.Status.GIDs, f.Us.GIDs)
}

func (t TaskFacts) stateBlockers() []migrate.Finding {
	var list []migrate.Finding
	if t.Tracer != "" {
		list = append(list, migrate.Finding{
			Code:   CodeTraced,
			What:   fmt.Sprintf("%s is traced by %s", who(t), t.Tracer),
			Advice: "detach the debugger or tracer",
		})
	}
	if t.Stuck {
		list = append(list, migrate.Finding{
			Code:   CodeStuck,
			What:   who(t) + " is in uninterruptible sleep (state D)",
			Advice: "it waits for a device, a network filesystem, or in a frozen cgroup: see /proc/PID/wchan, and move it once it goes on",
		})
	}
	return list
}

// namespaceBlockers follows generate_ns_id and dump_task_ns_ids of CRIU
// (namespaces.c), and is stricter where a dump would work that cannot be
// restored.
func (f Facts) namespaceBlockers() []migrate.Finding {
	var list []migrate.Finding
	root := f.Root()
	if !f.ownPIDs() && len(root.Status.PIDs) > 1 {
		list = append(list, migrate.Finding{
			Code:   CodePIDNamespace,
			What:   fmt.Sprintf("%s is number %d in a PID namespace whose init is not part of the tree", who(root), root.VPID()),
			Advice: "move the init of that namespace, with all that is in it",
		})
	}
	if f.own("mnt") && !f.Container {
		list = append(list, migrate.Finding{
			Code:   CodeMountNS,
			What:   who(root) + " has a mount namespace of its own",
			Advice: "if it is in a container, move that by its name, as runc:ID or crun:ID (\"migrate ps --all\" lists them)",
		})
	}
	for _, t := range f.Tasks {
		list = append(list, t.namespaceBlockers(root)...)
	}
	return list
}

var nsCodes = map[string]string{"pid": CodePIDNamespace, "time": CodeTimeNamespace}

func (t TaskFacts) namespaceBlockers(root TaskFacts) []migrate.Finding {
	if t.Namespaces == nil {
		return nil
	}
	var list []migrate.Finding
	for _, kind := range []string{"pid", "time", "mnt", "net", "uts", "ipc", "user", "cgroup"} {
		if t.Namespaces[kind] == root.Namespaces[kind] {
			continue
		}
		code, ok := nsCodes[kind]
		if !ok {
			code = CodeNamespace
		}
		list = append(list, migrate.Finding{
			Code:   code,
			What:   fmt.Sprintf("%s is in another %s namespace than the first process of the workload", who(t), kind),
			Advice: "end it, or start it inside the workload's namespaces",
		})
	}
	if t.Namespaces["time"] != t.Namespaces["time_for_children"] {
		list = append(list, migrate.Finding{
			Code:   CodeTimeNamespace,
			What:   who(t) + " has set another time namespace for its children than it is in",
			Advice: "let it fork after unshare(CLONE_NEWTIME), so that the workload is all in one time namespace",
		})
	}
	return list
}

func (f Facts) descriptorBlockers(t TaskFacts) []migrate.Finding {
	var list []migrate.Finding
	for _, fd := range t.FDs {
		if b, ok := f.descriptorBlocker(t, fd); ok {
			list = append(list, b)
		}
	}
	return list
}

// descriptorBlocker follows dump_one_file of CRIU (files.c).
func (f Facts) descriptorBlocker(t TaskFacts, fd FD) (migrate.Finding, bool) {
	name := fmt.Sprintf("descriptor %d of %s", fd.Number, who(t))
	if fd.Number == workingDir {
		name = "the working directory of " + who(t)
	}
	switch {
	case isPidFD(fd.Path):
		return f.pidfdBlocker(name, fd)
	case fd.Path == "anon_inode:[io_uring]":
		return ioUring(who(t)), true
	case strings.HasPrefix(fd.Path, "anon_inode:"):
		return blocker(CodeDescriptor, name+" is of a kind that cannot be moved: "+strings.TrimPrefix(fd.Path, "anon_inode:"),
			"end the use of it before the move"), !slices.Contains(anonymous, fd.Path)
	}
	switch fd.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return blocker(CodeDevice, fmt.Sprintf("%s is the block device %s", name, fd.Path), "close it before the move"), true
	case unix.S_IFCHR:
		return charBlocker(name, fd)
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFIFO:
		if f.outside(fd) {
			return blocker(CodeFileOutside, fmt.Sprintf("%s is %s, a file that the host has and the container has no mount of", name, fd.Path),
				"start the container with its input and output on pipes, a terminal, or /dev/null"), true
		}
		return pathBlocker(name, fd.FileFacts)
	}
	return migrate.Finding{}, false
}

// outside reports whether a container has fd open through a mount that it does
// not have: CRIU then knows no path for it ("Can't lookup mount", files-reg.c).
func (f Facts) outside(fd FD) bool {
	return f.Mounts != nil && fd.Mount != 0 && strings.HasPrefix(fd.Path, "/") && !f.Mounts[fd.Mount]
}

func blocker(code, what, advice string) migrate.Finding {
	return migrate.Finding{Code: code, What: what, Advice: advice}
}

func ioUring(who string) migrate.Finding {
	return blocker(CodeIOUring, who+" uses io_uring, whose rings live in the kernel and cannot be moved",
		"run the program with io_uring switched off, or set kernel.io_uring_disabled=2 before it starts")
}

// anonymous are the kinds that CRIU dumps. It knows BPF maps too, if it was
// built for that; what they count would be of another host.
var anonymous = []string{
	"anon_inode:[eventfd]", "anon_inode:[eventpoll]", "anon_inode:inotify",
	"anon_inode:[fanotify]", "anon_inode:[signalfd]", "anon_inode:[timerfd]",
}

// isPidFD knows the names before and since pidfs of Linux 6.9.
func isPidFD(path string) bool {
	return path == "anon_inode:[pidfd]" || strings.HasPrefix(path, "pidfd:")
}

// pidfdBlocker follows dump_one_pidfd of CRIU (pidfd.c). PIDFD_THREAD is O_EXCL.
func (f Facts) pidfdBlocker(name string, fd FD) (migrate.Finding, bool) {
	if fd.Flags&unix.O_EXCL != 0 {
		return blocker(CodePidFD, name+" refers to a single thread (PIDFD_THREAD)", "close it before the move"), true
	}
	if fd.PidFD == -1 || f.has(fd.PidFD) {
		return migrate.Finding{}, false
	}
	return blocker(CodePidFD, fmt.Sprintf("%s refers to process %d outside of the workload", name, fd.PidFD), "close it before the move"), true
}

// Major numbers of Documentation/admin-guide/devices.txt, and minors of 5 and 10.
const (
	majorMemory  = 1 // null, zero, full, random …
	majorTTYAux  = 5
	majorMisc    = 10
	minorTTY     = 0
	minorConsole = 1
	minorPtmx    = 2
	minorTun     = 200
	minorAutofs  = 235
)

// charBlocker follows dump_chrdev of CRIU (files.c). A terminal that is no
// pseudo-terminal would be the target's own, which is hardly meant.
func charBlocker(name string, fd FD) (migrate.Finding, bool) {
	major, minor := unix.Major(fd.Rdev), unix.Minor(fd.Rdev)
	if _, slave := ptySlave(fd.Rdev); slave {
		return migrate.Finding{}, false
	}
	switch {
	case major == majorMemory, major == majorMisc && (minor == minorTun || minor == minorAutofs):
		return migrate.Finding{}, false
	case major == majorTTYAux && (minor == minorTTY || minor == minorPtmx):
		return migrate.Finding{}, false
	case major == 4, major == majorTTYAux && minor == minorConsole, strings.HasPrefix(fd.Path, "/dev/tty"):
		return blocker(CodeTerminal, fmt.Sprintf("%s is the terminal %s of this host", name, fd.Path),
			"start the program with its input and output redirected, or in a pseudo-terminal"), true
	}
	return blocker(CodeDevice, fmt.Sprintf("%s is the device %s", name, fd.Path), "close it before the move"), true
}

const deletedSuffix = " (deleted)"

// pathBlocker finds files that a restore could not open by their path. A file
// that is deleted altogether is carried along and is none.
func pathBlocker(name string, m FileFacts) (migrate.Finding, bool) {
	if !strings.HasPrefix(m.Path, "/") || m.Pseudo || m.Named || m.Links == 0 {
		return migrate.Finding{}, false
	}
	if path, deleted := strings.CutSuffix(m.Path, deletedSuffix); deleted {
		// A directory that was removed keeps a link count on some filesystems.
		return blocker(CodeFileUnlinked, fmt.Sprintf("%s is %s, deleted there but kept under another name", name, path),
			"let the program open it again"), m.Mode&unix.S_IFMT != unix.S_IFDIR
	}
	return blocker(CodeFileHidden, fmt.Sprintf("%s is %s, but another file is there now", name, m.Path),
		"remove what is mounted or bound over it, or let the program open it again"), true
}

// mappingBlockers follows handle_vma of CRIU (proc_parse.c).
func (f Facts) mappingBlockers(t TaskFacts) []migrate.Finding {
	var list []migrate.Finding
	for _, m := range t.Maps {
		if b, ok := f.mappingBlocker(t, m); ok {
			list = append(list, b)
		}
	}
	return list
}

func (f Facts) mappingBlocker(t TaskFacts, m Mapping) (migrate.Finding, bool) {
	switch {
	case m.Path == "anon_inode:[io_uring]":
		return ioUring(who(t)), true
	case m.Path == "[uprobes]":
		return blocker(CodeTraced, who(t)+" has breakpoints of a tracer in it (uprobes)", "end the tracing: perf, bpftrace or the like"), true
	case strings.HasPrefix(m.Path, "anon_inode:"), strings.HasPrefix(m.Path, "/secretmem"):
		return blocker(CodeMapping, fmt.Sprintf("%s has memory mapped that cannot be moved: %s", who(t), m.Path),
			"end the use of it before the move"), true
	case strings.HasPrefix(m.Path, sysvPrefix):
		return blocker(CodeSysVShm, who(t)+" has System V shared memory of the host attached",
			"start it in an IPC namespace of its own, with \"unshare --ipc\", or let it use POSIX shared memory"), !f.own("ipc")
	case m.isDevice() && m.Rdev != unix.Mkdev(majorMemory, 5): // /dev/zero
		return blocker(CodeDevice, fmt.Sprintf("%s has the device %s mapped", who(t), m.Path), "close it before the move"), true
	case m.Mode&unix.S_IFMT == unix.S_IFREG:
		return pathBlocker("a mapped file of "+who(t), m.FileFacts)
	}
	return migrate.Finding{}, false
}

// protocols are those that CRIU dumps (can_dump_ipproto of sk-inet.c,
// dump_socket of sockets.c), as the kernel names them.
var protocols = []string{
	"TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "PING", "PINGv6", "RAW", "RAWv6",
	"UNIX", "UNIX-STREAM", "NETLINK", "PACKET",
}

func (f Facts) socketBlockers() []migrate.Finding {
	var list []migrate.Finding
	inside := f.sockets()
	for _, t := range f.Tasks {
		for _, fd := range t.FDs {
			if fd.Mode&unix.S_IFMT != unix.S_IFSOCK {
				continue
			}
			if b, ok := protocolBlocker(t, fd); ok {
				list = append(list, b)
			}
			peer := f.Unix[fd.Inode].Peer
			if _, ok := inside[peer]; peer != 0 && !ok {
				list = append(list, f.peerBlocker(t, peer))
			}
		}
	}
	if c := f.connections(); len(c) > 0 {
		list = append(list, blocker(CodeTCP, fmt.Sprintf("established TCP connections: %s", shorten(c)),
			"let them be closed by --tcp close, or wait until they are; with a network namespace of its own a workload can take them along, by --tcp established"))
	}
	return list
}

func protocolBlocker(t TaskFacts, fd FD) (migrate.Finding, bool) {
	name := fmt.Sprintf("descriptor %d of %s", fd.Number, who(t))
	switch {
	case fd.Proto == "", slices.Contains(protocols, fd.Proto):
		return migrate.Finding{}, false
	case strings.HasPrefix(fd.Proto, "MPTCP"):
		return blocker(CodeSocket, name+" is a multipath TCP socket",
			"start the program without multipath TCP; a Go program, with GODEBUG=multipathtcp=0"), true
	}
	return blocker(CodeSocket, fmt.Sprintf("%s is a socket that cannot be moved: %s", name, fd.Proto), "close it before the move"), true
}

func (f Facts) peerBlocker(t TaskFacts, peer uint64) migrate.Finding {
	to := "a process outside of the workload"
	if path := f.Unix[peer].Path; path != "" {
		to += " at " + path
	}
	return blocker(CodeUnixPeer, fmt.Sprintf("%s has a local connection to %s", who(t), to),
		"let it close that connection (to a logger, a bus, a database on this host …), or move both ends together")
}

// shorten lists the first few of many.
func shorten(list []string) string {
	const some = 3
	if len(list) <= some {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:some], ", "), len(list)-some)
}
