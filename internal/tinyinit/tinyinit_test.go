package tinyinit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// TestBuiltFromSource fails when c/init.c was changed and c/build.sh not run.
func TestBuiltFromSource(t *testing.T) {
	src, err := os.ReadFile("c/init.c")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("init.c.sha256")
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(src); hex.EncodeToString(sum[:]) != strings.TrimSpace(string(want)) {
		t.Error("the committed programs were not built from c/init.c: run go generate")
	}
}

func TestInstall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "bin")
	path, err := Install(dir)
	if err != nil {
		t.Fatal(err)
	}
	if name := filepath.Base(path); name != Name() || !regexp.MustCompile(`^init-[0-9a-f]{16}$`).MatchString(name) {
		t.Errorf("installed as %s", name)
	}
	before, _ := os.Stat(path)
	if again, err := Install(dir); err != nil || again != path {
		t.Errorf("second Install = %s, %v", again, err)
	}
	if after, _ := os.Stat(path); !os.SameFile(before, after) {
		t.Error("second Install replaced a good file")
	}
	for _, spoil := range []func() error{
		func() error { return os.Truncate(path, 10) },
		func() error { return os.Chmod(path, 0o644) },
		func() error { return os.Remove(path) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if _, err := Install(dir); err != nil || !installed(path) {
			t.Errorf("Install over a bad file = %v", err)
		}
	}
}

func TestArgs(t *testing.T) {
	got := EnterArgs("/i", Enter{Cgroups: []string{"/c"}, Namespaces: []int{3, 4}, Session: true, Terminal: true}, []string{"sh", "-c", "x"})
	want := []string{"/i", "enter", "--cgroup", "/c", "--ns", "3", "--ns", "4", "--setsid", "--tty", "--", "sh", "-c", "x"}
	if !slices.Equal(got, want) {
		t.Errorf("EnterArgs = %q, want %q", got, want)
	}
}

// programs returns the committed program and, with a compiler, one built now.
func programs(t *testing.T) map[string]string {
	t.Helper()
	path, err := Install(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]string{"committed": path}
	if _, err := exec.LookPath("gcc"); err == nil && runtime.GOARCH == "amd64" {
		fresh := filepath.Join(t.TempDir(), "init")
		if out, err := exec.Command("c/build.sh", "amd64", fresh).CombinedOutput(); err != nil {
			t.Fatalf("building: %v\n%s", err, out)
		}
		list["built now"] = fresh
	}
	return list
}

func each(t *testing.T, test func(t *testing.T, path string)) {
	t.Helper()
	for name, path := range programs(t) {
		t.Run(name, func(t *testing.T) { test(t, path) })
	}
}

func status(t *testing.T, args []string) (int, string) {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil && !asExit(err) {
		t.Fatal(err)
	}
	code := 0
	if e, ok := err.(*exec.ExitError); ok {
		code = e.ExitCode()
	}
	return code, string(out)
}

func asExit(err error) bool { _, ok := err.(*exec.ExitError); return ok }

func TestExitStatus(t *testing.T) {
	notProgram := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(notProgram, []byte("neither ELF nor script"), 0o755); err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, path string) {
		tests := []struct {
			argv []string
			want int
			says string
		}{
			{[]string{"/bin/true"}, 0, ""},
			{[]string{"sh", "-c", "exit 7"}, 7, ""},
			{[]string{"sh", "-c", "kill -9 $$"}, 128 + 9, ""},
			{[]string{"sh", "-c", "kill -SEGV $$"}, 128 + 11, ""},
			{[]string{"/no/such/program"}, 127, "migrate: executing /no/such/program: no such file or directory\n"},
			{[]string{"no-such-program"}, 127, "migrate: executing no-such-program: no such file or directory\n"},
			{[]string{"/"}, 127, "migrate: executing /: permission denied\n"},
			{[]string{notProgram}, 127, "migrate: executing " + notProgram + ": not an executable format\n"},
			{[]string{""}, 127, "migrate: executing : no such file or directory\n"},
			{[]string{"sh", "-c", "exit 3", strings.Repeat("x", 5000)}, 3, ""},
		}
		for _, tt := range tests {
			for _, args := range [][]string{InitArgs(path, tt.argv), EnterArgs(path, Enter{}, tt.argv), EnterArgs(path, Enter{Session: true}, tt.argv)} {
				code, out := status(t, args)
				if code != tt.want || out != tt.says {
					t.Errorf("%.80q = %d, %q, want %d, %q", args[1:], code, out, tt.want, tt.says)
				}
			}
		}
	})
}

func TestUsage(t *testing.T) {
	each(t, func(t *testing.T, path string) {
		wrong := [][]string{
			{}, {"init"}, {"init", "--"}, {"init", "sh"}, {"enter"}, {"enter", "--"}, {"enter", "--ns"},
			{"enter", "sh"}, {"enter", "--what", "3", "--", "sh"}, {"other", "--", "sh"},
		}
		for _, args := range wrong {
			if code, out := status(t, append([]string{path}, args...)); code != 2 || !strings.HasPrefix(out, "migrate: ") || strings.Count(out, "\n") != 1 {
				t.Errorf("%q = %d, %q, want 2 and one line", args, code, out)
			}
		}
		impossible := [][]string{{"--ns", "99", "--", "sh"}, {"--ns", "x", "--", "sh"}, {"--cgroup", "/no/such", "--", "sh"}}
		for _, args := range impossible {
			if code, out := status(t, append([]string{path, "enter"}, args...)); code != 127 || strings.Count(out, "\n") != 1 {
				t.Errorf("%q = %d, %q, want 127 and one line", args, code, out)
			}
		}
	})
}

// run starts args with a reader for its output; it is killed when the test ends.
func run(t *testing.T, attr *syscall.SysProcAttr, args []string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, bufio.NewReader(out)
}

func line(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	s, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("reading a line: %q, %v", s, err)
	}
	return strings.TrimSuffix(s, "\n")
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
}

var forwarded = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGUSR1,
	syscall.SIGUSR2, syscall.SIGTERM, syscall.SIGCONT, syscall.SIGWINCH,
}

// tellEnv makes this program tell which signals it gets, and do nothing else. A
// shell may lose one that comes while it starts a command.
const tellEnv = "TINYINIT_TELL_SIGNALS"

func TestMain(m *testing.M) {
	if os.Getenv(tellEnv) == "" {
		os.Exit(m.Run())
	}
	got := make(chan os.Signal, len(forwarded))
	signal.Notify(got, forwarded...)
	fmt.Println("ready")
	for s := range got {
		fmt.Println(s)
	}
}

func TestForwardsSignals(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, path string) {
		cmd, out := run(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Setsid: true}, InitArgs(path, []string{"env", tellEnv + "=1", os.Args[0]}))
		line(t, out)
		for _, sig := range forwarded {
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if got := line(t, out); got != sig.String() {
				t.Errorf("signal %v arrived as %q", sig, got)
			}
		}
	})
}

// TestReapsOrphans makes many orphans and looks for zombies.
func TestReapsOrphans(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, path string) {
		script := "i=0; while [ $i -lt 50 ]; do (sleep 0.01 &); i=$((i+1)); done; sleep 0.3; echo ready; exec sleep 100"
		cmd, out := run(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Setsid: true}, InitArgs(path, []string{"sh", "-c", script}))
		line(t, out)
		if list := children(t, cmd.Process.Pid); len(list) != 1 || strings.Contains(list[0], ") Z ") {
			t.Errorf("children of the init: %q", list)
		}
	})
}

func children(t *testing.T, pid int) []string {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, file := range stats {
		b, _ := os.ReadFile(file)
		if regexp.MustCompile(fmt.Sprintf(`\) . %d `, pid)).Match(b) {
			list = append(list, string(b))
		}
	}
	return list
}

// TestEnterNamespaces joins every kind that needs it, of a running process.
func TestEnterNamespaces(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, path string) {
		cmd, out := run(t, nil, []string{"unshare", "-p", "-f", "--kill-child", "-T", "-n", "-u", "-i", "-m", "-C", "--monotonic", "5000000", path, "init", "--", "sh", "-c", "echo ready; sleep 100"})
		line(t, out)
		inner := children(t, cmd.Process.Pid)
		if len(inner) != 1 {
			t.Fatalf("children of unshare: %q", inner)
		}
		pid, _, _ := strings.Cut(inner[0], " ")
		args := Enter{}
		kinds := []string{"time", "net", "uts", "ipc", "cgroup", "pid", "mnt"}
		enter := exec.Command("x")
		for i, kind := range kinds {
			f, err := os.Open("/proc/" + pid + "/ns/" + kind)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			enter.ExtraFiles = append(enter.ExtraFiles, f)
			args.Namespaces = append(args.Namespaces, 3+i)
		}
		var got bytes.Buffer
		script := "for k in " + strings.Join(kinds, " ") + "; do readlink /proc/self/ns/$k; done; echo open; readlink /proc/$$/fd/*; exit 9"
		// A mount namespace has the old /proc; numbers of our own are not in it, but "self" is not needed.
		argv := EnterArgs(path, args, []string{"sh", "-c", "mount -t proc proc /proc; " + script})
		enter.Path, enter.Args, enter.Stdout, enter.Stderr = argv[0], argv, &got, &got
		enter.Err = nil
		err := enter.Run()
		if e, ok := err.(*exec.ExitError); !ok || e.ExitCode() != 9 {
			t.Fatalf("enter: %v\n%s", err, got.String())
		}
		lines := strings.Fields(got.String())
		for i, kind := range kinds {
			if want, _ := os.Readlink("/proc/" + pid + "/ns/" + kind); i >= len(lines) || lines[i] != want {
				t.Errorf("%s namespace: got %q, want %s", kind, lines, want)
			}
		}
		if _, open, _ := strings.Cut(got.String(), "open\n"); regexp.MustCompile(`(?m)^[a-z]+:\[402`).MatchString(open) {
			t.Errorf("the program has namespaces open:\n%s", open)
		}
	})
}

// TestTerminal: the program has the foreground, Ctrl-C reaches it and not the
// init, and Ctrl-Z does not leave it stopped.
func TestTerminal(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, path string) {
		script := "trap 'echo int; exit 4' INT; echo ready; read x"
		for name, args := range map[string][]string{
			"init":  InitArgs(path, []string{"sh", "-c", script}),
			"enter": EnterArgs(path, Enter{Terminal: true}, []string{"sh", "-c", script}),
		} {
			master, slave, err := pty.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer master.Close()
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
			cmd.SysProcAttr = &syscall.SysProcAttr{}
			if name == "init" {
				cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Cloneflags: syscall.CLONE_NEWPID}
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			slave.Close()
			timer := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
			defer timer.Stop()
			r := bufio.NewReader(master)
			for stat := ""; !strings.HasPrefix(stat, "ready"); stat, _ = r.ReadString('\n') {
				if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
					t.Fatal(err)
				}
			}
			_, _ = master.Write([]byte{26}) // Ctrl-Z
			time.Sleep(50 * time.Millisecond)
			_, _ = master.Write([]byte{3}) // Ctrl-C
			rest, _ := io.ReadAll(r)
			if !strings.Contains(string(rest), "int\r\n") {
				t.Errorf("%s: Ctrl-C after Ctrl-Z gave %q", name, rest)
			}
			err = cmd.Wait()
			if e, ok := err.(*exec.ExitError); !ok || e.ExitCode() != 4 {
				t.Errorf("%s: ended with %v, want status 4", name, err)
			}
		}
	})
}

func TestEnterCgroup(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, path string) {
		var dir string
		for _, top := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
			if _, err := os.Stat(top + "/cgroup.procs"); err == nil {
				dir = fmt.Sprintf("%s/migrate-tinyinit-%d", top, os.Getpid())
				break
			}
		}
		if dir == "" {
			t.Skip("this machine has no unified cgroup hierarchy")
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			for range 100 {
				if syscall.Rmdir(dir) == nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Errorf("%s is still there", dir)
		})
		code, out := status(t, EnterArgs(path, Enter{Cgroups: []string{dir}}, []string{"grep", "^0::", "/proc/self/cgroup"}))
		if code != 0 || out != "0::/"+filepath.Base(dir)+"\n" {
			t.Errorf("in cgroup %q, %d, want %s", out, code, dir)
		}
	})
}
