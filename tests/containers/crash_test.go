package containers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"migrate/internal/testhost"
)

// A cell is who dies at which point of a move; see the matrix of package hosts,
// of which these are the cells in which a runtime makes a difference.
type cell struct {
	point  string
	victim string
	on     string // the host that the container runs on in the end
}

var cells = []cell{
	{"source:pre-copy", "runc --log", "A"}, // it waits for its restore, with the container made
	{"target:restore", "migrate supervise", "A"},
	{"target:restore", "runc --log", "A"},
	{"supervisor:restored", "swrk", "A"}, // the runtime has the container on record
	{"supervisor:restored", "migrate supervise", "A"},
	{"source:post-dump", "migrate move", "A"},
	{"target:voted", "migrate agent", ""}, // whether or not the vote was sent
	{"source:before-commit", "migrate move", "A"},
	{"source:commit", "migrate move", "B"}, // in doubt
	{"target:commit", "migrate agent", "B"},
	{"supervisor:pre-resume", "migrate supervise", ""}, // one copy, wherever
	{"source:finish", "migrate move", "B"},             // the container's remains are still with the runtime
}

// TestCrash kills a part of a move and demands exactly one running copy, known to
// the runtime of its host, and nothing on the other.
func TestCrash(t *testing.T) {
	t.Parallel()
	a, b := pair(t, shortIdle)
	for _, c := range someOf(cells, 3) {
		if !t.Run(c.point+"/"+strings.ReplaceAll(c.victim, " ", "-"), func(t *testing.T) { runCell(t, c, a, b) }) {
			return // what is left is in the way of all others
		}
	}
}

var shortIdle = map[string]string{"MIGRATE_IDLE_TIMEOUT": "1s"}

const pointLog = "/run/failpoints"

func runCell(t *testing.T, x cell, a, b *testhost.Host) {
	c := load(t, a, "runc", "crash", nil, "--memory", "8")
	where := c.crash(t, x, a, b)
	c.remove(where)
	c.gone(t, a)
	c.gone(t, b)
	b.Run(t, "rm", "-rf", c.bundle) // each cell has another root file system
}

// crash moves the container, kills whom the cell says, and returns where the
// container runs in the end.
func (c container) crash(t *testing.T, x cell, a, b *testhost.Host, flags ...string) *testhost.Host {
	t.Helper()
	env := map[string]string{"MIGRATE_FAILPOINT": x.point, "MIGRATE_FAILPOINT_LOG": pointLog, "MIGRATE_IDLE_TIMEOUT": "1s"}
	a.Run(t, "rm", "-f", pointLog)
	b.Run(t, "rm", "-f", pointLog)
	args := append([]string{"migrate", "move", c.ref(), "B", "--json", "--commit-timeout", "3s", "--freeze-timeout", "20s"}, flags...)
	if strings.HasPrefix(x.point, "source:") {
		for k, v := range env {
			args = append([]string{k + "=" + v}, args...)
		}
	} else {
		restartAgent(t, b, env)
	}
	t.Cleanup(func() { c.remove(b) })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := a.Command(ctx, "env", args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); !reached(x.point, a, b); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			_ = cmd.Cancel()
			_ = cmd.Wait()
			t.Fatalf("the move does not come to %s\n%s", x.point, &out)
		}
	}
	kill(t, x, a, b)
	for _, h := range []*testhost.Host{a, b} {
		h.Run(t, "sh", "-c", "pkill -CONT migrate; true")
	}
	awaitEnd(t, cmd, &out)
	restartAgent(t, b, shortIdle)
	where := settle(t, c, a, b, &out)
	if x.on != "" && where.Name != x.on {
		t.Errorf("the container runs on %s, want %s\n%s", where.Name, x.on, &out)
	}
	c.verify(t, where)
	return where
}

func reached(point string, hosts ...*testhost.Host) bool {
	for _, h := range hosts {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", h.InitPID(), pointLog))
		if strings.Contains(string(b), point) {
			return true
		}
	}
	return false
}

func kill(t *testing.T, x cell, a, b *testhost.Host) {
	t.Helper()
	h := b
	if x.victim == "migrate move" {
		h = a
	}
	if x.victim == "migrate agent" {
		if err := h.KillAgent(); err != nil {
			t.Fatal(err)
		}
		return
	}
	// A shell with the pattern on its command line must not be the one that dies.
	h.Run(t, "pkill", "-KILL", "-f", "--", "["+x.victim[:1]+"]"+x.victim[1:])
}

func restartAgent(t *testing.T, h *testhost.Host, env map[string]string) {
	t.Helper()
	if h.AgentPID() != 0 {
		if err := h.KillAgent(); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.StartAgent(env); err != nil {
		t.Fatal(err)
	}
}

func awaitEnd(t *testing.T, cmd *exec.Cmd, out *strings.Builder) {
	t.Helper()
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("the move does not end\n%s", out)
	}
}

// settle recovers both hosts until the container answers on exactly one of them
// and the other's runtime knows none.
func settle(t *testing.T, c container, a, b *testhost.Host, out *strings.Builder) *testhost.Host {
	t.Helper()
	var running, known []string
	var where *testhost.Host
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		running, known = nil, nil
		for _, h := range []*testhost.Host{a, b} {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			_, _ = h.Output(ctx, "migrate", "recover")
			cancel()
			if _, err := c.ask(h, "status"); err == nil {
				running, where = append(running, h.Name), h
			}
			if h.Run(t, c.runtime, "list", "-q") != "" {
				known = append(known, h.Name)
			}
		}
		if len(running) == 2 {
			t.Fatalf("two copies run\n%s", out)
		}
		if len(running) == 1 && slices.Equal(running, known) {
			return where
		}
	}
	t.Fatalf("after %v the container runs on %q, and is known to %s on %q\n%s", patience, running, c.runtime, known, out)
	return nil
}
