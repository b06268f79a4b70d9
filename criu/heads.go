package criu

import (
	"regexp"
	"sync"
)

// head is the beginning of an error of CRIU's and what it means. $1 and so on
// stand for groups of the pattern.
type head struct {
	pattern       func() *regexp.Regexp
	cause, advice string
}

func when(pattern, cause, advice string) head {
	return head{onNeed(pattern), cause, advice}
}

// onNeed compiles an expression when it is first asked for: most runs of the
// program need none, and all of them together take milliseconds.
func onNeed(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// Advice that more than one error shares.
const (
	adviceNotMovable = "end what uses it, or make the program close it, then move again; it cannot be migrated"
	adviceSync       = "make the file the same on both hosts, and leave it alone during the move"
	adviceWait       = "wait a moment and move again"
	adviceExternal   = "mounts from outside of the workload's root have to be declared as external mounts"
	adviceChain      = "the earlier dump that this one builds on is gone or damaged; start the move again"
	adviceTransport  = "the receiver of the memory ended or its connection broke; see its own error"
	adviceEager      = "restore all memory before the workload runs (--restore eager)"
	adviceCPU        = "move to a host whose CPU has the same features, or hide them on the source"
	adviceUring      = "turn io_uring off in the program; a ring cannot be migrated"
	adviceMapping    = "stop what uses it (GPU, perf, bpf, io_uring); it cannot be migrated"
	adviceBuild      = "install the same version of the program and its libraries on both hosts"
	adviceMissing    = "copy it to the same path on this host"
	advicePID        = "end that process, wait until it is gone, or move the workload as a capsule, which has its own PIDs"
	adviceDebugger   = "end gdb, strace or the like on it, then move again"
	adviceTerminal   = "start it with setsid, or with migrate run"
	adviceConnection = "close the connections, or say what to do with them (--tcp)"
)

// heads is tried in order; the first that matches wins. Every entry is an
// error of CRIU 3.17 to 4.2 (source files named where the text is).
var heads = slicesOf(tracking, connections, files, mappings, processes, namespaces, mounts, pages, machine)

func slicesOf(lists ...[]head) (all []head) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// config.c, mem.c
var tracking = []head{
	when(`Tracking memory is not available`, "this kernel does not track changed memory (CONFIG_MEM_SOFT_DIRTY is off)",
		"use another tracker (--tracker hash), or none"),
	when(`Dirty tracking is OFF`, "this kernel does not track changed memory (CONFIG_MEM_SOFT_DIRTY is off)",
		"use another tracker (--tracker hash), or none"),
	when(`Pid-reuse detection failed`, "the images of the round before are not there", adviceChain),
	when(`Invalid parent image directory provided`, "the images of the round before are not there", adviceChain),
}

// sk-inet.c, sk-unix.c, sk-netlink.c, libnetlink
var connections = []head{
	when(`Connected TCP socket, consider using`, "the workload has established TCP connections", adviceConnection),
	when(`Connected TCP socket in image`, "the images hold established TCP connections, and the restore was not told what to do with them", adviceConnection),
	when(`In-flight connections?`, "a listening socket of the workload has a connection that it has not accepted yet", "wait until it is accepted, then move again"),
	when(`Can't dump half of stream unix connection\.(.*)`, "a unix socket of the workload is connected to a process outside of it$1",
		"close that connection (a message bus, a log service, a container engine), or move both processes as one tree"),
	when(`External socket is used`, "a unix socket of the workload is connected to a process outside of it",
		"close that connection, then move again"),
	when(`Can't dump name-less external socket`, "a unix socket of the workload is connected to a process outside of it, and has no name",
		"close that connection, or move both processes as one tree"),
	when(`(?:Netlink: )?The socket has data to read`, "a netlink socket of the workload has data that was not read yet", adviceWait),
}

// files-reg.c, files-ext.c, fsnotify.c, file-lock.c, tty.c, pidfd.c, files.c
var files = []head{
	when(`Can't create link remap for (.+)\. Use`, "$1 was deleted under that name and has other names", "make the program close the file, then move again"),
	when(`Can't dump ghost file (.+) of (\d+) size, increase limit`, "the deleted file $1 of $2 bytes is still open and is larger than the limit",
		"raise the limit for deleted files (--ghost-limit), or make the program close it"),
	when(`Can't dump that handle|Can't find suitable path for handle`, "a file that the workload watches (inotify, fanotify) cannot be found by its handle",
		"stop watching files on overlay or tmpfs, then move again"),
	// Paths in these are relative to the root of the tree.
	when(`File /?(.+) has bad size (\d+) \(expect (\d+)\)`, "/$1 has $2 bytes here, and had $3 on the source", adviceSync),
	when(`File /?(.+) has bad mode (\d+) \(expect (\d+)\)`, "/$1 has mode $2 here, and had $3 on the source", adviceSync),
	when(`File /?(.+) has bad build-ID`, "/$1 is another build here than on the source", adviceBuild),
	when(`Can't open file /?(.+?)(?: on restore)?: No such file`, "/$1 is missing here", adviceMissing),
	when(`send_fds failed \(-22\)`, "the workload has a file descriptor that the kernel does not let anyone pass on, such as an io_uring ring", adviceUring),
	when(`Can't dump file (\d+) of that type \[\d*\] \((.*io_uring.*)\)`, "file descriptor $1 is an io_uring ring ($2)", adviceUring),
	when(`Can't dump file (\d+) of that type \[\d*\] \((.*userfaultfd.*)\)`, "file descriptor $1 is a userfaultfd ($2)", adviceNotMovable),
	when(`Can't dump file (\d+) of that type \[\d*\] \((.*perf_event.*)\)`, "file descriptor $1 is a performance counter ($2)", "stop the profiler, then move again"),
	when(`Can't dump file (\d+) of that type \[\d*\] \((.*nvidia.*|.*kfd.*|.*/dri/.*)\)`, "file descriptor $1 is a GPU ($2)", "a GPU needs a CRIU plugin that knows it; "+adviceNotMovable),
	when(`Can't dump file (\d+) of that type \[\d*\] \((.*)\)`, "file descriptor $1 is of a kind that cannot be saved ($2)", adviceNotMovable),
	when(`Some file locks are hold by dumping tasks`, "the workload holds file locks", "move with --file-locks"),
	when(`Found dangling tty with sid (\d+) pgid (\d+)(.*)`, "the workload uses a terminal of session $1, which is not part of it",
		adviceTerminal),
	when(`Found slave peer index (\d+) without correspond master peer`, "the workload uses a terminal whose other end is outside of it", adviceTerminal),
	when(`PIDFD_THREAD flag is currently not supported`, "the workload holds a pidfd of a single thread, which CRIU does not know", adviceNotMovable),
	when(`Can't lookup mount=(\d+) for fd=(-?\d+)(?: path=(.*))?`, "file descriptor $2 is open on a mount that the workload's mount namespace does not have ($3)",
		"make the program close it; it was inherited from outside of the namespace"),
}

// proc_parse.c, cr-dump.c
var mappings = []head{
	when(`Unknown shit \d+ \((.*)\)`, "the workload has memory mapped that belongs to a device or to io_uring ($1)", adviceMapping),
	when(`Can't open (\d+)'s mapfile link (\S+): No such device`, "process $1 has memory mapped that belongs to a device or to io_uring (at $2)", adviceMapping),
	when(`Unsupported mapping found ([0-9a-f]+-[0-9a-f]+)`, "the workload has memory mapped that belongs to a device or to io_uring (at $1)",
		adviceMapping),
	when(`Can't handle non-regular mapping on (\d+)`, "process $1 has memory mapped that belongs to a device or to io_uring",
		adviceMapping),
	when(`Sysv shmem ([0-9a-f]+) with (?:a |tail )?hole not supported`, "System V shared memory $1 is only partly mapped", adviceNotMovable),
	when(`Task (\d+) with SysVIPC shmem map .* doesn't live in IPC ns`, "process $1 uses System V shared memory of the host",
		"start the workload in an IPC namespace of its own"),
}

// seize.c, compel infect.c, pstree.c, cr-restore.c
var processes = []head{
	when(`Unseizable non-zombie (\d+) found, state D`, "process $1 sleeps in the kernel or its cgroup is frozen by somebody else",
		"thaw its cgroup, or wait until the disk or file server answers"),
	when(`(?i)(?:SEIZE (\d+): can't interrupt task|Unable to interrupt task: (\d+)).*Operation not permitted`,
		"process $1$2 is being traced by a debugger", adviceDebugger),
	when(`Unseizable non-zombie (\d+) found.*`, "process $1 is being traced by a debugger, or cannot be stopped", adviceDebugger),
	when(`SEIZE (\d+): (?:task not stopped after seize|can't wait task.*)`, "process $1 could not be stopped", adviceWait),
	when(`Timeout reached\. Try to interrupt`, "the workload could not be stopped in time", "thaw its cgroup if somebody froze it, or wait until it is idle"),
	when(`error parsing \[clockid: (\d+)\]`, "a timer descriptor (timerfd) of the workload is on clock $1, an alarm clock, which cannot be carried over", adviceNotMovable),
	when(`Abort restore of existing cgroups`, "the workload's cgroup is there already, which cgroup mode \"strict\" does not allow",
		"use another one, such as --manage-cgroups-mode soft, or the default"),
	when(`Unable to freeze cgroup (\S+)`, "the cgroup $1 could not be frozen in time", adviceWait+"; with cgroup v1 raise the freeze timeout"),
	when(`Zombie thread not supported`, "a thread of the workload is ending", adviceWait),
	when(`Individually stopped threads not supported`, "single threads of the workload are stopped", adviceWait),
	when(`(\d+) has rseq but kernel lacks get_rseq_conf feature`, "process $1 uses restartable sequences, and this kernel cannot tell which", "use Linux 5.13 or newer"),
	when(`Consider using --shell-job option`, "the workload belongs to the session of a shell outside of it", adviceTerminal),
	when(`Current sid (\d+) intersects with (\w+)`, "session $1 of the restoring process is a number that the workload needs", "move again"),
	when(`Can't fork for (\d+): File exists`, "PID $1 is taken on this host", advicePID),
	when(`Unable to create a thread: -17`, "the number of a thread is taken on this host", advicePID),
	when(`Pid (\d+) do not match expected (\d+)`, "PID $2 is taken on this host", advicePID),
}

// namespaces.c, pstree.c, timens.c, net.c
var namespaces = []head{
	when(`Can't dump nested (\w+) namespace for (\d+)`, "process $2 is in another $1 namespace than the root of the workload",
		"end it if it came in by nsenter or exec, then move again"),
	when(`This process tree can only be restored in a new pid namespace`, "the workload needs a PID namespace of its own", "move its init process, not one below it"),
	when(`Can't (?:restore|dump a) pid namespace without the process init`, "the workload is part of a PID namespace whose init is not in it", "move the init process of that namespace"),
	when(`Can't create a directory \(-17\)`, "somebody else dumps a workload with the same working directory, or has left a directory \"proc.crtools\" in it",
		"remove that directory if it is still there in a moment, and move again"), // get_proc_fd of pie/parasite.c
	when(`Unable to set a (\w+) clock offset`, "the kernel refused the workload's $1 clock", "see the clock section of the report; the host's own uptime may be out of range"),
	when(`Unsupported link (\d+) \(type (\d+) kind (.*)\)`, "network interface $1 of the workload is of a kind that cannot be saved ($3)", "keep the network namespace outside of the move, or remove that interface"),
}

// mount.c
var mounts = []head{
	when(`No mapping for (\d+):(\S+) mountpoint`, "nothing is said about where the mount $2 comes from on this host", adviceExternal),
	when(`Mount (\d+):(\S+) is autodetected external mount`, "$2 is mounted from outside of the workload", adviceExternal),
	when(`A few mount points can't be mounted`, "some mounts of the workload cannot be made on this host", adviceExternal),
	when(`has unreachable sharing`, "a mount of the workload shares its events with one outside of it", adviceExternal),
	when(`(\d+):(\S+) doesn't have a proper root mount`, "the mount $2 has a root that the workload cannot see", adviceExternal),
}

// page-xfer.c, pagemap.c, uffd.c, img-streamer.c
var pages = []head{
	when(`Missing ([0-9a-f]+) in parent pagemap`, "page $1 is not in the images of the round before", adviceChain),
	when(`Hole (.+) not found in parent`, "memory at $1 is not in the images of the round before", adviceChain),
	when(`The page server doesn't answer`, "the receiver of the memory does not answer", adviceTransport),
	when(`Can't (?:write pages to socket|send PSI)`, "the memory could not be sent", adviceTransport),
	when(`The data were not flushed`, "the receiver of the memory did not confirm it", adviceTransport),
	when(`Unable to connect to image streamer socket`, "the image streamer is not there", "start it before CRIU"),
	when(`Unable to open an userfaultfd descriptor|Failed to get uffd API`, "this kernel does not let CRIU fill memory later (userfaultfd)", adviceEager),
	when(`uffd: (?:PID sending error|send_fd error|Failed sending restore finished indication)`, "the server of lazy pages ended", adviceEager),
	when(`connect to lazy-pages.socket failed|Can't connect to .*lazy-pages.socket`, "the server of lazy pages is not there", "start it before the restore"),
}

// arch/x86/cpu.c, kerndat.c
var machine = []head{
	when(`CPU instruction capabilities do not match run time`, "this CPU lacks instructions that the source's CPU has", adviceCPU),
	when(`CPU capabilities do not match run time`, "this CPU is not the same as the source's", adviceCPU),
	when(`CPU xsave (?:max )?size mismatch \((\d+)/(\d+)\)`, "this CPU saves $2 bytes of registers, the source's saves $1", adviceCPU),
	when(`CPU xfeatures has unsupported bits \((\S+)\)`, "this CPU lacks register sets that the source's CPU has (xfeatures $1)", adviceCPU),
	when(`FPU feature required by image is not supported on host(.*)`, "this CPU lacks floating point features that the source's CPU has$1", adviceCPU),
	when(`Could not initialize kernel features detection`, "CRIU could not find out what this kernel can do", "run as root, outside of a restricted container; "+setupAdvice),
}
