package hosts

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"migrate"
	"migrate/criu"
	"migrate/internal/testhost"
)

// testRolledBack lets a host run out of space in the middle of a move: all is
// put back, and the workload runs on.
func testRolledBack(t *testing.T, in *inputs) {
	for _, c := range []struct {
		name, point string
		host        *testhost.Host
		flag        string // for the directory that gets full
		words       []string
	}{
		{"store full in pre-copy", "source:pre-copy", in.b, "--store", []string{"no space left in the target's store", "--store"}},
		{"store full while frozen", "source:frozen", in.b, "--store", []string{"no space left in the target's store", "--store"}},
		{"journal full in pre-copy", "source:before-freeze", in.a, "--state-dir", []string{"the journal of A cannot be written", "no space left", "--state-dir"}},
		{"journal full while frozen", "source:before-restore", in.a, "--state-dir", []string{"the journal of A cannot be written", "no space left", "--state-dir"}},
		{"images of the source full", "source:frozen", in.a, "--run-dir", []string{"no space left on this host", "--run-dir"}},
		{"target's journal full", "source:pre-copy", in.b, "--state-dir", []string{"the journal of B cannot be written", "no space left", "--state-dir"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := fmt.Sprintf("/run/full-%d", nextPort.Add(1))
			tmpfs(t, c.host, dir, "size=160m")
			target, flags := "B", []string{c.flag, dir}
			if c.host == in.b {
				target, flags = extraAgent(t, in.b, nil, flags...), nil
			}
			a := in.stopAt(t, c.point, in.move(target, flags...), func() { fill(t, c.host, dir) })
			failed(c.words...).check(t, a)
			in.load.verify(t, in.a)
			await(t, "nothing is left in the store", func() bool {
				return in.b.Run(t, "find", "/run", "-path", "/run/*/store/*") == ""
			})
			in.afterFull(t, c.host, c.flag, dir)
		})
	}
	t.Run("moved already", func(t *testing.T) {
		var second answer
		first := in.stopAt(t, "source:pre-copy", in.move("B"), func() { second = in.try(t, in.move("B")) })
		blocked("busy", "is not over", "migrate cancel").check(t, second)
		if first.code != 0 {
			t.Fatalf("the first move: exit status %d\n%s", first.code, first.stderr)
		}
		move(t, in.b, in.load.ref(), in.a)
	})
	t.Run("ended on the way", func(t *testing.T) {
		l := otherLoad(t, in.a)
		a := in.stopAt(t, "source:pre-copy", ofPID(l.pid, "B"), func() { end(in.a, "KILL", l.pid) })
		failed("has ended during the move", "nothing left to move").check(t, a)
	})
	t.Run("agent stopped", func(t *testing.T) {
		target := extraAgent(t, in.b, nil)
		a := in.stopAt(t, "source:pre-copy", in.move(target), func() {
			in.b.Run(t, "pkill", "-f", "--", "agent --listen "+strings.TrimPrefix(target, "B"))
		})
		failed("the agent of B is being stopped", "move again when it runs").check(t, a)
		in.load.verify(t, in.a)
	})
	move(t, in.a, in.load.ref(), in.b) // nothing of all that is in the way
	in.load.verify(t, in.b)
	move(t, in.b, in.load.ref(), in.a)
}

// afterFull demands that, once there is space again, nothing is left of the
// move but journals of moves that are over.
func (in *inputs) afterFull(t *testing.T, h *testhost.Host, flag, dir string) {
	t.Helper()
	h.Run(t, "rm", dir+"/filler")
	switch flag {
	case "--store":
		await(t, "the store is empty", func() bool { return h.Run(t, "ls", dir) == "" })
	case "--state-dir":
		await(t, "recover puts it right", func() bool {
			h.Run(t, "migrate", "--state-dir", dir, "recover")
			return !strings.Contains(h.Run(t, "migrate", "--state-dir", dir, "status"), in.load.ref())
		})
	case "--run-dir":
		const known = "criu.json" // what CRIU has answered, which a host keeps
		if left := h.Run(t, "find", dir, "-type", "f", "!", "-name", known); left != "" {
			t.Errorf("left: %s", left)
		}
	}
	in.load.verify(t, in.a)
}

// stopAt lets a move go on after it has stopped at a failpoint of its own and
// something was done.
func (in *inputs) stopAt(t *testing.T, point string, w wish, do func()) answer {
	t.Helper()
	log := fmt.Sprintf("/run/failpoints-%d", nextPort.Add(1))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w = w.with("MIGRATE_FAILPOINT="+point, "MIGRATE_FAILPOINT_LOG="+log)
	answers := make(chan answer)
	go func() { answers <- finishWish(t, in.a.Command(ctx, "env", append(w.env, w.args...)...)) }()
	await(t, point, func() bool { return inHost(in.a, log) })
	do()
	pkill(in.a, "CONT", "migrate move")
	return <-answers
}

// testNoTimeNamespaces moves a plain process to a host without time namespaces,
// whose clocks are those of the source: it is warned about, and no clock goes
// back. It then lives in none, and can go on to a host that has them.
func testNoTimeNamespaces(t *testing.T, in *inputs) {
	target := extraAgent(t, in.b, []string{"MIGRATE_PROBE_DISABLE=timens"})
	l := otherLoad(t, in.a)
	before := l.verify(t, in.a)
	a := in.try(t, ofPID(l.pid, target))
	if r := a.last.Report; a.code != 0 || r.Status != migrate.StatusCompleted || r.Owner != migrate.OwnerTarget || r.Clock.Namespace {
		t.Fatalf("exit status %d, report %+v\n%s", a.code, r, a.stderr)
	}
	if !slices.ContainsFunc(a.last.Warnings, func(f migrate.Finding) bool { return f.Code == "clock-jump" && f.Advice != "" }) {
		t.Errorf("warnings %+v, want clock-jump", a.last.Warnings)
	}
	after := l.verify(t, in.b)
	checkElapsed(t, before.Mono, after.Mono, after.Realtime-before.Realtime)
	if after.TimeNamespace != in.b.Run(t, "readlink", "/proc/1/ns/time") {
		t.Errorf("it lives in %s, not in the host's own time namespace", after.TimeNamespace)
	}
	in.b.Run(t, "pkill", "-9", "-x", "testload")
	await(t, "its supervisor ends", func() bool {
		out, err := in.b.Output(t.Context(), "pgrep", "-f", "[m]igrate supervise")
		return err != nil && out == ""
	})
}

func checkElapsed(t *testing.T, before, after, wall int64) {
	t.Helper()
	if gained := after - before; gained < 0 || time.Duration(wall-gained).Abs() > lateness {
		t.Errorf("CLOCK_MONOTONIC gained %v while %v passed", time.Duration(gained), time.Duration(wall))
	}
}

// testConnectionClosed moves what preflight refuses to move with an established
// connection, as the advice says.
func testConnectionClosed(t *testing.T, in *inputs) {
	l := otherLoad(t, in.a)
	startInState(t, in.a, "connected", l.address())
	move(t, in.a, fmt.Sprintf("process:%d", l.pid), in.b, "--tcp", "close")
	l.verify(t, in.b)
	in.b.Run(t, "pkill", "-9", "-x", "testload")
}

// realCRIU is the one that the product finds.
func realCRIU(t *testing.T) string {
	t.Helper()
	tool, err := criu.Find(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return tool.Path
}

// hostile runs one hostile peer on A and demands that B's agent turns it away
// and keeps nothing of it.
func (in *inputs) hostile(t *testing.T, name string) {
	var stdout, stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := in.a.Command(ctx, "env", stateEnv+"=hostile", argEnv+"="+name, os.Args[0])
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	said := stdout.String()
	if !strings.Contains(said, hostilities[name].want) {
		t.Errorf("the agent said %q, want %q", said, hostilities[name].want)
	}
	if noise.MatchString(said) {
		t.Errorf("not for a user's eyes: %s", said)
	}
}
