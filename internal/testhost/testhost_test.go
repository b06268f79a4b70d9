package testhost

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestHosts(t *testing.T) {
	s := Up(t, Options{Rate: "1gbit", NoAgent: true})
	a, b := s.Host("A"), s.Host("b")

	t.Run("are apart", func(t *testing.T) {
		for _, ns := range []string{"net", "pid", "mnt", "uts", "ipc", "cgroup"} {
			link := "/proc/self/ns/" + ns
			here, err := os.Readlink(link)
			if err != nil {
				t.Fatal(err)
			}
			if inA, inB := a.Run(t, "readlink", link), b.Run(t, "readlink", link); inA == inB || inA == here {
				t.Errorf("%s namespaces: here %s, A %s, B %s", ns, here, inA, inB)
			}
		}
		a.Run(t, "sh", "-c", "touch /run/x /var/lib/migrate/x /etc/migrate/x")
		b.Run(t, "sh", "-c", "! ls /run/x && ! ls /var/lib/migrate/x && ! ls /etc/migrate/x")
	})
	t.Run("have names", func(t *testing.T) {
		if got := a.Run(t, "hostname"); got != "A" {
			t.Errorf("hostname = %q, want A", got)
		}
		for _, name := range []string{"B", "b"} {
			if got := a.Run(t, "getent", "hosts", name); !strings.HasPrefix(got, b.Address()+" ") {
				t.Errorf("getent hosts %s = %q, want %s", name, got, b.Address())
			}
		}
	})
	t.Run("are at the root of their cgroups", func(t *testing.T) {
		for line := range strings.Lines(a.Run(t, "cat", "/proc/self/cgroup")) {
			if !strings.HasSuffix(strings.TrimSpace(line), ":/") && line != "0::/"+initCgroup && line != "0::/"+initCgroup+"\n" {
				t.Errorf("cgroup %q", line)
			}
		}
		a.Run(t, "sh", "-c", "mkdir $(dirname $(find /sys/fs/cgroup -maxdepth 2 -name cgroup.controllers))/sub")
	})
	t.Run("are shaped", func(t *testing.T) {
		if got := a.Run(t, "tc", "qdisc", "show", "dev", "eth0"); !strings.Contains(got, "tbf") || !strings.Contains(got, "1Gbit") {
			t.Errorf("tc qdisc = %q", got)
		}
	})
	t.Run("have certificates", func(t *testing.T) {
		a.Run(t, "ls", "/etc/migrate/pki/ca.crt", "/etc/migrate/pki/host.crt", "/etc/migrate/pki/host.key")
	})
	t.Run("can be cut off", func(t *testing.T) {
		carrier := func() string { return b.Run(t, "cat", "/sys/class/net/eth0/carrier") }
		if err := b.Cut(); err != nil {
			t.Fatal(err)
		}
		if got := carrier(); got != "0" || b.Linked() {
			t.Errorf("carrier after Cut = %s", got)
		}
		if err := b.Join(); err != nil {
			t.Fatal(err)
		}
		if got := carrier(); got != "1" || !b.Linked() {
			t.Errorf("carrier after Join = %s", got)
		}
	})
	t.Run("are found again", func(t *testing.T) {
		again, err := Open(s.Name())
		if err != nil || len(again.Hosts()) != 3 || again.Host("A").InitPID() != a.InitPID() {
			t.Errorf("Open = %v, %v", again, err)
		}
		if _, err := Start(Options{Set: s.Name()}); err == nil || !strings.Contains(err.Error(), "up already") {
			t.Errorf("Start again = %v", err)
		}
	})
}

func TestExec(t *testing.T) {
	a := Up(t, Options{Names: []string{"A"}, NoAgent: true}).Host("A")

	t.Run("status", func(t *testing.T) {
		for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -9 $$": 137} {
			cmd := a.Command(t.Context(), "sh", "-c", script)
			if _ = cmd.Run(); cmd.ProcessState.ExitCode() != want {
				t.Errorf("%s: status %d, want %d", script, cmd.ProcessState.ExitCode(), want)
			}
		}
		cmd := a.Command(t.Context(), "no-such-command")
		if _ = cmd.Run(); cmd.ProcessState.ExitCode() != 127 {
			t.Errorf("no such command: status %d, want 127", cmd.ProcessState.ExitCode())
		}
	})
	t.Run("streams", func(t *testing.T) {
		cmd := a.Command(t.Context(), "sh", "-c", "cat; echo error >&2")
		cmd.Stdin = strings.NewReader("input\n")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if out, err := cmd.Output(); err != nil || string(out) != "input\n" || stderr.String() != "error\n" {
			t.Errorf("out %q, err %q, %v", out, stderr.String(), err)
		}
	})
	t.Run("files are not inherited", func(t *testing.T) {
		f, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd := a.Command(t.Context(), "sh", "-c", "for fd in 0 1 2 3 4 5; do readlink /proc/self/fd/$fd; done")
		cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = f, f, []*os.File{f}
		_ = cmd.Run() // the last readlink fails, as it should
		got, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(got)) {
			if line != "/dev/null\n" && !strings.HasPrefix(line, "pipe:") {
				t.Errorf("inherited %s", line)
			}
		}
	})
	t.Run("does not wait for daemons", func(t *testing.T) {
		start := time.Now()
		if got := a.Run(t, "sh", "-c", "sleep 60 & echo started"); got != "started" {
			t.Errorf("output %q", got)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("took %s", took)
		}
	})
	t.Run("orphans are reaped", func(t *testing.T) {
		pid := a.Run(t, "sh", "-c", "sh -c 'sleep 0.02' >/dev/null & echo $!")
		a.Run(t, "sh", "-c", fmt.Sprintf("for i in $(seq 500); do [ -e /proc/%s ] || exit 0; sleep 0.01; done; exit 1", pid))
	})
	t.Run("daemons", func(t *testing.T) {
		pid, err := a.Start(t.Context(), "sleep", "60")
		if err != nil {
			t.Fatal(err)
		}
		stat := strings.Fields(a.Run(t, "cat", fmt.Sprintf("/proc/%d/stat", pid)))
		if name, ppid, sid := stat[1], stat[3], stat[5]; ppid != "1" || sid != fmt.Sprint(pid) {
			t.Errorf("%s %d: parent %s, session %s", name, pid, ppid, sid)
		}
		if here := a.MachinePID(pid); here == 0 || innermostPID(here) != pid {
			t.Errorf("MachinePID(%d) = %d", pid, here)
		}
	})
}

func TestAgents(t *testing.T) {
	s := Up(t, Options{Names: []string{"A", "B"}, AgentEnv: map[string]string{"TESTHOST": "1"}})
	a := s.Host("A")
	first := a.AgentPID()
	if first == 0 || s.Host("B").AgentPID() == 0 || !hasEnv(t, first, "TESTHOST=1") {
		t.Fatalf("no agent in one of %v, or not with its environment", s.Hosts())
	}
	if err := a.KillAgent(); err != nil {
		t.Fatal(err)
	}
	if got := a.AgentPID(); got != 0 || a.listens() {
		t.Errorf("agent after KillAgent: %d", got)
	}
	if err := a.KillAgent(); err == nil {
		t.Error("KillAgent without an agent: no error")
	}
	if err := a.StartAgent(map[string]string{"TESTHOST": "2"}); err != nil {
		t.Fatal(err)
	}
	if got := a.AgentPID(); got == 0 || got == first || !hasEnv(t, got, "TESTHOST=2") {
		t.Errorf("agent after StartAgent: %d, was %d", got, first)
	}
}

func hasEnv(t *testing.T, pid int, entry string) bool {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(strings.Split(string(b), "\x00"), entry)
}

// TestDown takes down what resists: a process that the freezer holds, and one
// that was stopped.
func TestDown(t *testing.T) {
	s := Up(t, Options{Names: []string{"A"}, NoAgent: true})
	a := s.Host("A")
	var pids []int
	for range 2 {
		pid, err := a.Start(t.Context(), "sleep", "60")
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, a.MachinePID(pid))
	}
	trees, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	freeze(t, a, trees, pids[0])
	if err := syscall.Kill(pids[1], syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := s.Down(); err != nil {
		t.Fatal(err)
	}
	checkGone(t, s)
	if err := s.Down(); err != nil {
		t.Errorf("second Down: %v", err)
	}
}

// freeze freezes a process in every hierarchy that can.
func freeze(t *testing.T, h *Host, trees []hierarchy, pid int) {
	t.Helper()
	for _, tree := range trees {
		file, word := "freezer.state", "FROZEN"
		if tree.v2() {
			file, word = "cgroup.freeze", "1"
		} else if tree.options != "freezer" {
			continue
		}
		dir := filepath.Join(tree.mount, h.cgroup(), "frozen")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"cgroup.procs": fmt.Sprint(pid), file: word} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestDownAfterKill kills "hosts up" at many points and takes down what is there.
func TestDownAfterKill(t *testing.T) {
	s := Up(t, Options{Names: []string{"A"}, NoAgent: true}) // has the binary, and keeps the mount points
	for _, after := range []int{50, 250, 300, 320, 340, 360, 380, 400, 430, 460, 500, 600, 900} {
		name := fmt.Sprintf("k%d-%d", os.Getpid(), after)
		cmd := exec.CommandContext(t.Context(), s.path("bin", "hosts"), "up", "--no-agent", "--set", name)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(after) * time.Millisecond)
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		if err := Down(name); err != nil {
			t.Fatalf("killed after %d ms: %v", after, err)
		}
		checkGone(t, newSet(Options{Set: name}))
	}
}

func checkGone(t *testing.T, s *Set) {
	t.Helper()
	if _, err := os.Stat(s.path()); !os.IsNotExist(err) {
		t.Errorf("%s is left", s.path())
	}
	if err := s.eachCgroup(func(dir string) { t.Errorf("cgroup %s is left", dir) }); err != nil {
		t.Error(err)
	}
	for _, pid := range processes() {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // it may have gone
		if strings.Contains(string(b), s.path("bin")) {
			t.Errorf("process %d is left: %q", pid, b)
		}
	}
}
