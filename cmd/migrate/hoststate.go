package main

import (
	"context"
	"os"
	"runtime"

	"migrate"
	"migrate/internal/cordon"
)

// workloads lists what runs on this host, and what could not be listed.
func (a *app) workloads(ctx context.Context, blockers bool) (list []migrate.Listed, problems []string) {
	found, err := a.discover(ctx)
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
