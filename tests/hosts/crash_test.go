package hosts

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"migrate/internal/testhost"
)

// Every place where one side journals, or where the other side sees what it
// journaled. At each the process stops itself; the test then kills something.
var (
	sourcePoints = []string{
		"source:preflight", "source:prepare", "source:pre-copy", "source:freeze", "source:frozen",
		"source:stop-and-copy", "source:post-dump", "source:restore", "source:before-commit",
		"source:commit", "source:finish", "source:finishing",
	}
	targetPoints = []string{
		"target:prepare", "target:restore", "target:before-held", "target:held", "target:voted",
		"target:commit", "target:resumed", "target:finish", "target:done",
	}
	supervisorPoints = []string{"supervisor:restored", "supervisor:pre-resume"}
)

// A victim is what dies; kill reports whether there was one to kill.
type victim struct {
	name string
	kill func(t *testing.T, c *crash) bool
}

var victims = []victim{
	{"source", func(t *testing.T, c *crash) bool { return pkill(c.a, "KILL", "migrate move") }},
	{"agent", func(t *testing.T, c *crash) bool { c.killAgent(t, c.b); return true }},
	{"supervisor", func(t *testing.T, c *crash) bool { return pkill(c.b, "KILL", "migrate supervise") }},
	{"source-criu", func(t *testing.T, c *crash) bool { return pkill(c.a, "KILL", "swrk") }},
	{"target-criu", func(t *testing.T, c *crash) bool { return pkill(c.b, "KILL", "swrk") }},
	{"link", func(t *testing.T, c *crash) bool { c.cut(t); return true }},
}

// absent lists who is not there to be killed, before it is started or after its
// work is done.
var absent = map[string][]string{
	"source:preflight": {"supervisor", "source-criu", "target-criu"},
	"source:prepare":   {"supervisor", "source-criu", "target-criu"},
	"source:pre-copy":  {"source-criu"},
	"source:finish":    {"target-criu"},
	"source:finishing": {"source-criu", "target-criu"},
	"target:prepare":   {"supervisor", "source-criu", "target-criu"},
	"target:resumed":   {"target-criu"},
	"target:finish":    {"target-criu"},
	"target:done":      {"source", "source-criu", "target-criu"},
}

func pkill(h *testhost.Host, signal, pattern string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := h.Output(ctx, "pkill", "-"+signal, "-f", "--", pattern)
	return err == nil
}

// TestCrash kills each part of a move at each place, and demands that in the
// end exactly one copy runs, that there were never two, and that the journals
// agree with that.
func TestCrash(t *testing.T) {
	cells := cells()
	for part := range parts {
		t.Run(fmt.Sprintf("part%d", part+1), func(t *testing.T) {
			t.Parallel()
			set := testhost.Up(t, testhost.Options{Names: []string{"A", "B"}, AgentEnv: shortIdle})
			for i := part; i < len(cells); i += parts {
				c := cells[i]
				t.Run(c.point+"/"+c.victim.name, func(t *testing.T) { runCrash(t, set, c.point, c.victim) })
			}
		})
	}
}

// parts of the matrix run side by side: most of the time they wait.
const parts = 3

// A cell of the matrix is who dies where.
type cell struct {
	point  string
	victim victim
}

// cells returns those in which a victim is there: all of them with the build tag
// slow, or else every fifth, so that each victim dies at a fifth of the points and
// a victim or two at each point.
func cells() (list []cell) {
	for i, p := range slices.Concat(sourcePoints, targetPoints, supervisorPoints) {
		for j, v := range victims {
			if !slices.Contains(absent[p], v.name) && (wholeMatrix || (i+j)%5 == 0) {
				list = append(list, cell{p, v})
			}
		}
	}
	return list
}

// shortIdle lets peers notice a lost link soon.
var shortIdle = map[string]string{"MIGRATE_IDLE_TIMEOUT": "1s"}

// A crash is one cell of the matrix under way.
type crash struct {
	a, b  *testhost.Host
	load  load
	point string
	cmd   *exec.Cmd
	out   output
	err   output
}

// output is what a command that runs has written so far.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func runCrash(t *testing.T, set *testhost.Set, point string, v victim) {
	c := &crash{a: set.Host("A"), b: set.Host("B"), point: point}
	c.restartAgents(t, pointEnv(point))
	c.load = startLoad(t, c.a, "--memory", "8", "--children", "1")
	t.Cleanup(func() { // a case that failed must not spoil the next
		stopLoad(c.b, c.load)
		if t.Failed() {
			pkill(c.b, "KILL", "migrate supervise")
		}
	})
	stop := c.watchForTwo(t)
	defer stop()
	c.startMove(t)
	if !c.awaitPoint(t) {
		t.Fatalf("the move never came to %s\nstdout: %s\nstderr: %s", point, &c.out, &c.err)
	}
	if !v.kill(t, c) {
		t.Fatalf("there was no %s to kill at %s", v.name, point)
	}
	for _, h := range []*testhost.Host{c.a, c.b} {
		pkill(h, "CONT", "migrate")
	}
	died := time.Now()
	if point == "source:pre-copy" && v.name != "source" {
		c.awaitRedial(t) // which would go on for a minute
		c.repair(t)
	}
	c.awaitEnd(t)
	ended := time.Now()
	c.repair(t)
	where := c.settle(t)
	t.Logf("the move ended after %v, all was settled %v later", ended.Sub(died), time.Since(ended))
	t.Logf("%s died at %s: one copy, on %s; exit code %d", v.name, point, where.Name, exitCode(c.cmd))
	c.checkJournals(t, where)
	c.load.verify(t, where)
	stopLoad(where, c.load)
	nothingLeft(t, c.a)
	nothingLeft(t, c.b)
}

const pointLog = "/run/failpoints"

func pointEnv(point string) map[string]string {
	return map[string]string{"MIGRATE_FAILPOINT": point, "MIGRATE_FAILPOINT_LOG": pointLog, "MIGRATE_IDLE_TIMEOUT": "1s"}
}

// restartAgents gives B's agent the failpoint, if it is one of its own, and
// both hosts a fresh log.
func (c *crash) restartAgents(t *testing.T, env map[string]string) {
	t.Helper()
	for _, h := range []*testhost.Host{c.a, c.b} {
		h.Run(t, "rm", "-f", pointLog)
	}
	if !strings.HasPrefix(c.point, "source:") {
		c.killAgent(t, c.b)
		if err := c.b.StartAgent(env); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *crash) killAgent(t *testing.T, h *testhost.Host) {
	t.Helper()
	if err := h.KillAgent(); err != nil {
		t.Fatal(err)
	}
}

func (c *crash) cut(t *testing.T) {
	t.Helper()
	if err := c.a.Cut(); err != nil {
		t.Fatal(err)
	}
}

func (c *crash) startMove(t *testing.T) {
	t.Helper()
	args := []string{"migrate", "move", c.load.ref(), "B", "--json", "--commit-timeout", "3s", "--freeze-timeout", "20s"}
	if strings.HasPrefix(c.point, "source:") {
		for k, v := range pointEnv(c.point) {
			args = append([]string{k + "=" + v}, args...)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	c.cmd = c.a.Command(ctx, "env", args...)
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.err
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// awaitPoint waits until the process has stopped itself.
func (c *crash) awaitPoint(t *testing.T) bool {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, h := range []*testhost.Host{c.a, c.b} {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", h.InitPID(), pointLog))
			if strings.Contains(string(b), c.point) {
				return true
			}
		}
	}
	return false
}

// awaitRedial waits until the source, or who kills what it talks to, has noticed.
func (c *crash) awaitRedial(t *testing.T) {
	t.Helper()
	await(t, "the source dials again, or gives up", func() bool {
		return strings.Contains(c.out.String(), `"redial"`) || strings.Contains(c.out.String(), `"result"`)
	})
}

func (c *crash) awaitEnd(t *testing.T) {
	t.Helper()
	done := make(chan struct{})
	go func() { c.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("the move does not end\nstdout: %s\nstderr: %s", &c.out, &c.err)
	}
}

// repair puts back what an operator would: the link, and the agent.
func (c *crash) repair(t *testing.T) {
	t.Helper()
	if err := c.a.Join(); err != nil {
		t.Fatal(err)
	}
	if c.b.AgentPID() != 0 && !strings.HasPrefix(c.point, "source:") {
		c.killAgent(t, c.b) // it would stop at the point in the next case
	}
	if c.b.AgentPID() == 0 {
		if err := c.b.StartAgent(shortIdle); err != nil {
			t.Fatal(err)
		}
	}
}

// settle runs "migrate recover" on both hosts until exactly one copy runs and
// goes on running.
func (c *crash) settle(t *testing.T) *testhost.Host {
	t.Helper()
	var running []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		c.recover(c.a)
		c.recover(c.b)
		if running = copies(c.load, c.a, c.b); len(running) == 1 && c.over() {
			h := c.a
			if running[0] == "B" {
				h = c.b
			}
			return h
		}
	}
	t.Fatalf("copies run on %v, want exactly one\nstdout: %s\nstderr: %s\nrecover on A: %s\nrecover on B: %s", running, &c.out, &c.err, c.recover(c.a), c.recover(c.b))
	return nil
}

func (c *crash) recover(h *testhost.Host) string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := h.Output(ctx, "migrate", "recover")
	return fmt.Sprint(out, err)
}

// over reports whether every journal record of both hosts is over.
func (c *crash) over() bool {
	for _, r := range append(records(c.a), records(c.b)...) {
		if r.Phase != "done" && r.Phase != "rolled-back" {
			return false
		}
	}
	return true
}

type record struct {
	ID    string `json:"id"`
	Side  string `json:"side"`
	Phase string `json:"phase"`
	Start string `json:"started"`
}

// records reads the journal of a host as "migrate history --json" shows it,
// the newest migration of each side last.
func records(h *testhost.Host) (list []record) {
	files, _ := filepath.Glob(h.Path("/var/lib/migrate/journal/*.json")) // the pattern is good
	for _, name := range files {
		var r record
		b, _ := os.ReadFile(name) // it may just have been replaced
		head, _, _ := bytes.Cut(b, []byte("\n"))
		if json.Unmarshal(head, &r) == nil && r.Side != "" {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(x, y record) int { return strings.Compare(x.Start, y.Start) })
	return list
}

// checkJournals compares who has the workload with what both hosts say of it.
func (c *crash) checkJournals(t *testing.T, where *testhost.Host) {
	t.Helper()
	want := "rolled-back"
	if where == c.b {
		want = "done"
	}
	sent := records(c.a)
	id := sent[len(sent)-1].ID
	for _, h := range []*testhost.Host{c.a, c.b} {
		for _, r := range records(h) {
			if r.ID == id && r.Phase != want {
				t.Errorf("%s runs the workload; the journal of %s says %s, want %s", where.Name, h.Name, r.Phase, want)
			}
		}
	}
	if code := exitCode(c.cmd); where == c.b && code == 4 || where == c.a && code == 0 {
		t.Errorf("%s runs the workload; migrate move ended with %d", where.Name, code)
	}
}

// watchForTwo asks both hosts all the time. The answer of A between two of B's
// would be a second copy.
func (c *crash) watchForTwo(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			answers := len(copies(c.load, c.b)) == 1 && len(copies(c.load, c.a)) == 1 && len(copies(c.load, c.b)) == 1
			if answers && ctx.Err() == nil {
				t.Errorf("two copies ran at the same time")
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	return func() { cancel(); done.Wait() }
}
