package hosts

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"migrate"
	"migrate/drain"
	"migrate/internal/testhost"
)

// TestDrain tests what an operator expects before and after maintenance.
func TestDrain(t *testing.T) {
	t.Parallel()
	runCases(t, []behaviour{
		{"there and back", testDrainAndBack},
		{"cordon", testCordon},
		{"side by side", testDrainParallel},
		{"deleted files of one name", testDrainDeleted},
	})
}

// runDrain runs a command that writes a drain's JSON, and demands its exit code.
func runDrain(t *testing.T, h *testhost.Host, code int, args ...string) testhost.Drained {
	t.Helper()
	return beginDrain(t, h, args...).endDrain(t, code)
}

// beginDrain starts a command that writes a drain's JSON.
func beginDrain(t *testing.T, h *testhost.Host, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	m := &running{cmd: h.Command(ctx, "migrate", append(args, "--json")...)}
	m.cmd.Stdout, m.cmd.Stderr = &m.stdout, &m.stderr
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *running) endDrain(t *testing.T, code int) testhost.Drained {
	t.Helper()
	_ = m.cmd.Wait() // the exit code says it
	d, err := testhost.Drain(m.stdout.String())
	if err != nil {
		t.Fatal(err)
	}
	if got := exitCode(m.cmd); got != code {
		t.Fatalf("%s: exit code %d, want %d\n%s\n%+v", m.cmd.Args, got, code, m.stderr.String(), d.Result)
	}
	return d
}

// A fleet is the workloads of a test, by SRC. Those without a port are quiet:
// on a small machine there cannot be many that check themselves.
type fleet map[string]load

// quiet starts a capsule that has some memory which does not compress, and does
// nothing.
func (f fleet) quiet(t *testing.T, h *testhost.Host, name string, mib int, labels ...string) {
	t.Helper()
	args := []string{"migrate", "run", "--name", name}
	for _, label := range labels {
		args = append(args, "--label", label)
	}
	program := fmt.Sprintf("import os,time; b=os.urandom(%d<<20); print('ready',flush=True); time.sleep(12345)", mib)
	h.Run(t, append(args, "--", "/usr/bin/python3", "-c", program)...)
	f["capsule:"+name] = load{}
	await(t, name+" is ready", func() bool { return strings.Contains(h.Run(t, "migrate", "logs", name), "ready") })
}

// runsOn returns the hosts that a workload runs on.
func (f fleet) runsOn(t *testing.T, h trio, ref string) (list []string) {
	t.Helper()
	if l := f[ref]; l.port != 0 {
		await(t, ref+" answers", func() bool { list = copies(l, h.a, h.b, h.c); return len(list) > 0 })
		return list
	}
	for _, host := range []*testhost.Host{h.a, h.b, h.c} {
		for line := range strings.Lines(host.Run(t, "migrate", "ps", "--all", "--json")) {
			var row struct{ Ref, State string }
			if json.Unmarshal([]byte(line), &row) == nil && row.Ref == ref && row.State == "running" {
				list = append(list, host.Name)
			}
		}
	}
	return list
}

// add starts a capsule, or a process with a label.
func (f fleet) add(t *testing.T, h *testhost.Host, kind, name string, labels []string, args ...string) {
	t.Helper()
	l := load{port: 7100 + len(f)}
	args = append(args, "--children", "0", "--threads", "1")
	program := append([]string{"testload", "--listen", fmt.Sprintf("0.0.0.0:%d", l.port), "--dir", t.TempDir()}, args...)
	if kind == "capsule" {
		run := []string{"migrate", "run", "--name", name}
		for _, label := range labels {
			run = append(run, "--label", label)
		}
		h.Run(t, append(append(run, "--"), program...)...)
		f["capsule:"+name] = l
	} else {
		pid, err := h.Start(t.Context(), program...)
		if err != nil {
			t.Fatal(err)
		}
		l.pid = pid
		h.Run(t, append([]string{"migrate", "label", l.ref()}, labels...)...)
		f[l.ref()] = l
	}
	t.Cleanup(func() { stopLoad(h, l) })
	l.awaitReady(t, h)
}

// on demands that each workload runs on exactly one host: the one that where
// names.
func (f fleet) on(t *testing.T, h trio, where func(ref string) string) {
	t.Helper()
	for ref, l := range f {
		got := f.runsOn(t, h, ref)
		if len(got) != 1 || got[0] != where(ref) {
			t.Errorf("%s runs on %q, want %s", ref, got, where(ref))
		} else if l.port != 0 {
			l.verify(t, h.named(where(ref)))
		}
	}
}

func (h trio) named(name string) *testhost.Host {
	return map[string]*testhost.Host{"A": h.a, "B": h.b, "C": h.c}[name]
}

func always(host string) func(string) string { return func(string) string { return host } }

// cleanCordons lifts what a case has left.
func cleanCordons(t *testing.T, h trio) {
	t.Cleanup(func() {
		for _, host := range []*testhost.Host{h.a, h.b, h.c} {
			pkill(host, "KILL", "migrate (un)?drain|sleep.1234")
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			if _, err := host.Output(ctx, "rm", "-rf", "/var/lib/migrate/cordon.json", "/var/lib/migrate/drains"); err != nil {
				t.Error(err)
			}
			cancel()
		}
	})
}

const inventory = `hosts:
  - name: B
    capacity: {memory: 56MiB}
  - name: C
    labels: {zone: far}
`

// testDrainAndBack drains a host with workloads of both kinds, of which one
// cannot be moved and one is too large for the first target.
func testDrainAndBack(t *testing.T, h trio) {
	cleanCordons(t, h)
	f := fleet{}
	for i := range 4 {
		f.quiet(t, h.a, fmt.Sprintf("web%d", i), i, "app=web")
	}
	f.add(t, h.a, "capsule", "large", nil, "--memory", "64")
	f.quiet(t, h.a, "far", 1, "target/zone=far")
	f.add(t, h.a, "process", "", []string{"app=db"}, "--memory", "2")
	pid, err := h.a.Start(t.Context(), "unshare", "--mount", "sleep", "1234")
	if err != nil {
		t.Fatal(err)
	}
	stuck := fmt.Sprintf("process:%d", pid)
	await(t, "the program that cannot be moved runs", func() bool {
		_, err := h.a.Output(t.Context(), "pgrep", "-x", "sleep")
		return err == nil
	})
	h.a.Run(t, "migrate", "label", stuck, "app=stuck")
	file := filepath.Join(t.TempDir(), "hosts.yaml")
	if err := os.WriteFile(file, []byte(inventory), 0o600); err != nil {
		t.Fatal(err)
	}
	// Without a word on what cannot be moved nothing is touched.
	if d := runDrain(t, h.a, 3, "drain", "--inventory", file); d.Result.Status != drain.Blocked || len(d.Steps) > 0 {
		t.Errorf("%s, steps %+v", d.Result.Status, d.Steps)
	}
	f.on(t, h, always("A"))
	dry := runDrain(t, h.a, 0, "drain", "--inventory", file, "--action", "skip", "--dry-run")
	plan := targetsOf(t, dry.Plans[len(dry.Plans)-1])
	if plan["capsule:large"] != "C" || plan["capsule:far"] != "C" || plan[stuck] != "" {
		t.Errorf("plan %v", plan)
	}
	table := h.a.Run(t, "migrate", "drain", "--inventory", file, "--action", "skip", "--dry-run")
	if !strings.Contains(table, "(stays)") || !strings.Contains(table, "mount namespace") || !strings.Contains(table, "capsule:large") {
		t.Errorf("plan for people:\n%s", table)
	}
	if out := h.a.Run(t, "migrate", "history"); strings.Contains(out, "web0") {
		t.Errorf("a dry run moved something:\n%s", out)
	}

	d := runDrain(t, h.a, 4, "drain", "--inventory", file, "--action", "skip")
	if got := targetsOf(t, d.Result); !equalTargets(got, plan) {
		t.Errorf("went to %v, the plan was %v", got, plan)
	}
	atMost(t, d, 2)
	if d.Progress == 0 || d.Result.Moved() != 7 || d.Result.Left() != 1 {
		t.Errorf("%d moved, %d left, %d reports of progress", d.Result.Moved(), d.Result.Left(), d.Progress)
	}
	for _, it := range d.Result.Items {
		if it.Ref == stuck && (it.State != drain.StateSkipped || it.Failure == nil || !strings.Contains(it.Failure.What, "mount namespace")) {
			t.Errorf("%s: %s, %+v", it.Ref, it.State, it.Failure)
		}
	}
	f.on(t, h, func(ref string) string { return plan[ref] })
	if out := h.named(plan["capsule:web1"]).Run(t, "migrate", "ps", "--json"); !strings.Contains(out, `"labels":{"app":"web"}`) {
		t.Errorf("labels have not moved along:\n%s", out)
	}
	back, code, _ := tryMove(t, h.named(plan["capsule:web0"]), "capsule:web0", "A")
	if code != 3 || !slices.ContainsFunc(back.Blockers, func(b migrate.Finding) bool { return b.Code == "cordoned" && b.Advice != "" }) {
		t.Errorf("a move to a cordoned host: exit code %d, %+v", code, back.Blockers)
	}
	report := h.a.Run(t, "migrate", "report", string(d.Result.ID))
	history := h.a.Run(t, "migrate", "history", "--drains")
	if !strings.Contains(report, "capsule:large") || !strings.Contains(history, string(d.Result.ID)) || !strings.Contains(history, "failed") {
		t.Errorf("report:\n%s\nhistory:\n%s", report, history)
	}

	u := runDrain(t, h.a, 0, "undrain")
	if u.Result.Moved() != 7 {
		t.Errorf("undrain: %+v", u.Result)
	}
	f.on(t, h, always("A"))
	if out, err := h.a.Output(t.Context(), "migrate", "undrain"); err == nil || !strings.Contains(err.Error(), "no drain of A") && !strings.Contains(err.Error(), "nothing") {
		t.Errorf("a second undrain: %s, %v", out, err)
	}
}

// targetsOf returns where each workload goes or went.
func targetsOf(t *testing.T, r drain.Record) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, it := range r.Items {
		if it.Why == "" {
			t.Errorf("%s goes to %q without a reason", it.Ref, it.Target)
		}
		m[it.Ref] = it.Target
	}
	return m
}

func equalTargets(a, b map[string]string) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

// atMost demands that never more moves were under way, and that it came to that.
func atMost(t *testing.T, d testhost.Drained, n int) {
	t.Helper()
	if most, err := d.AtOnce(); err != nil || most != n {
		t.Errorf("%d moves at once, want %d: %v", most, n, err)
	}
}

func testCordon(t *testing.T, h trio) {
	cleanCordons(t, h)
	f := fleet{}
	f.quiet(t, h.a, "web", 1)
	h.c.Run(t, "migrate", "cordon", "B", "--reason", "new disk")
	check, err := h.a.Output(t.Context(), "migrate", "check", "capsule:web", "B")
	if err == nil || !strings.Contains(check, "new disk") || !strings.Contains(check, "migrate uncordon B") {
		t.Errorf("check: %s, %v", check, err)
	}
	d := runDrain(t, h.a, 3, "drain", "--to", "B")
	if it := d.Result.Items[0]; it.State != drain.StateBlocked || it.Failure == nil || !strings.Contains(it.Failure.Cause, "cordoned") {
		t.Errorf("drain to a cordoned host: %+v", it)
	}
	h.b.Run(t, "migrate", "uncordon")
	runDrain(t, h.a, 0, "drain", "--to", "B")
	f.on(t, h, always("B"))
	h.a.Run(t, "migrate", "uncordon")
	move(t, h.b, "capsule:web", h.a)
}

// testDrainParallel: moves beside each other are worth it.
func testDrainParallel(t *testing.T, h trio) {
	cleanCordons(t, h)
	const capsules, parallel = 10, 4
	for i := range capsules {
		h.a.Run(t, "migrate", "run", "--name", fmt.Sprintf("small%d", i), "--", "sleep", "1234")
	}
	d := runDrain(t, h.a, 0, "drain", "--to", "B", "--max-parallel", fmt.Sprint(parallel))
	took, sum := spans(d.Result)
	t.Logf("%d capsules, %d at a time: %v, all moves together %v", capsules, parallel, took, sum)
	if limit := sum * 3 / 2 / parallel; took > limit {
		t.Errorf("%d capsules took %v, want at most %v", capsules, took, limit)
	}
	atMost(t, d, parallel)
}

// spans returns how long all moves took, from the first to the last, and the
// sum of what each took.
func spans(r drain.Record) (whole, sum time.Duration) {
	var first, last time.Time
	for _, it := range r.Items {
		for _, at := range it.Attempts {
			end := at.Started.Add(time.Duration(at.TotalTime))
			if first.IsZero() || at.Started.Before(first) {
				first = at.Started
			}
			if end.After(last) {
				last = end
			}
			sum += time.Duration(at.TotalTime)
		}
	}
	return last.Sub(first), sum
}

// testDrainDeleted: programs that have deleted a file of one name in one directory
// are not in each other's way.
func testDrainDeleted(t *testing.T, h trio) {
	cleanCordons(t, h)
	f, dir := fleet{}, t.TempDir()
	for i := range 4 {
		f.add(t, h.a, "capsule", fmt.Sprintf("deleted%d", i), nil, "--memory", "2", "--only-deleted", "--dir", dir)
	}
	d := runDrain(t, h.a, 0, "drain", "--to", "B", "--max-parallel", "4")
	for _, it := range d.Result.Items {
		if len(it.Attempts) != 1 {
			t.Errorf("%s took %d tries, the first: %+v", it.Ref, len(it.Attempts), it.Attempts[0].Failure)
		}
	}
	f.on(t, h, always("B"))
}
