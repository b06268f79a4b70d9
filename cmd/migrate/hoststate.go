package main

import (
	"context"
	"os"
	"runtime"
	"syscall"
	"time"

	"migrate"
	"migrate/internal/cordon"
	"migrate/workload"
)

// workloads lists what runs on this host, and what could not be listed.
func (a *app) workloads(ctx context.Context, blockers bool) (list []migrate.Listed, problems []string) {
	found, err := workload.Discover(a.stateDir)
	if err != nil {
		problems = append(problems, failureOf(err).What)
	}
	list = []migrate.Listed{}
	for _, f := range found {
		l, err := f.Listed(ctx, a.stateDir, blockers)
		switch {
		case err == nil:
			list = append(list, l)
		case f.Root.Alive(): // else it has ended meanwhile
			problems = append(problems, failureOf(err).What)
		}
	}
	return list, problems
}

// hostState describes this host as the agent would, as far as that needs no
// agent.
func (a *app) hostState(ctx context.Context, blockers bool) (st migrate.HostState, err error) {
	if st.Host.Name, err = os.Hostname(); err != nil {
		return st, err
	}
	if st.Cordon, err = cordon.Load(a.stateDir); err != nil {
		return st, err
	}
	st.CPUs = runtime.NumCPU()
	st.Workloads, st.Problems = a.workloads(ctx, blockers)
	return st, nil
}

// end stops a workload of this host, whatever its kind.
func (a *app) end(ctx context.Context, ref workload.Ref, timeout time.Duration) error {
	_, err := workload.Load(a.stateDir, ref.Name())
	if ref.Kind == workload.Process && isMissing(err) { // nobody of ours supervises it
		root, err := workload.Identify(ref.PID())
		if err != nil {
			return err
		}
		if err := a.notMigrating(ref.Name()); err != nil {
			return err
		}
		if timeout == 0 {
			return endOrphan(ctx, workload.Record{Root: root}, syscall.SIGKILL, time.Second)
		}
		return endOrphan(ctx, workload.Record{Root: root}, syscall.SIGTERM, timeout)
	}
	return a.stop(ctx, ref.Name(), syscall.SIGTERM, stopOptions{timeout: timeout})
}
