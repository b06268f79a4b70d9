package workload

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/workload/proc"
)

// tree returns facts of a root with number 10 and a child 11 that have nothing.
func tree() Facts {
	ns := func() proc.Namespaces {
		m := proc.Namespaces{}
		for _, kind := range []string{"pid", "time", "time_for_children", "mnt", "net", "uts", "ipc", "user", "cgroup"} {
			m[kind] = 1
		}
		return m
	}
	f := Facts{Caller: 99, Ours: ns()}
	for _, pid := range []int{10, 11} {
		t := TaskFacts{Process: proc.Process{PID: pid, Comm: "x", State: 'S', Session: 10, Group: 10}, Namespaces: ns(), Threads: []int{pid}}
		t.Status = proc.Status{PIDs: []int{pid}, Groups: []int{10}, Sessions: []int{10}}
		f.Tasks = append(f.Tasks, t)
	}
	return f
}

func fd(mode uint32, path string, edit func(*FD)) FD {
	d := FD{FileFacts: FileFacts{Path: path, Mode: mode, Links: 1, Named: true, Inode: 5}, Number: 3, Slave: -1}
	if edit != nil {
		edit(&d)
	}
	return d
}

func TestDescriptorBlockers(t *testing.T) {
	dev := func(major, minor uint32) func(*FD) {
		return func(d *FD) { d.Rdev = unix.Mkdev(major, minor) }
	}
	tests := []struct {
		name string
		fd   FD
		want string
	}{
		{"eventfd", fd(0o600, "anon_inode:[eventfd]", nil), ""},
		{"inotify", fd(0o600, "anon_inode:inotify", nil), ""},
		{"io_uring", fd(0o600, "anon_inode:[io_uring]", nil), CodeIOUring},
		{"perf", fd(0o600, "anon_inode:[perf_event]", nil), CodeDescriptor},
		{"bpf", fd(0o600, "anon_inode:bpf-map", nil), CodeDescriptor},
		{"kvm vm", fd(0o600, "anon_inode:kvm-vm", nil), CodeDescriptor},
		{"old pidfd inside", fd(0o600, "anon_inode:[pidfd]", func(d *FD) { d.PidFD = 11 }), ""},
		{"pidfd inside", fd(unix.S_IFREG, "pidfd:[7]", func(d *FD) { d.PidFD = 11 }), ""},
		{"pidfd of the dead", fd(unix.S_IFREG, "pidfd:[7]", func(d *FD) { d.PidFD = -1 }), ""},
		{"pidfd outside", fd(unix.S_IFREG, "pidfd:[7]", func(d *FD) { d.PidFD = 12 }), CodePidFD},
		{"pidfd of a thread", fd(unix.S_IFREG, "pidfd:[7]", func(d *FD) { d.PidFD, d.Flags = 11, unix.O_EXCL }), CodePidFD},
		{"namespace", fd(unix.S_IFREG, "net:[4026531840]", nil), ""},
		{"null", fd(unix.S_IFCHR, "/dev/null", dev(1, 3)), ""},
		{"tun", fd(unix.S_IFCHR, "/dev/net/tun", dev(10, 200)), ""},
		{"fuse", fd(unix.S_IFCHR, "/dev/fuse", dev(10, 229)), CodeDevice},
		{"gpu", fd(unix.S_IFCHR, "/dev/nvidia0", dev(195, 0)), CodeDevice},
		{"ptmx", fd(unix.S_IFCHR, "/dev/ptmx", dev(5, 2)), ""},
		{"/dev/tty", fd(unix.S_IFCHR, "/dev/tty", dev(5, 0)), ""},
		{"pts", fd(unix.S_IFCHR, "/dev/pts/0", dev(136, 0)), ""},
		{"console", fd(unix.S_IFCHR, "/dev/console", dev(5, 1)), CodeTerminal},
		{"serial", fd(unix.S_IFCHR, "/dev/ttyS0", dev(4, 64)), CodeTerminal},
		{"usb serial", fd(unix.S_IFCHR, "/dev/ttyUSB0", dev(188, 0)), CodeTerminal},
		{"disk", fd(unix.S_IFBLK, "/dev/vda", dev(254, 0)), CodeDevice},
		{"file", fd(unix.S_IFREG, "/a", nil), ""},
		{"deleted", fd(unix.S_IFREG, "/a (deleted)", func(d *FD) { d.Links, d.Named = 0, false }), ""},
		{"called deleted", fd(unix.S_IFREG, "/a (deleted)", nil), ""},
		{"unlinked", fd(unix.S_IFREG, "/a (deleted)", func(d *FD) { d.Named = false }), CodeFileUnlinked},
		{"removed directory", fd(unix.S_IFDIR, "/a (deleted)", func(d *FD) { d.Named = false }), ""},
		{"hidden", fd(unix.S_IFREG, "/a", func(d *FD) { d.Named = false }), CodeFileHidden},
		{"procfs", fd(unix.S_IFREG, "/proc/5/maps", func(d *FD) { d.Named, d.Pseudo = false, true }), ""},
		{"tcp", fd(unix.S_IFSOCK, "socket:[5]", func(d *FD) { d.Proto = "TCPv6" }), ""},
		{"unknown protocol", fd(unix.S_IFSOCK, "socket:[5]", nil), ""},
		{"mptcp", fd(unix.S_IFSOCK, "socket:[5]", func(d *FD) { d.Proto = "MPTCPv6" }), CodeSocket},
		{"sctp", fd(unix.S_IFSOCK, "socket:[5]", func(d *FD) { d.Proto = "SCTP" }), CodeSocket},
		{"working directory", fd(unix.S_IFDIR, "/a", func(d *FD) { d.Number, d.Named = workingDir, false }), CodeFileHidden},
	}
	for _, tt := range tests {
		f := tree()
		f.Tasks[1].FDs = []FD{tt.fd}
		checkCodes(t, tt.name, f.Blockers(), tt.want)
	}
}

// checkCodes compares the codes found with a list like "a b".
func checkCodes(t *testing.T, name string, got []migrate.Finding, want string) {
	t.Helper()
	if text := strings.Join(codes(got), " "); text != want {
		t.Errorf("%s: findings %v, want %q", name, got, want)
	}
}

func TestMappingBlockers(t *testing.T) {
	tests := []struct {
		name string
		m    FileFacts
		want string
	}{
		{"library", FileFacts{Path: "/lib/x", Mode: unix.S_IFREG, Links: 1, Named: true}, ""},
		{"unknown", FileFacts{Path: "/lib/x"}, ""},
		{"upgraded", FileFacts{Path: "/lib/x (deleted)", Mode: unix.S_IFREG}, ""},
		{"shared memory", FileFacts{Path: "/dev/zero (deleted)", Mode: unix.S_IFREG}, ""},
		{"aio", FileFacts{Path: "/[aio] (deleted)", Mode: unix.S_IFREG}, ""},
		{"zero", FileFacts{Path: "/dev/zero", Mode: unix.S_IFCHR, Rdev: unix.Mkdev(1, 5)}, ""},
		{"gpu", FileFacts{Path: "/dev/nvidia0", Mode: unix.S_IFCHR, Rdev: unix.Mkdev(195, 0)}, CodeDevice},
		{"io_uring", FileFacts{Path: "anon_inode:[io_uring]"}, CodeIOUring},
		{"perf", FileFacts{Path: "anon_inode:[perf_event]"}, CodeMapping},
		{"secret", FileFacts{Path: "/secretmem (deleted)"}, CodeMapping},
		{"uprobes", FileFacts{Path: "[uprobes]"}, CodeTraced},
		{"sysv", FileFacts{Path: "/SYSV00000000 (deleted)", Mode: unix.S_IFREG}, CodeSysVShm},
	}
	for _, tt := range tests {
		f := tree()
		f.Tasks[0].Maps = []Mapping{{FileFacts: tt.m}}
		checkCodes(t, tt.name, f.Blockers(), tt.want)
	}
}

func TestTreeBlockers(t *testing.T) {
	tests := []struct {
		name string
		edit func(*Facts)
		want string
	}{
		{"nothing", func(*Facts) {}, ""},
		{"caller inside", func(f *Facts) { f.Caller = 11 }, CodeInsideCaller},
		{"kernel thread", func(f *Facts) { f.Tasks[0].Kernel = true }, CodeHostInit},
		{"zombie root", func(f *Facts) { f.Tasks[0].State = 'Z' }, CodeEnded},
		{"zombie child", func(f *Facts) { f.Tasks[1].State, f.Tasks[1].Namespaces = 'Z', nil }, ""},
		{"stuck", func(f *Facts) { f.Tasks[1].Stuck = true }, CodeStuck},
		{"traced", func(f *Facts) { f.Tasks[1].Tracer = "process 5 (gdb)" }, CodeTraced},
		{"joined", func(f *Facts) { f.Joined = []proc.Process{{PID: 50, Comm: "sh"}} }, CodeJoined},
		{"all in one time namespace", func(f *Facts) {
			for i := range f.Tasks {
				f.Tasks[i].Namespaces["time"], f.Tasks[i].Namespaces["time_for_children"] = 2, 2
			}
		}, ""},
		{"child in another", func(f *Facts) { f.Tasks[1].Namespaces["time"], f.Tasks[1].Namespaces["time_for_children"] = 2, 2 }, CodeTimeNamespace},
		{"for children", func(f *Facts) { f.Tasks[1].Namespaces["time_for_children"] = 2 }, CodeTimeNamespace},
		{"no time namespaces", func(f *Facts) {
			delete(f.Ours, "time")
			for i := range f.Tasks {
				delete(f.Tasks[i].Namespaces, "time")
				delete(f.Tasks[i].Namespaces, "time_for_children")
			}
		}, ""},
		{"network of a child", func(f *Facts) { f.Tasks[1].Namespaces["net"] = 2 }, CodeNamespace},
		{"mounts of a child", func(f *Facts) { f.Tasks[1].Namespaces["mnt"] = 2 }, CodeNamespace},
		{"mounts of all", func(f *Facts) { f.Tasks[0].Namespaces["mnt"], f.Tasks[1].Namespaces["mnt"] = 2, 2 }, CodeMountNS},
		{"member of a container", func(f *Facts) {
			for i := range f.Tasks {
				f.Tasks[i].Namespaces["pid"], f.Tasks[i].Status.PIDs = 2, []int{10 + i, 7 + i}
			}
		}, CodePIDNamespace},
		{"sysv in its own IPC namespace", func(f *Facts) {
			for i := range f.Tasks {
				f.Tasks[i].Namespaces["ipc"] = 2
			}
			f.Tasks[0].Maps = []Mapping{{FileFacts: FileFacts{Path: "/SYSV0 (deleted)"}}}
		}, ""},
		{"tcp", func(f *Facts) {
			f.Tasks[0].FDs = []FD{fd(unix.S_IFSOCK, "socket:[5]", nil)}
			f.Inet = map[uint64]Inet{5: {Proto: "tcp", Local: "1.1.1.1:1", Remote: "2.2.2.2:2", State: 8}}
		}, CodeTCP},
		{"unix peer inside", func(f *Facts) {
			f.Tasks[0].FDs = []FD{fd(unix.S_IFSOCK, "socket:[5]", nil)}
			f.Tasks[1].FDs = []FD{fd(unix.S_IFSOCK, "socket:[6]", func(d *FD) { d.Inode = 6 })}
			f.Unix = map[uint64]Unix{5: {Peer: 6}, 6: {Peer: 5}}
		}, ""},
		{"unix peer outside", func(f *Facts) {
			f.Tasks[0].FDs = []FD{fd(unix.S_IFSOCK, "socket:[5]", nil)}
			f.Unix = map[uint64]Unix{5: {Peer: 7}}
		}, CodeUnixPeer},
	}
	for _, tt := range tests {
		f := tree()
		tt.edit(&f)
		checkCodes(t, tt.name, f.Blockers(), tt.want)
	}
}

func TestPipes(t *testing.T) {
	end := func(inode uint64, number, flags int) FD {
		return fd(unix.S_IFIFO, "pipe:[x]", func(d *FD) { d.Inode, d.Number, d.Flags, d.Links = inode, number, flags, 1 })
	}
	f := tree()
	f.Tasks[0].FDs = []FD{
		end(1, 0, unix.O_RDONLY), end(2, 1, unix.O_WRONLY), end(2, 2, unix.O_WRONLY),
		end(3, 5, unix.O_RDONLY), end(4, 9, unix.O_RDWR), end(5, 7, unix.O_WRONLY),
		fd(unix.S_IFIFO, "/a/fifo", func(d *FD) { d.Inode = 6 }),
	}
	f.Tasks[1].FDs = []FD{end(3, 1, unix.O_WRONLY|unix.O_NONBLOCK), end(5, 6, unix.O_WRONLY), end(2, 1, unix.O_WRONLY)}
	want := []migrate.Pipe{{Inode: 1, Stream: "stdin"}, {Inode: 2, Write: true, Stream: "stdout"}, {Inode: 5, Write: true, Stream: "fd6"}}
	if got := f.pipes(); !slices.Equal(got, want) {
		t.Errorf("pipes = %+v, want %+v", got, want)
	}
	if files := f.files(); len(files) != 1 || files[0].Path != "/a/fifo" {
		t.Errorf("files = %+v, want the named pipe", files)
	}
}

func TestTerminalsWithMasterInside(t *testing.T) {
	slave := fd(unix.S_IFCHR, "/dev/pts/3", func(d *FD) { d.Rdev = unix.Mkdev(136, 3) })
	f := tree()
	f.Tasks[0].FDs = []FD{slave}
	if got := f.terminals(); len(got) != 1 || got[0].Control {
		t.Errorf("terminals = %+v, want one that controls nobody", got)
	}
	f.Tasks[1].FDs = []FD{fd(unix.S_IFCHR, "/dev/ptmx", func(d *FD) { d.Rdev, d.Slave = unix.Mkdev(5, 2), 3 })}
	if got := f.terminals(); len(got) != 0 {
		t.Errorf("terminals = %+v, want none", got)
	}
}

func TestDeviceNumbers(t *testing.T) {
	if got := ttyDevice(34817); got != unix.Mkdev(136, 1) {
		t.Errorf("ttyDevice(34817) = %#x, want 136:1", got)
	}
	if got := ttyDevice(0x10882c); got != unix.Mkdev(136, 300) {
		t.Errorf("ttyDevice(0x10882c) = %#x, want 136:300", got)
	}
	if n, ok := ptySlave(unix.Mkdev(136, 300)); !ok || n != 300 {
		t.Errorf("ptySlave(136:300) = %d, %v", n, ok)
	}
	if _, ok := ptySlave(unix.Mkdev(4, 64)); ok {
		t.Error("a serial line is a pseudo-terminal")
	}
}

func TestWantedPIDs(t *testing.T) {
	tasks := []migrate.Task{
		{VPID: 10, Group: 10, Session: 10, Threads: []int{10, 12}},
		{VPID: 11, Group: 9, Session: 10, Threads: []int{11}},
	}
	job := []migrate.Task{{VPID: 10, Group: 8, Session: 7, Threads: []int{10}}, {VPID: 11, Group: 11, Session: 7, Threads: []int{11}}}
	tests := []struct {
		w    migrate.Workload
		want []int
	}{
		{migrate.Workload{}, nil},
		{migrate.Workload{Tasks: tasks}, []int{9, 10, 11, 12}},
		{migrate.Workload{Tasks: job, ShellJob: true}, []int{10, 11}},
	}
	for _, tt := range tests {
		if got := wantedPIDs(tt.w); !slices.Equal(got, tt.want) {
			t.Errorf("wantedPIDs(%+v) = %v, want %v", tt.w, got, tt.want)
		}
	}
	holder := func(pid int) string { return map[int]string{11: "sshd"}[pid] }
	checkCodes(t, "taken", pidFindings(tests[1].w, 100, holder), CodePIDTaken)
	checkCodes(t, "too large", pidFindings(tests[1].w, 12, func(int) string { return "" }), CodePIDTooLarge)
	checkCodes(t, "free", pidFindings(tests[1].w, 0, func(int) string { return "" }), "")
}

func TestAddressFindings(t *testing.T) {
	local := map[netip.Addr]bool{netip.MustParseAddr("10.0.0.1"): true}
	tests := []struct{ want, bound, code string }{
		{"tcp 0.0.0.0:80", "tcp 0.0.0.0:81", ""},
		{"tcp 0.0.0.0:80", "udp 0.0.0.0:80", ""},
		{"tcp 0.0.0.0:80", "tcp 0.0.0.0:80", CodeAddressTaken},
		{"tcp [::]:80", "tcp 10.0.0.1:80", CodeAddressTaken},
		{"tcp 10.0.0.1:80", "tcp [::]:80", CodeAddressTaken},
		{"tcp 10.0.0.1:80", "tcp 127.0.0.1:80", ""},
		{"tcp 127.0.0.9:80", "", ""},
		{"tcp 10.0.0.2:80", "", CodeAddressMissing},
		{"udp 224.0.0.1:80", "", ""},
		{"tcp [2001:db8::1]:80", "", ""},
		{"garbage", "garbage", ""},
	}
	for _, tt := range tests {
		checkCodes(t, tt.want+" "+tt.bound, addressFindings([]string{tt.want}, []string{tt.bound}, local), tt.code)
	}
}

func TestParseInet(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the samples are of a little-endian machine")
	}
	tests := []struct {
		line  string
		inode uint64
		want  Inet
	}{
		{"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0", 4711, Inet{"tcp", "127.0.0.1:8080", "0.0.0.0:0", 10}},
		{"   1: 00000000000000000000000001000000:0050 0000000000000000FFFF00000100007F:D431 01 0:0 0:0 0 0 0 12 1", 12, Inet{"tcp", "[::1]:80", "127.0.0.1:54321", 1}},
	}
	for _, tt := range tests {
		if inode, got, ok := parseInet("tcp", tt.line); !ok || inode != tt.inode || got != tt.want {
			t.Errorf("parseInet(%q) = %d, %+v, %v, want %+v", tt.line, inode, got, ok, tt.want)
		}
	}
	for _, bad := range []string{"", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
		"0: 0100007F:1F90 00000000:0000 06 0:0 0:0 0 0 0 0 1", "0: 0100007:1 0:0 0A 0:0 0:0 0 0 0 5"} {
		if inode, got, ok := parseInet("tcp", bad); ok {
			t.Errorf("parseInet(%q) = %d, %+v, want none", bad, inode, got)
		}
	}
}

func FuzzParseUnix(f *testing.F) {
	f.Add([]byte{1, 1, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 2, 0, 5, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) { parseUnix(b) })
}

func TestParseUnix(t *testing.T) {
	b := append([]byte{unix.AF_UNIX, 5, 1, 0}, make([]byte, 12)...)
	binary.NativeEndian.PutUint32(b[4:], 9)
	attr := func(kind uint16, value string) {
		b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = append(b, value...)
		b = append(b, make([]byte, (4-len(b)%4)%4)...)
	}
	attr(0, "\x00abstract")
	attr(6, "x")
	attr(2, string(binary.NativeEndian.AppendUint32(nil, 77)))
	inode, got, ok := parseUnix(b)
	if want := (Unix{Type: 5, Path: "@abstract", Peer: 77}); !ok || inode != 9 || got != want {
		t.Errorf("parseUnix = %d, %+v, %v, want %+v", inode, got, ok, want)
	}
	for n := range 16 {
		if _, _, ok := parseUnix(b[:n]); ok {
			t.Errorf("parseUnix of %d bytes is ok", n)
		}
	}
}

func TestParseMap(t *testing.T) {
	tests := []struct {
		line, span string
		want       Mapping
		ok         bool
	}{
		{"00400000-00401000 r-xp 00000000 fe:00 77                         /bin/a b", "400000-401000", Mapping{FileFacts: FileFacts{Path: "/bin/a b", Inode: 77}, Start: 0x400000}, true},
		{"7f0000000000-7f0000001000 rw-s 00000000 00:01 5                  /x", "7f0000000000-7f0000001000", Mapping{FileFacts: FileFacts{Path: "/x", Inode: 5}, Start: 0x7f0000000000, Write: true}, true},
		{"7ffc0000-7ffd0000 rw-p 00000000 00:00 0                          [stack]", "", Mapping{}, false},
		{"7fff0000-7fff1000 --xp 00000000 00:00 0                          [uprobes]", "7fff0000-7fff1000", Mapping{FileFacts: FileFacts{Path: "[uprobes]"}, Start: 0x7fff0000}, true},
		{"7f0000000000-7f0000001000 rw-s 00000000 00:01 0                  /SYSV00000000 (deleted)", "7f0000000000-7f0000001000", Mapping{FileFacts: FileFacts{Path: "/SYSV00000000 (deleted)"}, Start: 0x7f0000000000, Write: true}, true},
		{"7fff0000-7fff1000 rw-p 00000000 00:00 0 ", "", Mapping{}, false},
		{"x-y rw-p 00000000 00:00 7 /x", "", Mapping{}, false},
		{"", "", Mapping{}, false},
	}
	for _, tt := range tests {
		got, span, ok := parseMap(tt.line)
		if ok != tt.ok || ok && (got != tt.want || span != tt.span) {
			t.Errorf("parseMap(%q) = %+v, %q, %v, want %+v, %q", tt.line, got, span, ok, tt.want, tt.span)
		}
	}
}

func TestParseSmall(t *testing.T) {
	mono, boot := parseOffsets("monotonic           5         7\nboottime           -1         0\n")
	if mono != 5e9+7 || boot != -1e9 {
		t.Errorf("parseOffsets = %d, %d", mono, boot)
	}
	if mono, boot := parseOffsets("1 2 3\n7 4 5\nx\n"); mono != 2e9+3 || boot != 4e9+5 {
		t.Errorf("parseOffsets(numbers) = %d, %d", mono, boot)
	}
	const rollup = "560-7ff ---p 00000000 00:00 0 [rollup]\nRss: 999 kB\nPss_Shmem:   8 kB\nAnonymous:   100 kB\nSwap:   4 kB\nPrivate_Hugetlb:  2048 kB\n"
	if got := parseMemory(rollup); got != (8+100+4+2048)<<10 {
		t.Errorf("parseMemory = %d", got)
	}
	got := parseFDInfo("pos:\t0\nflags:\t0100002\nmnt_id:\t9\ntty-index:\t4\nPid:\t-1\n")
	if got.Flags != 0o100002 || got.Slave != 4 || got.PidFD != -1 {
		t.Errorf("parseFDInfo = %+v", got)
	}
	if got := parseFDInfo(""); got.Slave != -1 || got.PidFD != 0 {
		t.Errorf("parseFDInfo(nothing) = %+v", got)
	}
}

// TestLimitsHidden has tasks of several users looked at by several users.
func TestLimitsHidden(t *testing.T) {
	const everything, allButOne = 1<<41 - 1, 1<<41 - 1 - 1<<unix.CAP_SYS_RESOURCE
	same := []int{0, 0, 0, 0}
	tests := []struct {
		name       string
		uids, gids []int
		caps       uint64
		userns     uint64
		want       string
	}{
		{"root", same, same, allButOne, 1, ""},
		{"another user", []int{33, 33, 33, 33}, same, allButOne, 1, CodeCapability},
		{"another group", same, []int{33, 33, 33, 33}, allButOne, 1, CodeCapability},
		{"was another user", []int{0, 0, 33, 0}, same, allButOne, 1, CodeCapability},
		{"another user of files", []int{0, 0, 0, 33}, same, allButOne, 1, ""},
		{"another user, with the right", []int{33, 33, 33, 33}, same, everything, 1, ""},
		{"in a user namespace", []int{33, 33, 33, 33}, same, allButOne, 2, ""},
	}
	for _, tt := range tests {
		f := tree()
		f.Us = proc.Status{UIDs: same, GIDs: same, Caps: tt.caps}
		for i := range f.Tasks {
			f.Tasks[i].Status.UIDs, f.Tasks[i].Status.GIDs = tt.uids, tt.gids
			f.Tasks[i].Namespaces["user"] = tt.userns
		}
		checkCodes(t, tt.name, f.Blockers(), tt.want)
	}
}
