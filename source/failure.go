package source

import (
	"errors"
	"fmt"

	"migrate"
	"migrate/transport"
)

// ErrCancelled is the cause to cancel a move's context with on an operator's wish.
var ErrCancelled = errors.New("cancelled")

var (
	errTimeout       = errors.New("the move took longer than --timeout allows")
	errFreezeTimeout = errors.New("the workload was frozen longer than --freeze-timeout allows")
)

// blocked is preflight's no.
type blocked struct{ check migrate.Check }

func (b *blocked) Error() string {
	if len(b.check.Blockers) == 1 {
		return b.check.Blockers[0].What
	}
	return fmt.Sprintf("%d things are in the way", len(b.check.Blockers))
}

// Failure puts err into three lines: what failed, why, what to do.
func Failure(err error) migrate.Failure {
	switch {
	case errors.Is(err, ErrCancelled):
		return migrate.Failure{What: "the move was cancelled", Advice: "the workload runs on here; move it again when you like"}
	case errors.Is(err, errTimeout):
		return migrate.Failure{What: errTimeout.Error(), Advice: "allow more with --timeout, or raise --bandwidth"}
	case errors.Is(err, errFreezeTimeout):
		return migrate.Failure{What: errFreezeTimeout.Error(), Advice: "allow more with --freeze-timeout, or move when the workload writes less"}
	}
	if f, own := migrate.FailureOf(err); own {
		return f
	}
	return transport.Failure(err)
}

// statusOf tells how a move that failed with err before the commit point ended.
func statusOf(err error) migrate.Status {
	var b *blocked
	switch {
	case errors.As(err, &b):
		return migrate.StatusBlocked
	case errors.Is(err, ErrCancelled):
		return migrate.StatusCancelled
	}
	return migrate.StatusFailed
}
