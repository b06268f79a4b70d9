package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"migrate/workload"
	"migrate/workload/cgroup"
)

// Sweep puts right what killed supervisors left of workloads that have ended
// since: nobody saw how, so their records say lost, and their empty cgroups and
// sockets go. A workload of which anything still runs is not touched.
func Sweep(stateDir, runDir string) error {
	records, err := workload.List(stateDir)
	errs := []error{err}
	for _, r := range records {
		if r.State != workload.Running || r.Supervisor.Alive() || r.LiveRoot() != 0 {
			continue
		}
		if err := sweep(stateDir, runDir, r); err != nil {
			errs = append(errs, fmt.Errorf("what is left of workload %s: %w", r.Name, err))
		}
	}
	return errors.Join(errs...)
}

func sweep(stateDir, runDir string, r workload.Record) error {
	g, err := cgroup.Open(r.Cgroup)
	if err == nil && r.Container == nil {
		if pids, err := g.Procs(); err != nil || len(pids) > 0 {
			return err
		}
		err = g.Remove()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, path := range []string{SocketPath(runDir, r.Name), markPath(runDir, r.Name)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := removeNetworkName(r); err != nil {
		return err
	}
	r.State, r.Ended = workload.Lost, time.Now()
	return workload.Save(stateDir, r)
}
