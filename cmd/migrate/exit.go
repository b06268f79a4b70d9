package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"migrate"
)

// Exit statuses. For a move they say who owns the workload. Callers must take
// one that is not listed for a failure.
const (
	codeOK      = 0 // done; a move: the workload runs on the target
	codeUsage   = 1 // the command line is wrong; nothing was touched
	codeBlocked = 3 // refused before anything was touched; the workload runs on the source
	codeFailed  = 4 // failed or cancelled; a move was rolled back, the workload runs on the source
	codeInDoubt = 5 // in doubt, frozen: see "migrate recover"
)

// execFailed is the exit status of migrate exec and attach, which end with that
// of what they ran, for trouble of their own; as that of env(1) and podman.
const execFailed = 125

// exitCode is the only place where errors become statuses.
func exitCode(err error) int {
	var usage *usageError
	var blocked *blockedError
	var ended *endError
	switch {
	case err == nil:
		return codeOK
	case errors.As(err, &ended):
		return ended.code
	case errors.As(err, &usage):
		return codeUsage
	case errors.As(err, &blocked):
		return codeBlocked
	case errors.As(err, new(*unknownError)):
		return codeInDoubt
	}
	return codeFailed
}

// statusCode is the exit status for how a move ended.
func statusCode(s migrate.Status) int {
	switch s {
	case migrate.StatusCompleted:
		return codeOK
	case migrate.StatusBlocked:
		return codeBlocked
	case migrate.StatusInDoubt:
		return codeInDoubt
	}
	return codeFailed
}

// passesStatus marks commands that end with the status of what they ran, so
// that their own trouble needs other codes.
const passesStatus = "passes-status"

func ownStatus(cmd *cobra.Command) bool {
	return cmd != nil && cmd.Annotations[passesStatus] != ""
}

// endError ends the program with a status when everything has been said.
type endError struct{ code int }

func (e *endError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// end returns the error for a status, nil for success.
func end(code int) error {
	if code == codeOK {
		return nil
	}
	return &endError{code}
}

// usageError is a wrong command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }

func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// blockedError is what kept a command from beginning.
type blockedError struct{ err error }

func (e *blockedError) Error() string { return e.err.Error() }

func (e *blockedError) Unwrap() error { return e.err }

// adviceError is an error with what to do about it.
type adviceError struct {
	err    error
	advice string
}

func (e *adviceError) Error() string { return e.err.Error() }

func (e *adviceError) Unwrap() error { return e.err }

// Failure returns the error in the three lines that are printed.
func (e *adviceError) Failure() migrate.Failure {
	f := failureOf(e.err)
	f.Advice = e.advice
	return f
}

func advise(err error, format string, args ...any) error {
	return &adviceError{err, fmt.Sprintf(format, args...)}
}
