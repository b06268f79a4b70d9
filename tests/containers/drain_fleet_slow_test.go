//go:build slow

package containers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"migrate"
	"migrate/drain"
	"migrate/internal/testhost"
	"migrate/internal/testload"
)

// TestDrainOfTwelve empties a host that has some of everything: nothing is lost,
// whether all goes well or the command and agents are killed in the middle.
func TestDrainOfTwelve(t *testing.T) {
	l := newLAN(t, testhost.Options{AgentEnv: shortIdle}, "br0")
	c := newCrew(t, l)
	t.Run("as planned", c.testAsPlanned)
	if !t.Failed() {
		t.Run("killed", c.testKilled)
	}
}

// crew is twelve workloads that begin on A, of which one cannot be moved. B has
// no room for the large one, C no bridge for the one with clients.
type crew struct {
	lan
	checks    map[string]func(*testing.T, *testhost.Host) // by KIND:ID, of those that move
	stuck     container
	clients   *counters
	inventory string // file
}

const (
	largeRef, redisRef = "capsule:large", "runc:redis"
	crewInventory      = `hosts:
  - name: B
    capacity: {memory: 100MiB}
  - name: C
`
)

func newCrew(t *testing.T, l lan) *crew {
	t.Helper()
	c := &crew{lan: l, checks: map[string]func(*testing.T, *testhost.Host){}, inventory: filepath.Join(t.TempDir(), "hosts.yaml")}
	if err := os.WriteFile(c.inventory, []byte(crewInventory), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, h := range c.hosts() { // the number of a process that moves is free there
		h.Run(t, "sh", "-c", fmt.Sprintf("echo %d >/proc/sys/kernel/ns_last_pid", 1000+10000*i))
	}
	for i := range 4 {
		c.capsule(t, fmt.Sprintf("small%d", i), 7100+i, 2+i)
	}
	c.capsule(t, "large", 7110, 110)
	c.process(t, 7120)
	for _, who := range []string{"runc:one", "runc:two", "crun:three", "crun:four"} {
		runtime, id, _ := strings.Cut(who, ":")
		box := load(t, l.a, runtime, id, nil, "--memory", "4", "--children", "0", "--threads", "1", "--tick", "50ms")
		c.checks[who] = func(t *testing.T, h *testhost.Host) { box.verify(t, h) }
	}
	l.redis(t, l.a, "runc", "redis", true, "10.77.0.50/24")
	c.clients = count(t, l.client, "10.77.0.50:6379", 20, restful)
	l.a.Run(t, "migrate", "label", redisRef, "tcp=established")
	c.checks[redisRef] = func(t *testing.T, _ *testhost.Host) { c.clients.check(t) }
	c.stuck = start(t, l.a, "crun", "stuck", nil, "sleep", "1000")
	l.a.Run(t, "crun", "pause", "stuck")
	return c
}

func (c *crew) hosts() []*testhost.Host { return []*testhost.Host{c.a, c.b, c.client} }

func (c *crew) named(name string) *testhost.Host {
	i := slices.IndexFunc(c.hosts(), func(h *testhost.Host) bool { return h.Name == name })
	return c.hosts()[i]
}

func selfChecking(t *testing.T, port, memory int) []string {
	t.Helper()
	return []string{"testload", "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--dir", t.TempDir(), "--memory", itoa(memory),
		"--children", "0", "--threads", "1", "--tick", "50ms"}
}

// answers demands that the workload on a port of a host is well.
func answers(port int) func(*testing.T, *testhost.Host) {
	return func(t *testing.T, h *testhost.Host) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		s, err := testload.Await(ctx, h, fmt.Sprintf("127.0.0.1:%d", port))
		if err = errors.Join(err, s.Check()); err != nil {
			t.Errorf("port %d of %s: %v", port, h.Name, err)
		}
	}
}

func (c *crew) capsule(t *testing.T, name string, port, memory int) {
	t.Helper()
	c.a.Run(t, append([]string{"migrate", "run", "--name", name, "--"}, selfChecking(t, port, memory)...)...)
	c.checks["capsule:"+name] = answers(port)
	answers(port)(t, c.a)
}

func (c *crew) process(t *testing.T, port int) {
	t.Helper()
	pid, err := c.a.Start(t.Context(), selfChecking(t, port, 4)...)
	if err != nil {
		t.Fatal(err)
	}
	answers(port)(t, c.a)
	ref := "process:" + itoa(pid)
	c.a.Run(t, "migrate", "label", ref, "app=plain")
	c.checks[ref] = answers(port)
}

// on demands that each workload runs on one host, the one that where names, and
// is well there.
func (c *crew) on(t *testing.T, where func(ref string) string) {
	t.Helper()
	found := map[string][]string{}
	for _, h := range c.hosts() {
		for line := range strings.Lines(h.Run(t, "migrate", "ps", "--all", "--json")) {
			var row listed
			if err := json.Unmarshal([]byte(line), &row); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if row.PID != 0 {
				found[row.Ref] = append(found[row.Ref], h.Name)
			}
		}
	}
	for ref, check := range c.checks {
		if !slices.Equal(found[ref], []string{where(ref)}) {
			t.Errorf("%s runs on %q, want %s", ref, found[ref], where(ref))
			continue
		}
		check(t, c.named(where(ref)))
	}
	if status, _ := c.stuck.state(c.a); status != "paused" || !slices.Equal(found[c.stuck.ref()], []string{"A"}) {
		t.Errorf("what cannot be moved is %q, on %q", status, found[c.stuck.ref()])
	}
}

func onA(string) string { return "A" }

// command is one of migrate's that tells of a drain.
type command struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
}

// begin starts a command of the operator, who is on C.
func (c *crew) begin(t *testing.T, args ...string) *command {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	m := &command{cmd: c.client.Command(ctx, "migrate", append(args, "--json")...)}
	m.cmd.Stdout, m.cmd.Stderr = &m.stdout, &m.stderr
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return m
}

// end waits for the command and demands its exit status.
func (m *command) end(t *testing.T, code int) testhost.Drained {
	t.Helper()
	_ = m.cmd.Wait() // the exit status says it
	d, err := testhost.Drain(m.stdout.String())
	if got := m.cmd.ProcessState.ExitCode(); got != code || err != nil {
		t.Fatalf("%s: exit status %d, want %d; %v\n%s\n%+v", m.cmd.Args, got, code, err, m.stderr.String(), d.Result)
	}
	return d
}

func (c *crew) drain(more ...string) []string {
	return append([]string{"drain", "A", "--inventory", c.inventory, "--action", "skip"}, more...)
}

// places returns where each workload goes or went.
func places(r drain.Record) map[string]string {
	m := map[string]string{}
	for _, it := range r.Items {
		m[it.Ref] = it.Target
	}
	return m
}

func item(r drain.Record, ref string) (it drain.Item) {
	if i := slices.IndexFunc(r.Items, func(it drain.Item) bool { return it.Ref == ref }); i >= 0 {
		it = r.Items[i]
	}
	return it
}

func (c *crew) testAsPlanned(t *testing.T) {
	dry := c.begin(t, c.drain("--dry-run")...).end(t, 0)
	plan := dry.Plans[len(dry.Plans)-1]
	c.checkPlan(t, plan)
	c.on(t, onA)
	if out := c.a.Run(t, "migrate", "history", "--json"); out != "" {
		t.Errorf("a dry run moved something: %s", out)
	}
	c.client.Run(t, "migrate", "check", "A/capsule:small0", "B") // neither host is cordoned, nor asked for anything

	began := time.Now()
	d := c.begin(t, c.drain()...).end(t, 4)
	t.Logf("drained in %v; the clients waited %v at most", time.Since(began), c.clients.gap())
	if got := places(d.Result); !maps.Equal(got, places(plan)) {
		t.Errorf("went to %v, the plan was %v", got, places(plan))
	}
	if most, err := d.AtOnce(); most != 2 || err != nil {
		t.Errorf("%d moves at once, want 2: %v", most, err)
	}
	if d.Result.Moved() != len(c.checks) || d.Result.Left() != 1 || d.Result.Status != drain.Failed {
		t.Errorf("%d moved, %d left, %s", d.Result.Moved(), d.Result.Left(), d.Result.Status)
	}
	if it := item(d.Result, c.stuck.ref()); it.State != drain.StateSkipped || it.Failure == nil || !strings.Contains(it.Failure.What, "paused") {
		t.Errorf("%s: %s, %+v", it.Ref, it.State, it.Failure)
	}
	c.on(t, func(ref string) string {
		return d.Result.Items[slices.IndexFunc(d.Result.Items, func(it drain.Item) bool { return it.Ref == ref })].Target
	})
	if out, err := c.b.Output(t.Context(), "migrate", "check", redisRef, "A", "--tcp", "established"); err == nil || !strings.Contains(out, "cordoned") {
		t.Errorf("the host that was drained takes workloads: %s, %v", out, err)
	}

	c.clients.gap()
	u := c.begin(t, "undrain", "A").end(t, 0)
	t.Logf("undrained; the clients waited %v at most", c.clients.gap())
	if u.Result.Moved() != len(c.checks) {
		t.Errorf("%d came back", u.Result.Moved())
	}
	c.on(t, onA)
}

// checkPlan demands that each goes to where it can, and has its reasons.
func (c *crew) checkPlan(t *testing.T, plan drain.Record) {
	t.Helper()
	if len(plan.Items) != 12 {
		t.Errorf("%d workloads in the plan: %v", len(plan.Items), places(plan))
	}
	for ref, want := range map[string][3]string{ // target, which one is rejected, and why
		largeRef: {"C", "B", "capacity"}, redisRef: {"B", "C", "network-bridge"}, c.stuck.ref(): {"", "", ""},
	} {
		it := item(plan, ref)
		why := slices.ContainsFunc(it.Rejected, func(r drain.Rejection) bool { return r.Target == want[1] && r.Code == want[2] })
		if it.Target != want[0] || want[2] != "" && !why {
			t.Errorf("%s goes to %q, rejected: %+v; want %q", ref, it.Target, it.Rejected, want)
		}
	}
	for _, it := range plan.Items {
		if it.Why == "" {
			t.Errorf("%s has no reason", it.Ref)
		}
	}
}

// testKilled kills the operator's command, the agent of the source, and in what
// goes on that of a target.
func (c *crew) testKilled(t *testing.T) {
	before := c.departures(t)
	m := c.begin(t, c.drain("--bandwidth", "8MB")...)
	c.awaitMoved(t, 3)
	c.client.Run(t, "pkill", "-KILL", "-f", "--", "migrate drain")
	_ = m.cmd.Wait() // killed
	restart(t, c.a)

	m = c.begin(t, "drain", "A", "--resume")
	c.awaitMoved(t, 6)
	restart(t, c.b)
	d := m.end(t, 4)
	if d.Result.Moved() != len(c.checks) {
		t.Errorf("%d moved: %+v", d.Result.Moved(), d.Result.Items)
	}
	went := places(d.Result)
	c.on(t, func(ref string) string { return went[ref] })
	for ref, n := range c.departures(t) {
		if n-before[ref] != 1 {
			t.Errorf("%s has left %d times", ref, n-before[ref])
		}
	}
	if out := c.client.Run(t, "migrate", "report", string(d.Result.ID)); !strings.Contains(out, "asked for on") || !strings.Contains(out, redisRef) {
		t.Errorf("report:\n%s", out)
	}
	c.begin(t, "undrain", "A").end(t, 0)
	c.on(t, onA)
	c.clients.stop(t)
}

// restart kills a host's agent and starts another one.
func restart(t *testing.T, h *testhost.Host) {
	t.Helper()
	if err := h.KillAgent(); err != nil {
		t.Fatal(err)
	}
	if err := h.StartAgent(shortIdle); err != nil {
		t.Fatal(err)
	}
}

// awaitMoved waits until a drain under way has moved so many, and A is about to
// move another one.
func (c *crew) awaitMoved(t *testing.T, n int) {
	t.Helper()
	await(t, fmt.Sprintf("%d have moved, another one is on its way", n), func() bool {
		var row struct {
			Live  bool
			Moved int
		}
		first, _, _ := strings.Cut(c.client.Run(t, "migrate", "history", "--drains", "--json"), "\n")
		if err := json.Unmarshal([]byte(first), &row); err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		return row.Live && row.Moved >= n && strings.Contains(c.a.Run(t, "migrate", "status", "--json"), `"live":true`)
	})
}

// departures returns how many times each workload has left A.
func (c *crew) departures(t *testing.T) map[string]int {
	t.Helper()
	n := map[string]int{}
	for ref := range c.checks {
		n[ref] = 0
	}
	for line := range strings.Lines(c.a.Run(t, "migrate", "history", "--json")) {
		var row struct {
			Side     migrate.Side
			Workload string
			Status   migrate.Status
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if _, ours := n[row.Workload]; ours && row.Side == migrate.Source && row.Status == migrate.StatusCompleted {
			n[row.Workload]++
		}
	}
	return n
}
