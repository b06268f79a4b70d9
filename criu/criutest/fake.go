package criutest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"migrate/criu"
)

// fakeVariable makes the test binary a fake CRIU; it holds the world's
// directory. See [Main].
const fakeVariable = "CRIUTEST_WORLD"

// FakeVersion is what a fake says it is.
const FakeVersion criu.Version = 40201

// NewFake returns an engine without real processes: a "process" is a record
// in a directory, and its CRIU is this test binary again. The package's
// TestMain has to call [Main].
func NewFake(t testing.TB) Engine {
	t.Helper()
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nexport GORACE=atexit_sleep_ms=0 # the race detector's second of rest is longer than any test\n%s='%s' exec '%s' \"$@\"\n", fakeVariable, dir, exe)
	path := filepath.Join(dir, "criu")
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return &fakeEngine{world: world(dir), tool: criu.Tool{Path: path, Version: FakeVersion}}
}

// Main turns the process into a fake CRIU or a workload if it was started as
// one, and returns otherwise. Call it first in TestMain.
func Main() {
	if args, ok := os.LookupEnv(loadVariable); ok {
		os.Exit(loadMain(args))
	}
	if dir := os.Getenv(fakeVariable); dir != "" {
		os.Exit(fakeMain(world(dir), os.Args[1:]))
	}
}

type fakeEngine struct {
	world world
	tool  criu.Tool
	last  atomic.Int64
}

// Tool returns the fake CRIU.
func (e *fakeEngine) Tool() criu.Tool { return e.tool }

// Cgroup makes a directory that looks like a cgroup.
func (e *fakeEngine) Cgroup(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(string(e.world), "cgroup-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Freeze writes the file that the fake takes for the cgroup's state.
func (e *fakeEngine) Freeze(t testing.TB, cgroup string, on bool) {
	t.Helper()
	if err := setFrozen(cgroup, on); err != nil {
		t.Fatal(err)
	}
}

// fakePIDs begin above any that a real process can have.
const fakePIDs = 5 << 20

// Start makes a process record.
func (e *fakeEngine) Start(t testing.TB) Process {
	t.Helper()
	r := record{PID: fakePIDs + int(e.last.Add(1)), State: Running, Cgroup: e.Cgroup(t)}
	if err := e.world.save(r); err != nil {
		t.Fatal(err)
	}
	return fakeProcess{e.world, r.PID}
}

// Restored returns the record of pid.
func (e *fakeEngine) Restored(_ testing.TB, _ Process, pid int) Process {
	return fakeProcess{e.world, pid}
}

type fakeProcess struct {
	world world
	pid   int
}

// PID returns the process's number.
func (p fakeProcess) PID() int { return p.pid }

// State returns what the process does, as its record and cgroup tell.
func (p fakeProcess) State() State {
	r := p.world.load(p.pid)
	if r.State == Running && isFrozen(r.Cgroup) {
		return Stopped
	}
	return r.State
}

// Alive fails unless the process runs.
func (p fakeProcess) Alive() error {
	if s := p.State(); s != Running {
		return fmt.Errorf("process %d is %s", p.pid, s)
	}
	return nil
}

// Kill ends the process.
func (p fakeProcess) Kill() {
	if err := p.world.set(p.pid, Gone); err != nil {
		panic(err)
	}
}

// Cgroup returns the process's cgroup.
func (p fakeProcess) Cgroup() string { return p.world.load(p.pid).Cgroup }

// Monotonic is this process's clock and the record's offset.
func (p fakeProcess) Monotonic() time.Duration {
	return time.Since(epoch) + p.world.load(p.pid).Offset
}

// epoch stands in for the machine's start: fakes of one test share it.
var epoch = time.Unix(1_700_000_000, 0)

// setFrozen writes what the kernel would show.
func setFrozen(cgroup string, on bool) error {
	text := "0\n"
	if on {
		text = "1\n"
	}
	return os.WriteFile(filepath.Join(cgroup, "cgroup.freeze"), []byte(text), 0o600)
}

func isFrozen(cgroup string) bool {
	b, err := os.ReadFile(filepath.Join(cgroup, "cgroup.freeze"))
	return err == nil && strings.TrimSpace(string(b)) == "1"
}
