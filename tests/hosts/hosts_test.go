package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"migrate"
	"migrate/internal/testhost"
	"migrate/internal/testload"
)

// patience is how long a test waits for something that must come.
const patience = 30 * time.Second

// pair returns two hosts with agents.
func pair(t *testing.T) (a, b *testhost.Host) {
	t.Helper()
	set := testhost.Up(t, testhost.Options{Names: []string{"A", "B"}})
	return set.Host("A"), set.Host("B")
}

// A load is a self-checking workload, by the port that it answers on.
type load struct {
	port int
	pid  int // in its host, when it was started as a plain process
}

func (l load) address() string { return fmt.Sprintf("127.0.0.1:%d", l.port) }

func (l load) ref() string { return fmt.Sprintf("process:%d", l.pid) }

// startLoad starts a plain process, as a person would by hand.
func startLoad(t *testing.T, h *testhost.Host, args ...string) load {
	t.Helper()
	l := load{port: 7001}
	pid, err := h.Start(t.Context(), append([]string{"testload", "--listen", fmt.Sprintf("0.0.0.0:%d", l.port), "--dir", t.TempDir()}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	l.pid = pid
	t.Cleanup(func() { stopLoad(h, l) })
	l.awaitReady(t, h)
	return l
}

func stopLoad(h *testhost.Host, l load) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h.Output(ctx, "pkill", "-9", "-x", "testload") // none may be left, or all may be gone
}

func (l load) awaitReady(t *testing.T, h *testhost.Host) {
	t.Helper()
	await(t, "the workload answers", func() bool { _, err := l.tryStatus(h); return err == nil })
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	testhost.Await(t, patience, what, done)
}

// tryStatus asks the copy on a host how it is. A frozen copy does not answer.
func (l load) tryStatus(h *testhost.Host) (testload.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return l.ask(ctx, h, "status")
}

func (l load) ask(ctx context.Context, h *testhost.Host, request string) (testload.Status, error) {
	return testload.Ask(ctx, h, l.address(), request)
}

// verify has the workload check everything and fails the test if it saw
// anything wrong, ever.
func (l load) verify(t *testing.T, h *testhost.Host) testload.Status {
	t.Helper()
	s, err := l.ask(t.Context(), h, "verify")
	if err != nil {
		t.Fatalf("the workload on %s does not answer: %v", h.Name, err)
	}
	if !s.OK {
		t.Fatalf("the workload on %s found: %q", h.Name, s.Errors)
	}
	return s
}

// move moves a workload and demands that it succeeds.
func move(t *testing.T, from *testhost.Host, ref string, to *testhost.Host, flags ...string) migrate.Report {
	t.Helper()
	r, code, stderr := tryMove(t, from, ref, to.Name, flags...)
	if code != 0 || r.Status != migrate.StatusCompleted || r.Owner != migrate.OwnerTarget {
		t.Fatalf("migrate move %s %s on %s: exit code %d, report %+v, error %+v\n%s", ref, to.Name, from.Name, code, r, r.Error, stderr)
	}
	return r
}

// tryMove returns the last JSON object of a move, and its exit code.
func tryMove(t *testing.T, from *testhost.Host, ref, to string, flags ...string) (migrate.Report, int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	return finish(t, from.Command(ctx, "migrate", append([]string{"move", ref, to, "--json"}, flags...)...))
}

func finish(t *testing.T, cmd *exec.Cmd) (migrate.Report, int, string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	return result(t, cmd.Run(), &stdout), exitCode(cmd), stderr.String()
}

func exitCode(cmd *exec.Cmd) int {
	if cmd.ProcessState == nil {
		return -1
	}
	return cmd.ProcessState.ExitCode()
}

func result(t *testing.T, err error, stdout *bytes.Buffer) migrate.Report {
	t.Helper()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	r, _ := testhost.Report(stdout.String()) // none if it was refused
	return r
}

// copies returns the hosts on which the workload runs and answers.
func copies(l load, hosts ...*testhost.Host) (running []string) {
	for _, h := range hosts {
		if s, err := l.tryStatus(h); err == nil && s.OK {
			running = append(running, h.Name)
		}
	}
	return running
}

// nothingLeft demands that a host keeps no trace of a workload.
func nothingLeft(t *testing.T, h *testhost.Host) {
	t.Helper()
	const script = `pgrep -x "testload|criu"; pgrep -f "[m]igrate supervise";
		find /run/migrate/store /run/migrate/images -mindepth 1 -maxdepth 1 2>/dev/null;
		find /sys/fs/cgroup -type d -path "*migrate/*" ! -name _supervisors 2>/dev/null;
		nft list tables 2>/dev/null; true`
	var out string
	defer func() {
		if out != "" {
			t.Logf("left on host %s:\n%s", h.Name, out)
		}
	}()
	testhost.Await(t, 5*time.Second, "nothing is left on "+h.Name, func() bool {
		out = strings.TrimSpace(h.Run(t, "sh", "-c", script))
		return out == ""
	})
}
