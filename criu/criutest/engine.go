// Package criutest holds one conformance suite for package criu, and a fake
// CRIU that passes it.
//
// [Run] tries everything a migration relies on against an [Engine]: the order
// of hooks and what refusing one does, cancelling, the page stream, clocks,
// cgroups and errors. [NewReal] is the engine of the CRIU on this machine.
// [NewFake] speaks the same RPC from the re-executed test binary, so that tests
// of other packages need neither root nor CRIU; what it does not model it
// refuses.
package criutest

import (
	"testing"
	"time"

	"migrate/criu"
)

// Engine is a CRIU together with processes that it can dump.
type Engine interface {
	Tool() criu.Tool
	// Start starts a process, alone in a new cgroup. It is gone when the test ends.
	Start(t testing.TB) Process
	// Restored is p after a restore; pid is what Restore returned.
	Restored(t testing.TB, p Process, pid int) Process
	// Cgroup makes an empty cgroup, which is gone when the test ends.
	Cgroup(t testing.TB) string
	// Freeze freezes or thaws a cgroup and waits until it is so.
	Freeze(t testing.TB, cgroup string, on bool)
}

// Process is one process of an [Engine].
type Process interface {
	PID() int
	State() State
	// Alive makes the process do something, and fails if it does not.
	Alive() error
	// Kill sends SIGKILL, which a frozen process may see only once it is thawed.
	Kill()
	// Cgroup is the directory of the cgroup that the process is in.
	Cgroup() string
	// Monotonic is the process's own CLOCK_MONOTONIC.
	Monotonic() time.Duration
}

// State is what a process does.
type State string

// The states.
const (
	Running State = "running"
	Stopped State = "stopped" // held by CRIU, or frozen
	Gone    State = "gone"
)
