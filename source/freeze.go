package source

import (
	"context"
	"fmt"
	"time"

	"migrate"
	"migrate/clock"
	"migrate/workload/proc"
)

// A tree that cannot be dumped as it stands is thawed, gets time, and is frozen
// again.
const (
	freezePause   = 2 * time.Millisecond // and twice that, each time
	vforkAttempts = 60
	vforkLongest  = 50 * time.Millisecond
	lockAttempts  = 30
	lockLongest   = 20 * time.Millisecond
)

// A vforking is a task that stays in vfork(2).
type vforking struct{ pid int }

func (v *vforking) Error() string {
	return fmt.Sprintf("process %d waits for a child that has not started its program yet (vfork)", v.pid)
}

func (v *vforking) Failure() migrate.Failure {
	return migrate.Failure{What: v.Error(), Advice: "wait until it has, then move again"}
}

// freezeTree freezes every task of the tree, at a moment that suits a dump. It
// sets the start of the frozen time to just before the first task stops.
func (v *move) freezeTree(ctx context.Context) error {
	pause := freezePause
	for attempt := 1; ; attempt++ {
		v.frozenAt, v.frozenSince = clock.Now(), time.Now()
		if err := v.group.Freeze(ctx); err != nil {
			return err
		}
		longest, err := v.untimely(attempt)
		if err != nil || longest == 0 {
			return err
		}
		if err := v.group.Thaw(ctx); err != nil {
			return err
		}
		select {
		case <-time.After(min(pause, longest)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		pause = min(2*pause, vforkLongest)
	}
}

// untimely tells whether the frozen tree should get time, and at most how much;
// 0 means that the moment suits.
//
// A task in vfork(2) sleeps until its child, which is frozen too, starts a
// program: it cannot be stopped by CRIU, which would wait for ever, and it could not
// be dumped, as it shares its memory with the child.
//
// A task that holds a file lock is dumped with --file-locks only; and where both
// hosts see the file, the restore cannot have a lock that the frozen task holds,
// unless both are for reading. Databases hold them for moments. A lock that is held
// for good is worth no wait.
func (v *move) untimely(attempt int) (time.Duration, error) {
	pids, err := v.group.Procs()
	if err != nil {
		return 0, err
	}
	pid, err := inVfork(pids)
	switch {
	case err != nil:
		return 0, err
	case pid != 0 && attempt >= vforkAttempts:
		return 0, &vforking{pid}
	case pid != 0:
		return vforkLongest, nil
	case attempt >= lockAttempts:
		return 0, nil
	}
	held, err := heldBy(pids, v.opts.FileLocks)
	if err != nil || len(held.beside(v.standing)) == 0 {
		return 0, err
	}
	return lockLongest, nil
}

// inVfork returns a process that has a task in vfork(2), or 0.
func inVfork(pids []int) (int, error) {
	for _, pid := range pids {
		tids, err := proc.Threads(pid)
		if err != nil && !proc.Gone(err) {
			return 0, err
		}
		for _, tid := range tids {
			if proc.Forking(pid, tid) {
				return pid, nil
			}
		}
	}
	return 0, nil
}
