package testhost

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var sets atomic.Int32

// Up makes a set for a test and takes it down when the test ends. A failed
// test logs what the agents logged. Sets of test programs that were killed are
// taken down on the way.
func Up(t testing.TB, o Options) *Set {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("isolated hosts need root")
	}
	removeOrphans(t)
	if o.Set == "" {
		o.Set = fmt.Sprintf("t%d-%d", os.Getpid(), sets.Add(1))
	}
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			s.logAgents(t)
		}
		if err := s.Down(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// removeOrphans takes down what test programs left that have no process any more.
func removeOrphans(t testing.TB) {
	for _, name := range Names() {
		var pid, n int
		if _, err := fmt.Sscanf(name, "t%d-%d", &pid, &n); err != nil {
			continue
		}
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			if err := (&Set{name: name}).Down(); err != nil {
				t.Logf("take down %s: %v", name, err)
			}
		}
	}
}

func (s *Set) logAgents(t testing.TB) {
	for _, h := range s.hosts {
		if log := h.AgentLog(); log != "" {
			t.Logf("agent of %s:\n%s", h.Name, log)
		}
	}
}

// Await asks until done says so, or fails the test. It asks ever less often: what waits
// long is not in a hurry, and to ask takes processors from what it waits for.
func Await(t testing.TB, patience time.Duration, what string, done func() bool) {
	t.Helper()
	const first, last = 10 * time.Millisecond, 150 * time.Millisecond
	end := time.Now().Add(patience)
	for pause := first; !done(); pause = min(pause*3/2, last) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
		time.Sleep(pause)
	}
}

// Host returns the host of that name; a set without it is a bug in the test.
func (s *Set) Host(name string) *Host {
	h, err := s.Lookup(name)
	if err != nil {
		panic(err)
	}
	return h
}

// Run runs a command in the host and returns its standard output without the
// last newline. A command that fails fails the test.
func (h *Host) Run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := h.Output(t.Context(), args...)
	if err != nil {
		t.Fatalf("%v\nstdout: %s", err, out)
	}
	return strings.TrimRight(out, "\n")
}
