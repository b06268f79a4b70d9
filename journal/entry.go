package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"migrate"
	"migrate/internal/atomicfile"
	"migrate/internal/failpoint"
)

// Entry is a record that this process decides about. It is safe for concurrent
// use.
type Entry struct {
	path string
	lock *lock

	mu  sync.Mutex
	rec Record
}

// errClosed is the error of a write to a closed entry: somebody else may hold
// the lock by now.
var errClosed = errors.New("journal entry is closed")

// Step takes the record to another phase, after mutate (nil for none) changed
// what else is to be changed, and returns once the record is on disk. A step
// that the phase table does not allow, and one that cannot be written, is an
// error and has not happened: record and memory are as before.
//
// mutate works on a copy and must not write through its pointers; what it does
// to ID, Side and Phase is ignored.
//
// An error of the last flush, that of the directory, does not undo the step,
// for the peer may have seen it. Only a power cut could now take the record
// back, and that would also end the copy in this host's memory, so nothing runs
// twice for it.
//
// A crash test can stop the process before and after: at the points
// SIDE:before-PHASE and SIDE:PHASE of package failpoint.
func (e *Entry) Step(phase migrate.Phase, mutate func(*Record)) error {
	point := string(e.Record().Side) + ":"
	failpoint.Reach(point + "before-" + phase.String())
	if err := e.step(phase, mutate); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	failpoint.Reach(point + phase.String())
	return nil
}

func (e *Entry) step(phase migrate.Phase, mutate func(*Record)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !legal(e.rec.Side, e.rec.Phase, phase) {
		return fmt.Errorf("migration %s: a %s cannot go from %v to %v", e.rec.ID, e.rec.Side, e.rec.Phase, phase)
	}
	return e.change(phase, mutate)
}

// Update changes the record within its phase, under the rules of Step.
func (e *Entry) Update(mutate func(*Record)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.change(e.rec.Phase, mutate)
}

// Record returns the record as last written.
func (e *Entry) Record() Record {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.rec
}

// Close gives up the lock: unless the record is over, others may now recover
// it. Closing twice does nothing.
func (e *Entry) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lock.release()
	e.lock = nil
}

// first writes the record of a new entry.
func (e *Entry) first(rec Record) error {
	if _, err := os.Lstat(e.path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("journal record %s: %w", e.path, errors.Join(fs.ErrExist, err))
	}
	return e.write(rec)
}

func (e *Entry) change(phase migrate.Phase, mutate func(*Record)) error {
	if e.lock == nil {
		return errClosed
	}
	rec := e.rec
	if mutate != nil {
		mutate(&rec)
	}
	rec.ID, rec.Side, rec.Phase, rec.Updated = e.rec.ID, e.rec.Side, phase, time.Now()
	return e.write(rec)
}

// WriteError is a record that could not be written.
type WriteError struct{ Err error }

// Error returns the cause, which names the file.
func (e *WriteError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *WriteError) Unwrap() error { return e.Err }

// Failure returns the error in the three lines that a report holds.
func (e *WriteError) Failure() migrate.Failure {
	host, _ := os.Hostname() // without one, the cause still names the file
	return migrate.Failure{
		What: "the journal of " + host + " cannot be written, without which nothing is moved", Cause: e.Err.Error(),
		Advice: "make room on, or mend, the disk that has it: see --state-dir",
	}
}

func (e *Entry) write(rec Record) error {
	b, err := encode(rec)
	if err != nil {
		return err
	}
	err = atomicfile.WriteFile(e.path, b, 0o600)
	if err != nil && !errors.Is(err, atomicfile.ErrNotFlushed) {
		return &WriteError{err}
	}
	e.rec = rec
	return nil
}

// legal narrows the phase table to a side: only a target is ever held, and it
// cannot commit without having been.
func legal(side migrate.Side, from, to migrate.Phase) bool {
	switch {
	case side == migrate.Source && to == migrate.Held,
		side == migrate.Target && from == migrate.Restore && to == migrate.Commit:
		return false
	}
	return to.CanFollow(from)
}
