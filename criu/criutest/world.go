package criutest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// world is the directory that holds the fake's processes: what the kernel is
// to a real CRIU.
type world string

// record is one process.
type record struct {
	PID    int
	State  State
	Cgroup string
	Offset time.Duration // of its time namespace
	Moved  bool          // it was restored, so it has a time namespace
	Tracer int           // the fake CRIU that holds it for a dump
}

func (w world) path(pid int) string { return filepath.Join(string(w), fmt.Sprintf("process-%d", pid)) }

// save replaces a record in one step: a test reads it at the same time.
func (w world) save(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	tmp := w.path(r.PID) + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, w.path(r.PID))
}

// load returns the record of pid; that of a process that never was is Gone.
func (w world) load(pid int) record {
	r := record{PID: pid, State: Gone}
	b, err := os.ReadFile(w.path(pid))
	if err != nil {
		return r
	}
	if err := json.Unmarshal(b, &r); err != nil {
		panic(fmt.Errorf("fake criu: broken record %s: %w", w.path(pid), err))
	}
	if r.Tracer != 0 && r.State == Stopped && syscall.Kill(r.Tracer, 0) != nil {
		r.State, r.Tracer = Running, 0 // the kernel lets a dead tracer's tasks go
	}
	return r
}

func (w world) set(pid int, s State) error {
	r := w.load(pid)
	r.State, r.Tracer = s, 0
	return w.save(r)
}

// hold stops a process for as long as the caller lives.
func (w world) hold(r record) error {
	r.State, r.Tracer = Stopped, os.Getpid()
	return w.save(r)
}
