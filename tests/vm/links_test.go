package vm

import (
	"context"
	"strings"
	"time"

	"migrate"
	"migrate/internal/testhost"
	"migrate/tests/vm/guest"
)

var links = []scenario{
	{name: "link down in pre-copy", always: true, run: (*stage).linkDown},
	{name: "link lost in pre-copy", run: (*stage).linkLost},
	{name: "delay 50 ms", run: func(s *stage) { s.shaped("delay 50ms") }},
	{name: "loss 1 %", run: func(s *stage) { s.shaped("loss 1%") }},
	{name: "rate 100 Mbit/s", run: func(s *stage) { s.shaped("rate 100mbit") }},
}

// shaped moves a workload over a link that netem makes bad in both directions.
func (s *stage) shaped(netem string) {
	for _, m := range []*Machine{s.a, s.b} {
		s.sh(m, "tc qdisc replace dev eth1 root netem "+netem)
	}
	s.move(s.a, s.capsule(s.a, "--memory", "16", "--dirty", "50"), s.b)
}

// linkDown takes the target's link away for good while memory is copied: the
// workload is left running where it was.
func (s *stage) linkDown() {
	ref := s.capsule(s.a, "--memory", "32", "--dirty", "50", "--fill", "random")
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
	w := watcher{phase: phase, seen: make(chan struct{})}
	done := make(chan struct{})
	var code int
	var err error
	go func() {
		defer close(done)
		args := append([]string{"migrate", "move", ref, "B", "--json", "--bandwidth", "1MiB"}, limits...)
		code, err = s.a.Run(s.Context(), guest.Command{Args: args, Stdout: &w})
	}()
	select {
	case <-w.seen:
		act()
	case <-done:
		s.Fatalf("the move ended before its %s: status %d, %v\n%s", phase, code, err, w.text.String())
	}
	select {
	case <-done:
	case <-time.After(4 * patience):
		s.Fatal("the move goes on and on")
	}
	r, e := testhost.Report(w.text.String())
	if err != nil || e != nil {
		s.Fatalf("the move: %v, %v", err, e)
	}
	s.row.Moves = append(s.row.Moves, moveOf(r))
	return r, code
}

func (s *stage) eventually(what string, done func() bool) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			s.Fatalf("waited %v in vain: %s", patience, what)
		case <-time.After(200 * time.Millisecond):
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
