package source

import (
	"errors"
	"fmt"
	"strings"

	"migrate"
	"migrate/internal/hostinfo"
	"migrate/rootfs"
	"migrate/transport"
	"migrate/workload"
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
	case errors.Is(err, rootfs.ErrChanging):
		return migrate.Failure{What: "something else than the workload writes to its files", Cause: err.Error(), Advice: "stop it, then move again"}
	case errors.Is(err, rootfs.ErrMount):
		return migrate.Failure{What: "the workload's files cannot be sent", Cause: err.Error(), Advice: "unmount it, then move again"}
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

// explained is a failure whose reason is not in its own words.
type explained struct {
	error
	what, advice string
}

func (e *explained) Unwrap() error { return e.error }

func (e *explained) Failure() migrate.Failure {
	f, _ := migrate.FailureOf(e.error)
	return migrate.Failure{What: e.what, Cause: strings.TrimSuffix(f.What+": "+f.Cause, ": "), Advice: e.advice}
}

// full is the room below which CRIU's images may well have found none: a little
// is free again when it has ended.
const full = 64 << 10

// explain finds what CRIU cannot tell: that the workload has ended meanwhile,
// or that there was no room for the images, and so none for CRIU's log.
func (v *move) explain(err error) error {
	if v.entry == nil {
		return err
	}
	if root := (workload.Live{PID: v.root, Start: v.entry.Record().RootStart}); !root.Alive() {
		return &explained{err, v.ref.String() + " has ended during the move", "there is nothing left to move"}
	}
	if free, ferr := hostinfo.Free(v.images); ferr == nil && free < full {
		return &explained{err, "no space left on this host for CRIU's images", "free space in --run-dir, which has " + v.images}
	}
	return err
}
