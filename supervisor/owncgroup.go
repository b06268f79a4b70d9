package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"migrate/workload/cgroup"
)

// ownGroup is the cgroup of all supervisors, apart from that of whoever
// started them: a service manager that kills the agent's cgroup must not meet
// them. It is no valid name for a workload.
const ownGroup = "_supervisors"

// joinOwnCgroup moves this process there. One that ends at the same time may
// remove the group in between.
func joinOwnCgroup() error {
	var err error
	for range 10 {
		var g *cgroup.Group
		if g, err = cgroup.Create(ownGroup); err == nil {
			err = g.Add(os.Getpid())
		}
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
			break
		}
	}
	return err
}

// leaveOwnCgroup moves this process to the top, and removes the group if it was the last.
// Where the top takes no processes the group stays.
func leaveOwnCgroup() {
	g, err := cgroup.Create(ownGroup)
	if err != nil {
		return
	}
	top := filepath.Dir(filepath.Dir(g.Path()))
	if os.WriteFile(filepath.Join(top, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0) != nil {
		return
	}
	if syscall.Rmdir(g.Path()) == nil {
		_ = syscall.Rmdir(filepath.Dir(g.Path())) // busy while there are workloads
	}
}

// workloadGroup makes the cgroup of a workload. One with processes in it is
// somebody's.
func workloadGroup(name string) (*cgroup.Group, error) {
	g, err := cgroup.Create(name)
	if errors.Is(err, os.ErrNotExist) { // its parent was just removed
		g, err = cgroup.Create(name)
	}
	if err != nil {
		return nil, err
	}
	pids, err := g.Procs()
	if err != nil {
		return nil, err
	}
	if len(pids) > 0 {
		return nil, fmt.Errorf("cgroup %s holds processes already, %d of them", g.Path(), len(pids))
	}
	return g, nil
}
