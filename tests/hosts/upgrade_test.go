package hosts

import (
	"context"
	"strings"
	"testing"

	"migrate/internal/testhost"
)

// TestAgentUpgrade puts another program in the place of the agent's while
// workloads run that were started by the one before, or arrived by it.
func TestAgentUpgrade(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	l := startCapsule(t, a, "here", "--memory", "4", "--heartbeat", "10ms")
	guest := load{port: 7002}
	b.Run(t, "migrate", "run", "--name", "guest", "--", "testload", "--listen", "0.0.0.0:7002", "--dir", t.TempDir(), "--memory", "4")
	guest.awaitReady(t, b)
	move(t, b, "capsule:guest", a)
	before := map[int]int{l.port: l.verify(t, a).PID, guest.port: guest.verify(t, a).PID}

	upgrade(t, a)
	if old := a.Run(t, "sh", "-c", `for p in $(pgrep -f "[m]igrate supervise"); do readlink /proc/$p/exe; done`); strings.Count(old, "migrate (deleted)") != 2 {
		t.Errorf("supervisors run %q, want the program that was replaced", old)
	}
	lines := func() int { return strings.Count(a.Run(t, "migrate", "logs", "here"), "heartbeat") }
	was := lines()
	await(t, "its log goes on", func() bool { return lines() > was+5 })
	for _, w := range []load{l, guest} {
		if s := w.verify(t, a); s.PID != before[w.port] {
			t.Errorf("the workload on port %d has PID %d, had %d", w.port, s.PID, before[w.port])
		}
	}
	a.Run(t, "migrate", "exec", "here", "--", "true")
	move(t, a, "capsule:here", b)
	l.verify(t, b)
	move(t, b, "A/capsule:guest", b) // by the agent
	guest.verify(t, b)
	move(t, b, "capsule:here", a)
	l.verify(t, a)
	a.Run(t, "migrate", "stop", "here")
	b.Run(t, "migrate", "stop", "guest")
}

// upgrade does what a package's upgrade does: another file takes the place of
// the program, and the agent is restarted.
func upgrade(t *testing.T, h *testhost.Host) {
	t.Helper()
	const program = "/run/migrate-bin/migrate"
	// What follows the sections of a program is nobody's: it runs as before.
	h.Run(t, "sh", "-c", "cp "+program+" "+program+".new && echo another version >>"+program+".new && mv "+program+".new "+program)
	pkill(h, "TERM", "migrate agent")
	await(t, "the agent is gone", func() bool { return h.AgentPID() == 0 })
	if err := h.StartAgent(nil); err != nil {
		t.Fatal(err)
	}
	agent, err := h.Output(context.Background(), "sh", "-c", `tail -c 16 /proc/$(pgrep -f "[m]igrate agent")/exe`)
	if err != nil || agent != "another version\n" {
		t.Fatalf("the agent runs %q, %v", agent, err)
	}
}
