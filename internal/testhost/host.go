package testhost

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Host is one isolated host of a [Set].
type Host struct {
	Name  string
	set   *Set
	index int // from 1: the last byte of the address
}

// Address returns the host's address on the bridge.
func (h *Host) Address() string { return fmt.Sprintf("10.77.0.%d", h.index) }

// Dir returns the directory of the host's own files, as the machine sees it.
// The host sees it as /run/host.
func (h *Host) Dir() string { return h.path() }

func (h *Host) path(elem ...string) string {
	return h.set.path(append([]string{h.Name}, elem...)...)
}

// Command returns a command that runs in the host, found in the host's PATH.
// Its context's end is a SIGTERM to it. What its standard streams are in here
// makes no difference in there: see "hosts exec".
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, h.set.path("bin", "hosts"),
		append([]string{"exec", "--set", h.set.name, h.Name, "--", name}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	// A directory that hosts share is none where two of them may dump at a time:
	// CRIU makes one in it, always of the same name.
	cmd.Dir = "/run"
	return cmd
}

// Output runs a command in the host and returns what it wrote to its standard
// output. The error holds what it wrote to its standard error.
func (h *Host) Output(ctx context.Context, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := h.Command(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %s: %w\n%s", h.Name, strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// Start starts a daemon in the host: in a session of its own, a child of the
// host's PID 1, with /dev/null for its standard streams. It returns the PID
// that the daemon has in the host.
func (h *Host) Start(ctx context.Context, args ...string) (int, error) {
	return h.startLogged(ctx, "/dev/null", args...)
}

// startLogged is Start with standard output and error added to a file of the
// host's. A background job of sh is no group leader, so that setsid need not
// fork and $! is the daemon; sh leaves at once and PID 1 is its parent.
func (h *Host) startLogged(ctx context.Context, log string, args ...string) (int, error) {
	const script = `log=$1; shift; setsid "$@" </dev/null >>"$log" 2>&1 & echo $!`
	out, err := h.Output(ctx, append([]string{"sh", "-c", script, "sh", log}, args...)...)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

// InitPID returns the PID, as the machine sees it, of the host's PID 1, or 0
// if it has died.
func (h *Host) InitPID() int {
	b, err := os.ReadFile(h.path("init.pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || !h.set.runsOurs(pid) {
		return 0
	}
	return pid
}

// MachinePID returns the PID, as the machine sees it, of a process that has
// the given one in the host, or 0 if there is none.
func (h *Host) MachinePID(pid int) int {
	ns := pidNamespace(h.InitPID())
	for _, p := range processes() {
		if ns != "" && pidNamespace(p) == ns && innermostPID(p) == pid {
			return p
		}
	}
	return 0
}

// runsOurs reports whether a process runs the set's own copy of hosts, which
// no process but those of the set does.
func (s *Set) runsOurs(pid int) bool {
	ours, err := os.Stat(s.path("bin", "hosts"))
	if err != nil {
		return false
	}
	exe, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && os.SameFile(ours, exe)
}

// processes returns all PIDs of the machine, but those of this process.
func processes() []int {
	entries, _ := filepath.Glob("/proc/[0-9]*") // the pattern is good
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(filepath.Base(e)); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

func pidNamespace(pid int) string {
	ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)) // "" when it has gone
	return ns
}

// innermostPID returns the PID that a process has in its own namespace.
func innermostPID(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // empty when it has gone
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "NSpid:" {
			n, _ := strconv.Atoi(f[len(f)-1])
			return n
		}
	}
	return 0
}
