package workload

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"migrate"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("looking into processes needs root")
	}
}

func inspect(t *testing.T, pid int) (migrate.Workload, []migrate.Finding) {
	t.Helper()
	w, found, err := Inspect(t.Context(), pid)
	if err != nil {
		t.Fatal(err)
	}
	return w, found
}

func codes(list []migrate.Finding) []string {
	var out []string
	for _, f := range list {
		out = append(out, f.Code)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// outputs returns the pipes that a test made: it may have inherited others.
func outputs(w migrate.Workload) []migrate.Pipe {
	return slices.DeleteFunc(slices.Clone(w.Pipes), func(p migrate.Pipe) bool { return p.Stream != "stdout" && p.Stream != "stdin" })
}

// TestInspectHelpers inspects real processes, one for each thing that can be in
// the way, and for what is not.
func TestInspectHelpers(t *testing.T) {
	needRoot(t)
	tests := []struct {
		helper string
		want   []string
		says   string // in the first finding
	}{
		{"plain", nil, ""},
		{"good-fds", nil, ""},
		{"unix-inside", nil, ""},
		{"memory", nil, ""},
		{"io-uring", []string{CodeIOUring}, "uses io_uring"},
		{"userfaultfd", []string{CodeDescriptor}, "[userfaultfd]"},
		{"pidfd-outside", []string{CodePidFD}, "outside of the workload"},
		{"pidfd-thread", []string{CodePidFD}, "PIDFD_THREAD"},
		{"sysv", []string{CodeSysVShm}, "System V shared memory"},
		{"mptcp", []string{CodeSocket}, "multipath"},
		{"vsock", []string{CodeSocket}, "cannot be moved: AF_VSOCK"},
		{"device", []string{CodeDevice}, "is the device /dev/fuse"},
		{"tcp", []string{CodeTCP}, "established TCP connections: 127.0.0.1:"},
		{"device-map", []string{CodeDevice}, "mapped"},
		{"timens-children", []string{CodeTimeNamespace}, "for its children"},
	}
	for _, tt := range tests {
		t.Run(tt.helper, func(t *testing.T) {
			cmd, _ := launch(t, tt.helper)
			_, found := inspect(t, cmd.Process.Pid)
			if !slices.Equal(codes(found), tt.want) || len(found) > 0 && !strings.Contains(found[0].What, tt.says) {
				t.Errorf("findings = %v, want %v, %q", found, tt.want, tt.says)
			}
		})
	}
}

func TestInspectDescribes(t *testing.T) {
	needRoot(t)
	cmd, _ := launch(t, "memory")
	w, _ := inspect(t, cmd.Process.Pid)
	if w.RootPID != cmd.Process.Pid || w.OwnPIDs || w.OwnNet || w.OwnTime || w.ShellJob || w.Kind != "process" || w.Name == "" {
		t.Errorf("workload = %+v", w)
	}
	if len(w.Command) != 1 || w.Command[0] != "/proc/self/exe" {
		t.Errorf("command = %q", w.Command)
	}
	if mib := w.MemoryBytes >> 20; mib < 48 || mib > 80 {
		t.Errorf("memory = %d MiB, want 48 and the little that Go needs", mib)
	}
	root := w.Tasks[0]
	if len(w.Tasks) != 1 || root.Session != root.VPID || len(root.Threads) < 2 || root.Threads[0] != root.PID || root.Parent != os.Getpid() {
		t.Errorf("tasks = %+v", w.Tasks)
	}
	if out := outputs(w); len(out) != 1 || !out[0].Write {
		t.Errorf("pipes = %+v, want stdout", w.Pipes)
	}
	exe, _ := os.Readlink("/proc/self/exe")
	i := slices.IndexFunc(w.Files, func(f migrate.File) bool { return f.Path == exe })
	if i < 0 || !w.Files[i].Mapped || w.Files[i].Size == 0 {
		t.Errorf("files = %+v, want %s mapped", w.Files, exe)
	}
}

func TestInspectFiles(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for _, name := range []string{"read", "write", "gone", "linked"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(dir+"/linked", dir+"/other"); err != nil {
		t.Fatal(err)
	}
	cmd, _ := launch(t, "files", "DIR="+dir)
	w, found := inspect(t, cmd.Process.Pid)
	if !slices.Equal(codes(found), []string{CodeFileUnlinked}) {
		t.Errorf("findings = %v", found)
	}
	var got []migrate.File
	for _, f := range w.Files {
		if strings.HasPrefix(f.Path, dir) {
			got = append(got, f)
		}
	}
	want := []migrate.File{
		{Path: dir, Mode: unix.S_IFDIR | 0o755},
		{Path: dir + "/read", Size: 4, Mode: unix.S_IFREG | 0o640},
		{Path: dir + "/write", Size: 5, Mode: unix.S_IFREG | 0o640, Written: true},
	}
	if !slices.Equal(got, want) || w.Dir != dir {
		t.Errorf("files = %+v in %s, want %+v", got, w.Dir, want)
	}
	if w.MemoryBytes < 1<<20 {
		t.Errorf("memory = %d, want the memory file counted", w.MemoryBytes)
	}
}

// TestInspectRestless looks at a descriptor while it becomes that of one file and of
// another, as those of a shell do: what is known of it is always of one of them.
func TestInspectRestless(t *testing.T) {
	needRoot(t)
	cmd, _ := launch(t, "restless-fd")
	seen := map[string]bool{}
	for range 500 {
		fds, err := readFDs(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(fds, func(fd FD) bool { return fd.Number == 100 })
		if i < 0 {
			continue // dup3(2) closes it for a moment
		}
		fd := fds[i]
		seen[fd.Path] = true
		if b, hidden := pathBlocker("it", fd.FileFacts); hidden || fd.isChar() != (fd.Path == "/dev/null") {
			t.Fatalf("%+v: %v", fd, b)
		}
	}
	if len(seen) != 2 {
		t.Errorf("seen only %v", seen)
	}
}

func TestInspectUnixPeer(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd, _ := launch(t, "unix-outside", "PEER="+path)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, found := inspect(t, cmd.Process.Pid)
	if len(found) != 1 || found[0].Code != CodeUnixPeer || !strings.HasSuffix(found[0].What, path) {
		t.Errorf("findings = %v, want %s with %s", found, CodeUnixPeer, path)
	}
}

func TestInspectSockets(t *testing.T) {
	needRoot(t)
	cmd, addr := launch(t, "tcp")
	w, _ := inspect(t, cmd.Process.Pid)
	if want := []string{"tcp " + addr[0], "udp " + addr[2]}; !slices.Equal(w.Listeners, want) {
		t.Errorf("listeners = %q, want %q", w.Listeners, want)
	}
	// The end that was not accepted belongs to nobody yet.
	if want := []string{addr[1] + " " + addr[0]}; !slices.Equal(w.Connections, want) {
		t.Errorf("connections = %q, want %q", w.Connections, want)
	}
	found := TargetFindings(w, TargetChecks{
		NameTaken:    func(string) bool { return true },
		CompareFiles: func([]migrate.File) []migrate.Finding { return []migrate.Finding{{Code: "files"}} },
	})
	if want := []string{CodeAddressTaken, "files", CodeNameTaken, CodePIDTaken}; !slices.Equal(codes(found), want) {
		t.Errorf("on the same host: %v, want %v", codes(found), want)
	}
}

func TestInspectGone(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Inspect(t.Context(), cmd.Process.Pid); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("Inspect(gone) = %v, want ESRCH", err)
	}
}

func TestInspectSystem(t *testing.T) {
	needRoot(t)
	for pid, want := range map[int]string{1: CodeHostInit, 2: CodeHostInit, os.Getpid(): CodeInsideCaller} {
		if p, err := os.ReadFile("/proc/2/comm"); pid == 2 && (err != nil || string(p) != "kthreadd\n") {
			continue // inside a PID namespace
		}
		if _, found := inspect(t, pid); !slices.Contains(codes(found), want) {
			t.Errorf("process %d: %v, want %s", pid, found, want)
		}
	}
}

func TestInspectZombie(t *testing.T) {
	needRoot(t)
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if _, found := inspect(t, cmd.Process.Pid); !slices.Equal(codes(found), []string{CodeEnded}) {
		t.Errorf("findings = %v, want %s", found, CodeEnded)
	}
}

func TestInspectTraced(t *testing.T) {
	needRoot(t)
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Ptrace: true, Pdeathsig: syscall.SIGKILL}
	done := make(chan struct{})
	go func() { // a tracer is a thread; it ends with this one
		defer close(done)
		runtime.LockOSThread()
		if err := cmd.Start(); err != nil {
			t.Error(err)
			return
		}
		_, found, err := Inspect(t.Context(), cmd.Process.Pid)
		if err != nil || !slices.Equal(codes(found), []string{CodeTraced}) || !strings.Contains(found[0].What, "traced by process") {
			t.Errorf("findings = %v, %v, want %s", found, err, CodeTraced)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	<-done
}

// capsule starts a shell that is init of its PID namespace.
func capsule(t *testing.T, script string, flags uintptr) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID | flags}
	started, _ := start(t, cmd)
	return started
}

func TestInspectCapsule(t *testing.T) {
	needRoot(t)
	cmd := capsule(t, "sleep 60 & sleep 60 | sleep 60 & (sleep 60 &); echo ready; wait", syscall.CLONE_NEWNET|syscall.CLONE_NEWTIME)
	w, found := inspect(t, cmd.Process.Pid)
	if len(found) != 0 {
		t.Errorf("findings = %v, want none", found)
	}
	if !w.OwnPIDs || !w.OwnNet || w.ShellJob || w.RootPID != 1 || len(w.Tasks) != 5 || w.Listeners != nil {
		t.Errorf("workload = %+v", w)
	}
	if out := outputs(w); len(out) != 1 {
		t.Errorf("pipes = %+v, want one stdout: the other pipe joins two members", w.Pipes)
	}
}

func TestInspectTimeNamespace(t *testing.T) {
	needRoot(t)
	cmd := exec.Command("unshare", "-T", "--monotonic", "1000", "--boottime", "2000", "-f", "--kill-child", "sh", "-c", "echo ready; sleep 60; true")
	cmd, _ = start(t, cmd)
	f, err := Snapshot(t.Context(), cmd.Process.Pid)
	if err != nil || len(f.Tasks) < 2 {
		t.Fatalf("Snapshot = %+v, %v", f, err)
	}
	if got := codes(f.Blockers()); !slices.Equal(got, []string{CodeTimeNamespace}) {
		t.Errorf("with unshare as the root: %v, want %s", got, CodeTimeNamespace)
	}
	w, found := inspect(t, f.Tasks[1].PID)
	if !w.OwnTime || w.MonoOffset != 1000e9 || w.BootOffset != 2000e9 || !w.ShellJob || len(found) != 0 {
		t.Errorf("workload = %+v, %v, want offsets of 1000 s and 2000 s", w, found)
	}
}

// TestInspectFromTimeNamespace looks from another time namespace than the
// initial one, which is where the kernel counts offsets from.
func TestInspectFromTimeNamespace(t *testing.T) {
	needRoot(t)
	const inside = "MIGRATE_TEST_IN_TIMENS"
	if os.Getenv(inside) == "" {
		cmd := exec.CommandContext(t.Context(), "unshare", "-T", "--monotonic", "300", "--boottime", "400", "-f", "--kill-child",
			os.Args[0], "-test.run=^TestInspectFromTimeNamespace$")
		cmd.Env = append(os.Environ(), inside+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	cmd, _ := start(t, exec.Command("unshare", "-T", "--monotonic", "1000", "--boottime", "2000", "-f", "--kill-child", "sh", "-c", "echo ready; sleep 60; true"))
	f, err := Snapshot(t.Context(), cmd.Process.Pid)
	if err != nil || len(f.Tasks) < 2 {
		t.Fatalf("Snapshot = %+v, %v", f, err)
	}
	if w, _ := inspect(t, f.Tasks[1].PID); !w.OwnTime || w.MonoOffset != 700e9 || w.BootOffset != 1600e9 {
		t.Errorf("workload = %+v, want offsets of 700 s and 1600 s", w)
	}
}

func TestInspectMountNamespace(t *testing.T) {
	needRoot(t)
	cmd := capsule(t, "echo ready; sleep 60; true", syscall.CLONE_NEWNS)
	_, found := inspect(t, cmd.Process.Pid)
	if !slices.Equal(codes(found), []string{CodeMountNS}) {
		t.Errorf("findings = %v, want %s", found, CodeMountNS)
	}
}

func TestInspectNested(t *testing.T) {
	needRoot(t)
	cmd := capsule(t, "unshare -p -f --kill-child sleep 60 & sleep 0.2; echo ready; wait", 0)
	f, err := Snapshot(t.Context(), cmd.Process.Pid)
	if err != nil || len(f.Tasks) != 3 {
		t.Fatalf("Snapshot = %+v, %v", f, err)
	}
	if got := codes(f.Blockers()); !slices.Equal(got, []string{CodePIDNamespace}) {
		t.Errorf("findings = %v, want %s", got, CodePIDNamespace)
	}
	// A member that is not the init cannot be moved by itself.
	if _, found := inspect(t, f.Tasks[1].PID); !slices.Contains(codes(found), CodePIDNamespace) {
		t.Errorf("findings = %v, want %s", found, CodePIDNamespace)
	}
}

func TestInspectJoined(t *testing.T) {
	needRoot(t)
	cmd := capsule(t, "sleep 60 & echo ready; wait", 0)
	enter := exec.Command("nsenter", "-p", "-t", strconv.Itoa(cmd.Process.Pid), "sh", "-c", "echo ready; exec sleep 60")
	start(t, enter)
	_, found := inspect(t, cmd.Process.Pid)
	if len(found) != 1 || found[0].Code != CodeJoined {
		t.Errorf("findings = %v, want %s", found, CodeJoined)
	}
}

func TestInspectTerminal(t *testing.T) {
	needRoot(t)
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	if err := pty.Setsize(master, &pty.Winsize{Rows: 33, Cols: 111}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Stdin = slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	cmd, _ = start(t, cmd, helperEnv+"=plain")
	w, found := inspect(t, cmd.Process.Pid)
	var st unix.Stat_t
	if err := unix.Fstat(int(slave.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	want := []migrate.Terminal{{Rdev: st.Rdev, Dev: st.Dev, Path: slave.Name(), Rows: 33, Columns: 111, Control: true}}
	if !slices.Equal(w.Terminals, want) || len(found) != 0 {
		t.Errorf("terminals = %+v, %v, want %+v", w.Terminals, found, want)
	}
}

func TestShellJob(t *testing.T) {
	needRoot(t)
	cmd := exec.Command("sh", "-c", "sleep 60 & echo ready; wait")
	cmd, _ = start(t, cmd)
	f, err := Snapshot(t.Context(), cmd.Process.Pid)
	if err != nil || len(f.Tasks) != 2 {
		t.Fatalf("Snapshot = %+v, %v", f, err)
	}
	if w, found := inspect(t, f.Tasks[1].PID); !w.ShellJob || len(found) != 0 {
		t.Errorf("a shell's job: %+v, %v", w, found)
	}
}

// TestNumberOfSession: the number of a session whose leader is gone is taken.
func TestNumberOfSession(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sleep 60 & echo $!; echo ready")
	cmd, said := start(t, cmd)
	if err := cmd.Wait(); err != nil && !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(said[0])
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(child, syscall.SIGKILL)
	here := numbersHere()
	if got := here(cmd.Process.Pid); !strings.HasSuffix(got, said[0]+" (sleep)") {
		t.Errorf("number of the session = %q, want it taken by sleep", got)
	}
	if got := here(child); got != "sleep" {
		t.Errorf("number of the child = %q, want sleep", got)
	}
	if got := here(1 << 29); got != "" {
		t.Errorf("number of nobody = %q", got)
	}
}
