package containers

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate"
	"migrate/internal/testhost"
	"migrate/internal/testload"
)

// patience is how long a test waits for something that must come.
const patience = 30 * time.Second

// pair returns two hosts with agents.
func pair(t *testing.T, env map[string]string) (a, b *testhost.Host) {
	t.Helper()
	set := testhost.Up(t, testhost.Options{Names: []string{"A", "B"}, AgentEnv: env})
	return set.Host("A"), set.Host("B")
}

// A container is one that a test runs, by its name, on whatever host it is.
type container struct {
	runtime string
	id      string
	bundle  string // on every host; each has its own /run
	rootfs  string // of the machine, so the same on every host
}

func (c container) ref() string { return c.runtime + ":" + c.id }

const port = "127.0.0.1:7001"

// rootFS makes a root file system with busybox and testload in it.
func rootFS(t *testing.T, h *testhost.Host) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "rootfs")
	for _, d := range []string{"bin", "proc", "sys", "dev", "tmp", "etc", "data", "run"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.Run(t, "cp", "/run/migrate-bin/testload", "/bin/busybox", filepath.Join(dir, "bin"))
	for _, name := range []string{"sh", "cat", "sleep", "ls", "id", "kill", "echo", "stty", "tty"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// start runs a container with the given change to what its runtime would write
// as a configuration, by itself or by a shell script in which $RUN stands for the
// command.
func start(t *testing.T, h *testhost.Host, runtime, id string, change func(*specs.Spec), args ...string) container {
	t.Helper()
	return startBy(t, h, runtime, id, "$RUN </dev/null >/dev/null 2>&1 || { cat /run/bundles/"+id+"/log >&2; exit 1; }", change, args...)
}

func startBy(t *testing.T, h *testhost.Host, runtime, id, script string, change func(*specs.Spec), args ...string) container {
	t.Helper()
	c := container{runtime: runtime, id: id, bundle: "/run/bundles/" + id, rootfs: rootFS(t, h)}
	h.Run(t, "mkdir", "-p", c.bundle)
	h.Run(t, "sh", "-c", "cd "+c.bundle+" && rm -f config.json && "+runtime+" spec")
	var s specs.Spec
	if err := json.Unmarshal([]byte(h.Run(t, "cat", c.bundle+"/config.json")), &s); err != nil {
		t.Fatal(err)
	}
	s.Process.Terminal = false
	s.Process.Args = args
	s.Root.Path, s.Root.Readonly = c.rootfs, false
	if change != nil {
		change(&s)
	}
	c.write(t, h, s)
	run := fmt.Sprintf("%s --log %s/log run --detach --bundle %s %s", runtime, c.bundle, c.bundle, id)
	h.Run(t, "sh", "-c", strings.ReplaceAll(script, "$RUN", run))
	t.Cleanup(func() { c.remove(h) })
	return c
}

func (c container) write(t *testing.T, h *testhost.Host, s specs.Spec) {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	h.Run(t, "cp", file, c.bundle+"/config.json")
}

// load starts a container with the workload that checks itself.
func load(t *testing.T, h *testhost.Host, runtime, id string, change func(*specs.Spec), flags ...string) container {
	t.Helper()
	args := append([]string{"testload", "--listen", "0.0.0.0:7001", "--dir", "/tmp"}, flags...)
	c := start(t, h, runtime, id, change, args...)
	await(t, "the workload answers", func() bool { _, err := c.ask(h, "status"); return err == nil })
	return c
}

// Output runs a command in the container by its runtime.
func (p place) Output(ctx context.Context, args ...string) (string, error) {
	return p.host.Output(ctx, append([]string{p.runtime, "exec", p.id}, args...)...)
}

// A place is a container on a host.
type place struct {
	container
	host *testhost.Host
}

func (c container) ask(h *testhost.Host, request string) (testload.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return testload.Ask(ctx, place{c, h}, port, request)
}

// verify has the workload check everything.
func (c container) verify(t *testing.T, h *testhost.Host) testload.Status {
	t.Helper()
	s, err := c.ask(h, "verify")
	if err == nil {
		err = s.Check()
	}
	if err != nil {
		t.Fatalf("%s on %s: %v", c.ref(), h.Name, err)
	}
	return s
}

// exec runs a command in the container by its runtime.
func (c container) exec(t *testing.T, h *testhost.Host, args ...string) string {
	t.Helper()
	return strings.TrimSpace(h.Run(t, append([]string{c.runtime, "exec", c.id}, args...)...))
}

// state is what the runtime says of the container; "" if it has none.
func (c container) state(h *testhost.Host) (status string, pid int) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := h.Output(ctx, c.runtime, "state", c.id)
	var s struct {
		Status string
		PID    int
	}
	if err != nil || json.Unmarshal([]byte(out), &s) != nil {
		return "", 0
	}
	return s.Status, s.PID
}

func (c container) remove(h *testhost.Host) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, _ = h.Output(ctx, c.runtime, "delete", "--force", c.id)
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	testhost.Await(t, patience, what, done)
}

// move moves a container and demands that it succeeds, and that nothing of it
// is left where it was.
func (c container) move(t *testing.T, from, to *testhost.Host, flags ...string) migrate.Report {
	t.Helper()
	r, stderr, err := c.tryMove(from, to, flags...)
	if err != nil || r.Status != migrate.StatusCompleted || r.Owner != migrate.OwnerTarget {
		t.Fatalf("moving %s from %s to %s: %v, %s, %+v, blockers %v\n%s", c.ref(), from.Name, to.Name, err, r.Status, r.Error, r.Blockers, stderr)
	}
	t.Cleanup(func() { c.remove(to) })
	c.gone(t, from)
	if status, pid := c.state(to); status != "running" || pid == 0 {
		t.Fatalf("%s says of %s on %s: %q, process %d", c.runtime, c.id, to.Name, status, pid)
	}
	return r
}

func (c container) tryMove(from, to *testhost.Host, flags ...string) (migrate.Report, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := from.Command(ctx, "migrate", append([]string{"move", c.ref(), to.Name, "--json"}, flags...)...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	r, _ := testhost.Report(stdout.String())
	return r, stderr.String(), err
}

// gone demands that a host keeps no trace of the container but its bundle.
func (c container) gone(t *testing.T, h *testhost.Host) {
	t.Helper()
	script := fmt.Sprintf(`%s list -q; pgrep -x testload; pgrep -f "[s]wrk|[m]igrate supervise.*%s";
		find /run/migrate/store /run/migrate/images /run/migrate/w -mindepth 1 2>/dev/null;
		find /sys/fs/cgroup -type d \( -name %s -o -path "*migrate/*" ! -name _supervisors \) 2>/dev/null;
		grep -e %s/ -e " %s " -e runtime/root /proc/self/mountinfo; nft list tables 2>/dev/null; true`, c.runtime, c.id, c.id, c.bundle, c.bundle)
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
