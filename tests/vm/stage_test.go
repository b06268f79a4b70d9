package vm

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"migrate"
	"migrate/internal/testhost"
	"migrate/internal/testload"
)

// stage is two machines, and the test that they are for.
type stage struct {
	*testing.T
	set  *Set
	a, b *Machine
	row  *Row
}

// patience is how long a scenario waits for what must come: emulated, on a
// machine that is busy with others.
const patience = 2 * time.Minute

// sh runs a shell script on a machine.
func (s *stage) sh(m *Machine, script string) string {
	s.Helper()
	out, err := m.Output(s.Context(), "sh", "-c", script)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// port is where workloads answer.
const port = "7001"

// capsule starts the workload as a capsule.
func (s *stage) capsule(m *Machine, args ...string) (ref string) {
	s.Helper()
	s.sh(m, "migrate run --name load -- "+loadCommand(args))
	s.verify(m)
	return "capsule:load"
}

// process starts the workload as a plain process, whose parent is the first one.
func (s *stage) process(m *Machine, args ...string) (ref string) {
	s.Helper()
	pid := s.sh(m, "setsid "+loadCommand(args)+" >/dev/null 2>&1 </dev/null & echo $!")
	s.verify(m)
	return "process:" + strings.TrimSpace(pid)
}

func loadCommand(args []string) string {
	return "testload --only-deleted --dir /tmp --listen 0.0.0.0:" + port + " " + strings.Join(args, " ")
}

// verify has the workload check everything, and fails unless all is well.
func (s *stage) verify(m *Machine) testload.Status {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	status, err := testload.Await(ctx, m, "127.0.0.1:"+port)
	if err != nil {
		s.Fatalf("the workload on %s: %v", m.Name, err)
	}
	if err := status.Check(); err != nil {
		s.Fatalf("on %s: %v", m.Name, err)
	}
	return status
}

// limits make slowness no failure, and keep a slow machine from copying over
// and over, as no freeze would be short enough there.
func limits() []string {
	rounds := "3"
	if quick() {
		rounds = "2"
	}
	return []string{"--timeout", "20m", "--freeze-timeout", "5m", "--max-rounds", rounds}
}

// move moves a workload, and demands that it arrives and is well.
func (s *stage) move(from *Machine, ref string, to *Machine, flags ...string) (migrate.Report, testload.Status) {
	s.Helper()
	r, code, stderr := s.tryMove(from, ref, to, flags...)
	if code != 0 || r.Status != migrate.StatusCompleted || r.Owner != migrate.OwnerTarget {
		s.Fatalf("migrate move %s %s on %s: status %d, %+v\n%s", ref, to.Name, from.Name, code, r, stderr)
	}
	return r, s.verify(to)
}

// tryMove moves a workload, and returns whatever came of it.
func (s *stage) tryMove(from *Machine, ref string, to *Machine, flags ...string) (r migrate.Report, code int, stderr string) {
	s.Helper()
	args := append([]string{"migrate", "move", ref, to.Name, "--json"}, append(limits(), flags...)...)
	stdout, stderr, code, err := from.Try(s.Context(), args...)
	if err != nil {
		s.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, stderr)
	}
	r, err = testhost.Report(stdout)
	if err != nil {
		s.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, stderr)
	}
	m := moveOf(r)
	s.row.Moves = append(s.row.Moves, m)
	s.Logf("%s to %s: %s, tracker %s%s, down %v, dirty pages of the rounds %v, %.1f MiB, in %v:%s", from.Name, to.Name, r.Status,
		r.Tracker, because(r.TrackerWhy), time.Duration(r.Downtime), m.DirtyPages, float64(r.Transferred)/(1<<20), time.Duration(r.TotalTime), phases(r))
	return r, code, stderr
}

// phases tells how long each of a move's took.
func phases(r migrate.Report) string {
	var b strings.Builder
	for _, p := range r.Phases {
		fmt.Fprintf(&b, " %s %.1f s", p.Name, time.Duration(p.Duration).Seconds())
	}
	return b.String()
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

// nothingOf demands that a machine keeps no trace of a workload.
func (s *stage) nothingOf(m *Machine) {
	s.Helper()
	const script = `pgrep -x testload; pgrep -x criu; pgrep -f "[m]igrate supervise"
		find /run/migrate/store /run/migrate/images -mindepth 1 -maxdepth 1 2>/dev/null
		nft list tables; true`
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		out := strings.TrimSpace(s.sh(m, script))
		if out == "" {
			return
		}
		if time.Now().After(end) {
			s.Fatalf("left on %s:\n%s", m.Name, out)
		}
	}
}

// clear makes the machines as they were before a scenario.
func (s *stage) clear() error {
	ctx, cancel := afterwards()
	defer cancel()
	script := fmt.Sprintf("date -s @%d >/dev/null\n", time.Now().Unix()) + `tc qdisc del dev eth1 root 2>/dev/null
		migrate ps --all --json | sed -n 's/.*"name":"\([^"]*\)".*/\1/p' | while read -r n; do migrate stop --rm --timeout 0 "$n" >/dev/null 2>&1; done
		pkill -9 -x testload
		echo always >/sys/kernel/mm/transparent_hugepage/enabled`
	return each(s.set.Guests(), func(g Guest) error {
		_, err := g.Output(ctx, "sh", "-c", script)
		return err
	})
}

// explain prints all that can tell why a scenario failed.
func (s *stage) explain() {
	ctx, cancel := afterwards()
	defer cancel()
	const script = `echo "--- agent's log"; tail -n 40 ` + agentLog + `
		for f in $(find /var/lib/migrate -name '*.json' | tail -n 8); do echo "--- $f"; tail -c 3000 $f; echo; done
		echo "--- migrate ps, status, history"; migrate ps --all; migrate status; migrate history
		for f in $(find /var/lib/migrate /run/migrate -name '*.log' -size +0 2>/dev/null | tail -n 4); do echo "--- $f"; tail -n 25 $f; done`
	for _, m := range s.set.Machines {
		s.Logf("=== %s, kernel %s; its console:\n%s", m.Name, m.Kernel.Version, tail(m.Console(), 30))
		stdout, stderr, _, err := m.Try(ctx, "sh", "-c", script)
		if err != nil {
			s.Logf("%s cannot be asked: %v", m.Name, err)
		}
		s.Logf("=== %s\n%s%s", m.Name, stdout, stderr)
	}
}
