package source

import (
	"context"
	"fmt"
	"time"

	"migrate"
	"migrate/clock"
	"migrate/workload/cgroup"
	"migrate/workload/proc"
)

// Between two attempts to freeze, tasks get time to leave vfork(2).
const (
	vforkAttempts = 60
	vforkPause    = 2 * time.Millisecond
	vforkLongest  = 50 * time.Millisecond
)

// A vforking is a task that stays in vfork(2).
type vforking struct{ pid int }

func (v *vforking) Error() string {
	return fmt.Sprintf("process %d waits for a child that has not started its program yet (vfork)", v.pid)
}

func (v *vforking) Failure() migrate.Failure {
	return migrate.Failure{What: v.Error(), Advice: "wait until it has, then move again"}
}

// freezeTree freezes every task of the tree at a moment when none is in
// vfork(2). Such a one sleeps until its child, which is frozen too, starts a
// program: it cannot be stopped by CRIU, which would wait for ever, and it could
// not be dumped, as it shares its memory with the child. It sets the start of
// the frozen time to just before the first task stops.
func (v *move) freezeTree(ctx context.Context) error {
	pause := vforkPause
	for attempt := 1; ; attempt++ {
		v.frozenAt, v.frozenSince = clock.Now(), time.Now()
		if err := v.group.Freeze(ctx); err != nil {
			return err
		}
		pid, err := inVfork(v.group)
		if err != nil || pid == 0 {
			return err
		}
		if attempt == vforkAttempts {
			return &vforking{pid}
		}
		if err := v.group.Thaw(ctx); err != nil {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		pause = min(2*pause, vforkLongest)
	}
}

// inVfork returns a process of the frozen group that has a task in vfork(2), or 0.
func inVfork(g *cgroup.Group) (int, error) {
	pids, err := g.Procs()
	if err != nil {
		return 0, err
	}
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
