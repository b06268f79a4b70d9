//go:build slow

package hosts

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"migrate/drain"
	"migrate/internal/testhost"
)

// TestDrainCrashes tests what an operator expects when something dies in the
// middle of a drain. It takes minutes: "make test-slow" runs it.
func TestDrainCrashes(t *testing.T) {
	runCases(t, []behaviour{
		{"operator's command and an agent are killed", testDrainKilled},
		{"command on the host is killed", testDrainKilledHere},
		{"agent dies while the command lives", testDrainAgentDies},
		{"target dies for good", testDrainTargetDies},
		{"two drains", testTwoDrains},
	})
}

// slowFleet is three capsules of which each takes some seconds to move.
func slowFleet(t *testing.T, h trio) fleet {
	t.Helper()
	cleanCordons(t, h)
	f := fleet{}
	for i := range 3 {
		f.quiet(t, h.a, fmt.Sprintf("slow%d", i), 10+i)
	}
	return f
}

// slowly has one slow capsule at a time take about two seconds.
var slowly = []string{"--max-parallel", "1", "--bandwidth", "4MB"}

// awaitStep waits until a drain under way has told of the n-th step of a kind.
func awaitMoves(t *testing.T, h *testhost.Host, moved int) {
	t.Helper()
	await(t, fmt.Sprintf("%d moved, another one is on its way", moved), func() bool {
		out := h.Run(t, "sh", "-c", "cat /var/lib/migrate/drains/*.json 2>/dev/null || true")
		return strings.Count(out, `"state":"moved"`) == moved && strings.Contains(out, `"state":"moving"`)
	})
}

func testDrainKilled(t *testing.T, h trio) {
	f := slowFleet(t, h)
	m := beginDrain(t, h.c, append([]string{"drain", "A", "--to", "B"}, slowly...)...)
	awaitMoves(t, h.c, 1)
	await(t, "the second is being copied", func() bool { return strings.Contains(h.a.Run(t, "migrate", "status"), "pre-copy round") })
	pkill(h.c, "KILL", "migrate drain")
	_ = m.cmd.Wait() // killed
	if out := h.c.Run(t, "migrate", "history", "--drains"); !strings.Contains(out, "interrupted") {
		t.Errorf("history of drains: %s", out)
	}
	if err := h.a.KillAgent(); err != nil {
		t.Fatal(err)
	}
	if err := h.a.StartAgent(nil); err != nil {
		t.Fatal(err)
	}
	d := runDrain(t, h.c, 0, "drain", "A", "--resume")
	if d.Result.Moved() != 3 {
		t.Errorf("%+v", d.Result)
	}
	f.on(t, h, always("B"))
	movedOnce(t, h.a, f)
	runDrain(t, h.c, 0, "undrain", "A")
	f.on(t, h, always("A"))
}

// movedOnce demands that each workload has left a host once, by its history.
func movedOnce(t *testing.T, h *testhost.Host, f fleet) {
	t.Helper()
	out := h.Run(t, "migrate", "history")
	for ref := range f {
		n := 0
		for line := range strings.Lines(out) {
			if strings.Contains(line, ref+" ") && strings.Contains(line, "completed") && strings.Contains(line, " source ") {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s has left %d times:\n%s", ref, n, out)
		}
	}
}

func testDrainKilledHere(t *testing.T, h trio) {
	f := slowFleet(t, h)
	m := beginDrain(t, h.a, append([]string{"drain", "--to", "B,C"}, slowly...)...)
	awaitMoves(t, h.a, 1)
	pkill(h.a, "KILL", "migrate drain")
	_ = m.cmd.Wait() // killed
	d := runDrain(t, h.a, 0, "drain", "--resume")
	if d.Result.Moved() != 3 {
		t.Errorf("%+v", d.Result)
	}
	went := targetsOf(t, d.Result)
	f.on(t, h, func(ref string) string { return went[ref] })
	runDrain(t, h.a, 0, "undrain")
}

func testDrainAgentDies(t *testing.T, h trio) {
	f := slowFleet(t, h)
	m := beginDrain(t, h.c, append([]string{"drain", "A", "--to", "B"}, slowly...)...)
	awaitMoves(t, h.c, 1)
	if err := h.a.KillAgent(); err != nil {
		t.Fatal(err)
	}
	if err := h.a.StartAgent(nil); err != nil {
		t.Fatal(err)
	}
	d := m.endDrain(t, 0)
	if d.Result.Moved() != 3 {
		t.Errorf("%+v", d.Result)
	}
	f.on(t, h, always("B"))
	runDrain(t, h.c, 0, "undrain", "A")
}

// testDrainTargetDies: what was to go to a host that died goes to another one.
func testDrainTargetDies(t *testing.T, h trio) {
	f := slowFleet(t, h)
	m := beginDrain(t, h.a, append([]string{"drain", "--to", "B,C"}, slowly...)...)
	awaitMoves(t, h.a, 1)
	if err := h.b.KillAgent(); err != nil {
		t.Fatal(err)
	}
	d := m.endDrain(t, 0)
	if err := h.b.StartAgent(nil); err != nil {
		t.Fatal(err)
	}
	went := targetsOf(t, d.Result)
	retried := slices.ContainsFunc(d.Steps, func(s drain.Step) bool { return s.Step == "retry" && s.Failure != nil })
	if went["capsule:slow2"] != "C" && went["capsule:slow1"] != "C" || !retried {
		t.Errorf("went to %v, steps %+v", went, d.Steps)
	}
	f.on(t, h, func(ref string) string { return went[ref] })
	runDrain(t, h.a, 0, "undrain")
}

func testTwoDrains(t *testing.T, h trio) {
	f := slowFleet(t, h)
	m := beginDrain(t, h.a, append([]string{"drain", "--to", "B"}, slowly...)...)
	awaitMoves(t, h.a, 0)
	out, err := h.c.Output(t.Context(), "migrate", "drain", "A", "--to", "B")
	if err == nil || !strings.Contains(err.Error(), "is being drained already") {
		t.Errorf("a second drain: %s, %v", out, err)
	}
	if out, err := h.a.Output(t.Context(), "migrate", "uncordon"); err == nil || !strings.Contains(err.Error(), "is being drained already") {
		t.Errorf("uncordon: %s, %v", out, err)
	}
	if all := h.c.Run(t, "migrate", "status", "--all", "--host", "A,B"); !strings.Contains(all, "capsule:slow0") {
		t.Errorf("status of all hosts: %s", all)
	}
	pkill(h.a, "INT", "migrate drain")
	d := m.endDrain(t, 4)
	if d.Result.Status != drain.Cancelled {
		t.Errorf("interrupted: %+v", d.Result)
	}
	f.on(t, h, always("A"))
	runDrain(t, h.c, 0, "drain", "A", "--to", "B")
	f.on(t, h, always("B"))
}
