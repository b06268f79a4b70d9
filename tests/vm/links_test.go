package vm

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"migrate"
	"migrate/internal/testhost"
	"migrate/tests/vm/guest"
)

var links = []scenario{
	{name: "link down in pre-copy", fits: once, run: (*stage).linkDown},
	{name: "link lost in pre-copy", fits: once, run: (*stage).linkLost},
	{name: "delay 10 ms", fits: once, run: func(s *stage) { s.delayed(10 * time.Millisecond) }},
	{name: "delay 50 ms", fits: once, run: func(s *stage) { s.delayed(50 * time.Millisecond) }},
	{name: "delay 100 ms", fits: once, run: func(s *stage) { s.delayed(100 * time.Millisecond) }},
	{name: "loss 0.1 %", fits: once, run: func(s *stage) { s.lossy("0.1%", false) }},
	{name: "loss 1 %", fits: once, run: func(s *stage) { s.lossy("1%", true) }},
	{name: "rate 100 Mbit/s", fits: once, run: func(s *stage) { s.shaped("rate 100mbit") }},
	{name: "link down before connect", fits: once, run: (*stage).linkDownAtFirst},
	{name: "link down in preflight", fits: once, run: func(s *stage) { s.linkDownAt("source:preflight") }},
	{name: "link down in prepare", fits: once, run: func(s *stage) { s.linkDownAt("source:prepare") }},
	{name: "link down in freeze", fits: once, run: func(s *stage) { s.linkDownAt("source:freeze") }},
	{name: "link down in stop-and-copy", always: true, fits: once, run: func(s *stage) { s.linkDownAt("source:stop-and-copy") }},
	{name: "link down in restore", fits: once, run: func(s *stage) { s.linkDownAt("source:restore") }},
	{name: "link down in commit", fits: once, run: func(s *stage) { s.linkDownAt("source:commit") }},
	{name: "link down in finish", fits: once, run: func(s *stage) { s.linkDownAt("source:finish") }},
}

// shaped moves a workload over a link that netem makes bad in both directions.
func (s *stage) shaped(netem string) migrate.Report {
	s.Helper()
	for _, m := range []*Machine{s.a, s.b} {
		s.sh(m, "tc qdisc replace dev eth1 root netem "+netem)
	}
	r, _ := s.move(s.a, s.capsule(s.a, "--memory", "8", "--dirty", "50", "--fill", "random"), s.b)
	return r
}

func (s *stage) delayed(delay time.Duration) {
	s.shaped(fmt.Sprintf("delay %dms", delay.Milliseconds()))
	out := s.sh(s.a, "ping -c 3 -i 0.3 B")
	fields := strings.Split(out[strings.LastIndex(out, "=")+1:], "/") // min, avg, max, mdev in ms
	if least, err := strconv.ParseFloat(strings.TrimSpace(fields[0]), 64); err != nil || least < 2*float64(delay.Milliseconds()) {
		s.Errorf("the link was not slow: %s", out)
	}
}

// lossy demands that something was lost, where that is certain: a loss is of a
// bundle of some ten datagrams, of which there are about a thousand.
func (s *stage) lossy(loss string, certain bool) {
	r := s.shaped("loss " + loss)
	out := s.sh(s.a, "tc -s qdisc show dev eth1")
	var dropped int
	if _, rest, ok := strings.Cut(out, "(dropped "); ok {
		fmt.Sscan(rest, &dropped)
	}
	s.Logf("%d of A's bundles were lost, %d redials", dropped, r.Redials)
	if !strings.Contains(out, "loss "+loss) || certain && dropped == 0 {
		s.Errorf("nothing was lost: %s", out)
	}
}

// linkDownAtFirst tries to move over a link that is down from the start.
func (s *stage) linkDownAtFirst() {
	ref := s.capsule(s.a, "--memory", "8", "--dirty", "50")
	s.cut(s.b)
	r, code, stderr := s.tryMove(s.a, ref, s.b)
	if code != 4 || r.Status != migrate.StatusFailed || r.Owner != migrate.OwnerSource {
		s.Fatalf("status %d, report %+v\n%s", code, r, stderr)
	}
	s.verify(s.a)
	s.join(s.b)
}

// linkDownAt takes the target's link away when the source has journaled a
// phase, and gives it back when the move has ended. In the end exactly one copy
// runs: from the commit point on it is the target's.
func (s *stage) linkDownAt(point string) {
	ref := s.capsule(s.a, "--memory", "2", "--dirty", "50")
	r, code := s.moveStopped(ref, point, func() { s.cut(s.b) }, "--commit-timeout", "10s")
	s.join(s.b)
	s.Logf("the move ended with status %d, owner %s: %+v", code, r.Owner, r.Error)
	owner, other := s.a, s.b
	codes := []int{4}
	if point == "source:commit" || point == "source:finish" {
		owner, other, codes = s.b, s.a, []int{0, 5}
	}
	if !slices.Contains(codes, code) {
		s.Errorf("status %d, want one of %v; report %+v", code, codes, r)
	}
	s.eventually("one copy runs, and nothing is left to be decided", func() bool {
		open := ""
		for _, m := range []*Machine{s.a, s.b} {
			out, _ := m.Output(s.Context(), "sh", "-c", "migrate recover >/dev/null 2>&1; migrate status --json")
			open += out
		}
		copies, _, _, err := other.Try(s.Context(), "pgrep", "-x", "testload")
		return err == nil && copies == "" && !strings.Contains(open, `"type":"migration"`)
	})
	s.verify(owner)
	s.nothingOf(other)
}

// linkDown takes the target's link away for good while memory is copied: the
// workload is left running where it was.
func (s *stage) linkDown() {
	ref := s.capsule(s.a, "--memory", "16", "--dirty", "50", "--fill", "random")
	r, code := s.moveWhile(ref, "pre-copy", func() { s.cut(s.b) })
	if code != 4 || r.Status != migrate.StatusFailed || r.Owner != migrate.OwnerSource {
		s.Fatalf("status %d, report %+v", code, r)
	}
	s.verify(s.a)
	s.join(s.b)
	s.eventually("the target has dropped what it received", func() bool {
		out, _ := s.b.Output(s.Context(), "sh", "-c", "pgrep -x testload; find /run/migrate/store -mindepth 1; true")
		return strings.TrimSpace(out) == ""
	})
}

// linkLost takes the target's link away for longer than the hosts wait for each
// other, while memory is copied: the move is taken up again.
func (s *stage) linkLost() {
	ref := s.capsule(s.a, "--memory", "32", "--dirty", "50", "--fill", "random")
	r, code := s.moveWhile(ref, "pre-copy", func() {
		s.cut(s.b)
		time.Sleep(10 * time.Second)
		s.join(s.b)
	})
	if code != 0 || r.Status != migrate.StatusCompleted || r.Redials == 0 {
		s.Fatalf("status %d, report %+v", code, r)
	}
	s.verify(s.b)
}

func (s *stage) cut(m *Machine) {
	if err := s.set.Cut(m); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { s.join(m) })
}

func (s *stage) join(m *Machine) {
	if err := s.set.Join(m); err != nil {
		s.Error(err)
	}
}

// moveWhile moves a workload from A to B, slowly, and calls act once the move
// is in a phase. It returns what came of the move.
func (s *stage) moveWhile(ref, phase string, act func()) (migrate.Report, int) {
	s.Helper()
	m := s.startMove(nil, ref, phase, "--bandwidth", "1MiB")
	select {
	case <-m.watch.seen:
		act()
	case <-m.done:
		s.Fatalf("the move ended before its %s: status %d, %v\n%s", phase, m.code, m.err, m.watch.text.String())
	}
	return s.endOf(m)
}

// moveStopped moves a workload from A to B, and calls act while the source
// stands still at a point of package failpoint.
func (s *stage) moveStopped(ref, point string, act func(), flags ...string) (migrate.Report, int) {
	s.Helper()
	const log = "/run/failpoints"
	s.sh(s.a, "rm -f "+log)
	m := s.startMove([]string{"env", "MIGRATE_FAILPOINT=" + point, "MIGRATE_FAILPOINT_LOG=" + log}, ref, "", flags...)
	s.eventually("the move comes to "+point, func() bool {
		select {
		case <-m.done:
			s.Fatalf("the move ended before %s: status %d, %v\n%s", point, m.code, m.err, m.watch.text.String())
		default:
		}
		out, _ := s.a.Output(s.Context(), "sh", "-c", "cat "+log+" 2>/dev/null; true")
		return strings.Contains(out, point)
	})
	act()
	s.sh(s.a, "pkill -CONT -f '^migrate move'")
	return s.endOf(m)
}

// moving is a move under way.
type moving struct {
	watch watcher
	done  chan struct{}
	code  int   // once done
	err   error // once done
}

// startMove starts a move from A to B, by a command that begins with prefix;
// phase is what its watcher looks for.
func (s *stage) startMove(prefix []string, ref, phase string, flags ...string) *moving {
	m := &moving{watch: watcher{phase: phase, seen: make(chan struct{})}, done: make(chan struct{})}
	args := slices.Concat(prefix, []string{"migrate", "move", ref, "B", "--json"}, limits(), flags)
	go func() {
		defer close(m.done)
		m.code, m.err = s.a.Run(s.Context(), guest.Command{Args: args, Stdout: &m.watch})
	}()
	return m
}

// endOf waits for the end of a move.
func (s *stage) endOf(m *moving) (migrate.Report, int) {
	s.Helper()
	select {
	case <-m.done:
	case <-time.After(4 * patience):
		s.Fatal("the move goes on and on")
	}
	r, err := testhost.Report(m.watch.text.String())
	if err != nil || m.err != nil {
		s.Fatalf("the move: %v, %v", m.err, err)
	}
	s.row.Moves = append(s.row.Moves, moveOf(r))
	return r, m.code
}

func (s *stage) eventually(what string, done func() bool) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			s.Fatalf("waited %v in vain: %s", patience, what)
		case <-time.After(time.Second): // a command costs a second of an emulated processor
		}
	}
}

// watcher is a writer that tells when a move begins a phase.
type watcher struct {
	text  strings.Builder
	phase string // as --json says it
	seen  chan struct{}
	told  bool
}

func (w *watcher) Write(b []byte) (int, error) {
	w.text.Write(b)
	if !w.told && strings.Contains(w.text.String(), `"phase":"`+w.phase+`"`) {
		w.told = true
		close(w.seen)
	}
	return len(b), nil
}
