package programs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"migrate"
	"migrate/internal/testhost"
)

// patience is how long a test waits for something that must come.
const patience = 20 * time.Second

// A site is two hosts that a program moves between, one for its clients, and
// a directory that is the same on all of them.
type site struct {
	a, b, c *testhost.Host
	dir     string
}

func newSite(t *testing.T) site {
	t.Helper()
	dir := t.TempDir() // removed after the hosts are down
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	set := testhost.Up(t, testhost.Options{})
	return site{set.Host("A"), set.Host("B"), set.Host("C"), dir}
}

// program returns the path of an installed program; setup installs them all.
func program(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		t.Fatalf("there is no %s (%v): run scripts/setup", pattern, err)
	}
	return found[len(found)-1]
}

// start starts a program on host A and returns its PID.
func (s site) start(t *testing.T, args ...string) int {
	t.Helper()
	pid, err := s.a.Start(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// move moves a program and demands that it succeeds.
func move(t *testing.T, from *testhost.Host, pid int, to *testhost.Host, flags ...string) {
	t.Helper()
	r, stderr, err := tryMove(t, from, pid, to, flags...)
	if err != nil {
		t.Fatalf("move of process %d from %s to %s: %v\nreport %+v\n%s", pid, from.Name, to.Name, err, r, stderr)
	}
	t.Logf("%s to %s: downtime %v, tracker %s, %d rounds, %d MiB", from.Name, to.Name, time.Duration(r.Downtime), r.Tracker, len(r.Rounds), r.MemoryBytes>>20)
}

// tryMove moves a program, with all that is sent compared with what was frozen.
func tryMove(t *testing.T, from *testhost.Host, pid int, to *testhost.Host, flags ...string) (r migrate.Report, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args := append([]string{"move", fmt.Sprintf("process:%d", pid), to.Name, "--json", "--tcp", "close", "--verify"}, flags...)
	cmd := from.Command(ctx, "migrate", args...)
	var stdout, messages strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &messages
	err = cmd.Run()
	r, noReport := testhost.Report(stdout.String())
	switch {
	case err == nil && noReport != nil:
		err = noReport
	case err == nil && r.Owner != migrate.OwnerTarget:
		err = fmt.Errorf("the owner is %q", r.Owner)
	case err == nil && r.Verified == 0:
		err = errors.New("nothing was verified")
	case err != nil && r.Error != nil:
		err = fmt.Errorf("%w: %s: %s", err, r.Error.What, r.Error.Cause)
	}
	return r, messages.String(), err
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	testhost.Await(t, patience, what, done)
}

// awaitExit demands that the program ends with a status, which the host that
// has it last remembers.
func awaitExit(t *testing.T, h *testhost.Host, status int) {
	t.Helper()
	await(t, fmt.Sprintf("migrate ps on %s tells that it exited (%d)", h.Name, status), func() bool {
		return strings.Contains(h.Run(t, "migrate", "ps", "--all"), fmt.Sprintf("exited (%d)", status))
	})
}

// statePort is where the programs in testdata tell how they are.
const statePort = 7100

// A state is what a program in testdata says of itself.
type state struct {
	Progress int64    `json:"progress"` // never less than before
	Errors   []string `json:"errors"`
}

// ask sends one word to a program in testdata from the clients' host.
func (s site) ask(h *testhost.Host, word string) (st state, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn, err := s.c.Dial(ctx, "tcp", net.JoinHostPort(h.Address(), strconv.Itoa(statePort)))
	if err != nil {
		return st, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := fmt.Fprintln(conn, word); err != nil {
		return st, err
	}
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal(line, &st)
}

// progress demands that the program on a host has come further than before and
// found nothing wrong, and returns how far.
func (s site) progress(t *testing.T, h *testhost.Host, before int64) (now int64) {
	t.Helper()
	await(t, fmt.Sprintf("the program on %s gets beyond %d", h.Name, before), func() bool {
		st, err := s.ask(h, "state")
		if err != nil {
			return false
		}
		if now = st.Progress; now < before || len(st.Errors) > 0 {
			t.Fatalf("the program on %s is at %d after %d and found: %q", h.Name, now, before, st.Errors)
		}
		return now > before
	})
	return now
}

// thereAndBack moves a program in testdata to B and back to A while it is at
// work, and ends it there.
func (s site) thereAndBack(t *testing.T, pid int, flags ...string) {
	t.Helper()
	n := s.progress(t, s.a, 0)
	for _, hop := range [][2]*testhost.Host{{s.a, s.b}, {s.b, s.a}} {
		move(t, hop[0], pid, hop[1], flags...)
		n = s.progress(t, hop[1], n)
		if st, err := s.ask(hop[0], "state"); err == nil {
			t.Errorf("the program still answers on %s: %+v", hop[0].Name, st)
		}
	}
	if st, err := s.ask(s.a, "exit"); err != nil || len(st.Errors) > 0 || st.Progress < n {
		t.Errorf("in the end, after %d: %+v, %v", n, st, err)
	}
	awaitExit(t, s.a, 0)
}

// run runs a command of the machine's and demands that it succeeds.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
