package criu

import (
	"syscall"

	"migrate"
)

// Error reports that CRIU is not usable, or ran and refused.
type Error struct {
	Op     string        // "find", "check", "features", "cpuinfo", "pre-dump", "dump" or "restore"
	What   string        // one line: what failed
	Cause  string        // one line: why, in plain words where the log text is known
	Advice string        // one line: what to do about it; may be empty
	Errno  syscall.Errno // CRIU's cr_errno; 0 when it gave none
	Log    []string      // the last lines of CRIU's log, oldest first; at most [LogLines]
}

// LogLines is how many lines of CRIU's log an [Error] carries.
const LogLines = 40

// Error returns what failed and why, without the advice.
func (e *Error) Error() string {
	switch {
	case e.Cause != "":
		return e.What + ": " + e.Cause
	case e.Errno != 0:
		return e.What + ": " + e.Errno.Error()
	}
	return e.What
}

// Unwrap returns CRIU's errno, so that errors.Is(err, syscall.EEXIST) finds a
// PID that is taken.
func (e *Error) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// Failure returns the error in the three lines that a report holds.
func (e *Error) Failure() migrate.Failure {
	return migrate.Failure{What: e.What, Cause: e.Cause, Advice: e.Advice}
}
