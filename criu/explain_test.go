package criu

import (
	"strings"
	"testing"
)

// rlimit comes in every run, good ones too, where CAP_SYS_RESOURCE is missing.
const rlimit = "(00.028691) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n"

// TestExplainLogs holds logs as CRIU 4.2.1 wrote them.
func TestExplainLogs(t *testing.T) {
	for name, test := range map[string]struct{ log, cause, advice string }{
		"io_uring": {rlimit + `pie: 21363: Error (criu/pie/parasite.c:588): send_fds failed (-22)
(00.049334) Error (criu/parasite-syscall.c:280): Can't retrieve FDs from socket
(00.049337) Error (compel/src/lib/infect-rpc.c:44): Message reply from daemon is trimmed (12/0)
(00.049343) Error (criu/cr-dump.c:1545): Dump files (pid: 21363) failed with -1
(00.049567) Error (criu/cr-dump.c:1975): Dumping FAILED.`,
			"the workload has a file descriptor that the kernel does not let anyone pass on, such as an io_uring ring", adviceUring},
		"io_uring mapping": {rlimit + `(00.032812) Error (criu/proc_parse.c:502): Unknown shit 600 (anon_inode:[io_uring])
(00.032815) Error (criu/proc_parse.c:738): Can't open 21450's mapfile link 7fe9498d8000: No such device or address
(00.032819) Error (criu/cr-dump.c:1440): Collect mappings (pid: 21450) failed with -1
(00.032887) Error (criu/cr-dump.c:1975): Dumping FAILED.`,
			"process 21450 has memory mapped that belongs to a device or to io_uring (at 7fe9498d8000)", adviceMapping},
		"traced": {rlimit + `(00.086584) Warn  (compel/src/lib/infect.c:132): Unable to interrupt task: 22833 (Operation not permitted)
(00.086599) Error (compel/src/lib/infect.c:417): Unable to detach from 22833: No such process
(00.086604) Error (criu/cr-dump.c:1975): Dumping FAILED.`,
			"process 22833 is being traced by a debugger", adviceDebugger},
		"perf event": {rlimit + `(00.043506) Error (criu/files-ext.c:94): Can't dump file 3 of that type [600] (anon anon_inode:[perf_event])
(00.043518) Error (criu/cr-dump.c:1545): Dump files (pid: 21623) failed with -1
(00.043771) Error (criu/cr-dump.c:1975): Dumping FAILED.`,
			"file descriptor 3 is a performance counter (anon anon_inode:[perf_event])", "stop the profiler, then move again"},
		"tcp": {rlimit + `(01.648298) Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.
(01.648311) Error (criu/cr-dump.c:1545): Dump files (pid: 21753) failed with -1
(01.648548) Error (criu/cr-dump.c:1975): Dumping FAILED.`,
			"the workload has established TCP connections", adviceConnection},
		"nested namespace": {rlimit + `(01.091118) Error (criu/namespaces.c:460): Can't dump nested uts namespace for 22678
(01.091120) Error (criu/namespaces.c:721): Can't make utsns id
(01.091145) Error (criu/cr-dump.c:1975): Dumping FAILED.`,
			"process 22678 is in another uts namespace than the root of the workload", "end it if it came in by nsenter or exec, then move again"},
		"size": {rlimit + `(00.059632)  22909: Error (criu/files-reg.c:2175): File tmp/file has bad size 11 (expect 6)
(00.059634)  22909: Error (criu/files.c:1221): Unable to open fd=5 id=0x13
(00.059699) Error (criu/cr-restore.c:2331): Restoring FAILED.`,
			"/tmp/file has 11 bytes here, and had 6 on the source", adviceSync},
		"mode": {rlimit + `(00.022998)  25974: Error (criu/files-reg.c:2294): File tmp/file has bad mode 0100600 (expect 0100644)
(00.022999)  25974: Error (criu/files.c:1221): Unable to open fd=5 id=0x12
(00.023038) Error (criu/cr-restore.c:2331): Restoring FAILED.`,
			"/tmp/file has mode 0100600 here, and had 0100644 on the source", adviceSync},
		"missing": {rlimit + `(00.022365)  25838: Error (criu/files-reg.c:2353): Can't open file tmp/file on restore: No such file or directory
(00.022367)  25838: Error (criu/files-reg.c:2267): Can't open file tmp/file: No such file or directory
(00.022368)  25838: Error (criu/files.c:1221): Unable to open fd=5 id=0x12
(00.022414) Error (criu/cr-restore.c:2331): Restoring FAILED.`,
			"/tmp/file is missing here", adviceMissing},
		"pid taken": {rlimit + `(00.036123) Error (criu/cr-restore.c:1237): Can't fork for 22909: File exists
(00.036173) Error (criu/cr-restore.c:2331): Restoring FAILED.`,
			"PID 22909 is taken on this host", advicePID},
		"unknown": {rlimit + `(00.1) Error (criu/x.c:1): something new: Invalid argument
(00.2) Error (criu/cr-dump.c:1545): Dump files (pid: 21753) failed with -1
(00.3) Error (criu/cr-dump.c:1975): Dumping FAILED.`,
			"something new: Invalid argument", ""},
		"after the end": {`(00.1) Error (criu/x.c:1): the cause
(00.3) Error (criu/cr-dump.c:1975): Dumping FAILED.
(00.4) Error (criu/cr-restore.c:1237): Can't fork for 22909: File exists`,
			"the cause", ""},
		"good run":  {rlimit, "", ""},
		"no log":    {"", "", ""},
		"not a log": {"sh: criu: not found", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			cause, advice := Explain(strings.Split(test.log, "\n"))
			if cause != test.cause || advice != test.advice {
				t.Errorf("Explain = %q, %q\nwant %q, %q", cause, advice, test.cause, test.advice)
			}
		})
	}
}

// TestExplainHeads has a line for every head, so that none is out of reach.
func TestExplainHeads(t *testing.T) {
	lines := map[string]string{
		"Tracking memory is not available. Consider omitting --track-mem option.":                         "does not track",
		"Dirty tracking is OFF. Memory snapshot will not work.":                                           "does not track",
		"Pid-reuse detection failed: no parent inventory, check warnings in get_parent_inventory":         "round before",
		"Invalid parent image directory provided: No such file or directory":                              "round before",
		"uffd: Unable to open an userfaultfd descriptor: Operation not permitted":                         "userfaultfd",
		"uffd: Failed sending restore finished indication: Broken pipe":                                   "lazy pages ended",
		"page-xfer: Can't send PSI 4132 to server: Broken pipe":                                           "could not be sent",
		"inet: Connected TCP socket in image":                                                             "images hold established",
		"inet: In-flight connection (l) for 1a2b":                                                         "not accepted",
		"unix: Can't dump half of stream unix connection. name: /run/a; peer name: (null)":                "name: /run/a",
		"unix: External socket is used. Consider using --ext-unix-sk option.":                             "outside",
		"unix: Can't dump name-less external socket.":                                                     "has no name",
		"netlink: The socket has data to read":                                                            "not read yet",
		"Can't create link remap for /tmp/l1. Use link-remap option.":                                     "/tmp/l1 was deleted",
		"Can't dump ghost file /tmp/g of 3000000 size, increase limit":                                    "/tmp/g of 3000000 bytes",
		"fsnotify: \tCan't dump that handle":                                                              "watches",
		"fsnotify: Can't find suitable path for handle (dev 0x1 ino 0x2): -1":                             "watches",
		"File usr/lib/libc.so.6 has bad build-ID":                                                         "/usr/lib/libc.so.6 is another build",
		"Can't dump file 4 of that type [600] (anon anon_inode:[io_uring])":                               "4 is an io_uring",
		"Can't dump file 4 of that type [600] (anon anon_inode:[userfaultfd])":                            "4 is a userfaultfd",
		"Can't dump file 7 of that type [20666] (chr 195:0 /dev/nvidia0)":                                 "7 is a GPU",
		"Can't dump file 5 of that type [20660] (chr 10:232 /dev/kvm)":                                    "5 is of a kind",
		"Some file locks are hold by dumping tasks! You can try --file-locks to dump them.":               "file locks",
		"tty: Found dangling tty with sid 5 pgid 6 (pts) on peer fd 0.":                                   "session 5",
		"tty: Found slave peer index 0 without correspond master peer":                                    "other end",
		"pidfd: PIDFD_THREAD flag is currently not supported":                                             "single thread",
		"Can't lookup mount=22 for fd=0 path=/dev/null":                                                   "descriptor 0",
		"Unsupported mapping found 00007f00-00008f00":                                                     "00007f00-00008f00",
		"Can't handle non-regular mapping on 12's map 7f00":                                               "process 12",
		"Unknown shit 600 (anon_inode:[io_uring])":                                                        "[io_uring]",
		"Sysv shmem 1f with a hole not supported":                                                         "memory 1f",
		"Sysv shmem 1f with tail hole not supported":                                                      "memory 1f",
		"Task 9 with SysVIPC shmem map @7f doesn't live in IPC ns":                                        "process 9",
		"Unseizable non-zombie 8 found, state D, err -1/3":                                                "process 8 sleeps",
		"Unseizable non-zombie 8 found, state S, err -1/3":                                                "process 8 is being traced",
		"SEIZE 8: can't interrupt task: Operation not permitted":                                          "process 8 is being traced",
		"SEIZE 8: task not stopped after seize":                                                           "process 8 could not",
		"Timeout reached. Try to interrupt: 0":                                                            "in time",
		"Unable to freeze cgroup /sys/fs/cgroup/a (1 x 100 attempts, timeout: 10s)":                       "/sys/fs/cgroup/a",
		"parse_fdinfo_pid_s: error parsing [clockid: 8] for 17: Invalid argument":                         "clock 8",
		"cg: Abort restore of existing cgroups":                                                           "strict",
		"Zombie thread not supported":                                                                     "ending",
		"Individually stopped threads not supported":                                                      "stopped",
		"4 has rseq but kernel lacks get_rseq_conf feature":                                               "process 4",
		"A session leader of 5(5) is outside of its pid namespace. Consider using --shell-job option. Mo": "session of a shell",
		"Current sid 4 intersects with pid (5) in images":                                                 "session 4",
		"Unable to create a thread: -17":                                                                  "of a thread",
		"Pid 5 do not match expected 6":                                                                   "PID 6",
		"Can't dump nested time namespace for 77":                                                         "another time namespace",
		"This process tree can only be restored in a new pid namespace.":                                  "PID namespace of its own",
		"Can't restore pid namespace without the process init":                                            "init is not in it",
		"Can't dump a pid namespace without the process init":                                             "init is not in it",
		"Can't create a directory (-17)":                                                                  "proc.crtools",
		"timens: Unable to set a monotonic clock offset: Numerical result out of range":                   "monotonic clock",
		"Unsupported link 3 (type 1 kind wireguard)":                                                      "interface 3",
		"mnt: No mapping for 30:/data mountpoint":                                                         "/data comes from",
		"mnt: Mount 30:/data is autodetected external mount. Try ...":                                     "/data is mounted",
		"mnt: A few mount points can't be mounted":                                                        "some mounts",
		"mnt: Mount 30 /data (master_id: 1 shared_id: 2) has unreachable sharing.":                        "shares its events",
		"mnt: 30:/data doesn't have a proper root mount":                                                  "/data has a root",
		"Missing 7f00 in parent pagemap":                                                                  "page 7f00",
		"Hole 0x7f00 - 0x8f00 not found in parent":                                                        "0x7f00 - 0x8f00",
		"page-xfer: The page server doesn't answer: Broken pipe":                                          "does not answer",
		"page-xfer: Can't write pages to socket: Broken pipe":                                             "could not be sent",
		"page-xfer: The data were not flushed":                                                            "did not confirm",
		"Unable to connect to image streamer socket: /x: No such file or directory":                       "streamer",
		"uffd: connect to lazy-pages.socket failed: Connection refused":                                   "lazy pages",
		"cpu: CPU instruction capabilities do not match run time":                                         "lacks instructions",
		"cpu: CPU capabilities do not match run time":                                                     "not the same",
		"cpu: CPU xsave size mismatch (2696/2440)":                                                        "saves 2440 bytes of registers, the source's saves 2696",
		"cpu: CPU xsave max size mismatch (2696/2440)":                                                    "saves 2440",
		"cpu: CPU xfeatures has unsupported bits (0x80)":                                                  "0x80",
		"cpu: FPU feature required by image is not supported on host (fpu:0 fxsr:0 osxsave:1 xsaves:0)":   "osxsave:1",
		"Could not initialize kernel features detection.":                                                 "could not find out",
	}
	reached := make(map[string]bool)
	for line, want := range lines {
		cause, advice := Explain([]string{"(00.1) Error (criu/x.c:1): " + line})
		if !strings.Contains(cause, want) || advice == "" || strings.Contains(cause, "$") {
			t.Errorf("Explain(%q) = %q, %q, want %q in it and advice", line, cause, advice, want)
		}
		reached[headOf(line)] = true
	}
	for _, also := range []string{"File /a has bad size 1 (expect 2)", "File a has bad mode 01 (expect 02)", "Can't open file a: No such file",
		"send_fds failed (-22)", "Can't dump file 3 of that type [600] (anon_inode:[perf_event])", "Can't fork for 1: File exists",
		"Connected TCP socket, consider using", "Can't open 1's mapfile link 7f: No such device"} {
		reached[headOf(also)] = true // TestExplainLogs has these
	}
	for _, h := range heads {
		if !reached[h.pattern().String()] {
			t.Errorf("no line reaches %s", h.pattern())
		}
	}
}

func headOf(line string) string {
	for _, h := range heads {
		if h.pattern().MatchString(line) {
			return h.pattern().String()
		}
	}
	return ""
}

// TestExplainRestorer looks past the line with which a task gives up.
func TestExplainRestorer(t *testing.T) {
	const end = "pie: 5: Error (criu/pie/restorer.c:2353): Restorer fail 5\n(00.2) Error (criu/cr-restore.c:2331): Restoring FAILED."
	if cause, _ := Explain(splitLines([]byte("pie: 5: Error (criu/pie/restorer.c:1): Can't restore 2 mapping with 3\n" + end))); cause != "Can't restore 2 mapping with 3" {
		t.Errorf("cause %q", cause)
	}
	if err := newError("restore", 0, splitLines([]byte(end)), "it failed"); err.Cause != "it failed" {
		t.Errorf("cause %q", err.Cause)
	}
}
