package source

import (
	"errors"
	"fmt"
	"io/fs"

	"migrate"
	"migrate/workload"
)

// notFound says that there is no such workload here.
type notFound struct {
	what   string
	advice string
}

func (n *notFound) Error() string { return n.what }

func (n *notFound) Failure() migrate.Failure {
	return migrate.Failure{What: n.what, Advice: n.advice}
}

// resolve finds the root process of a workload, and its record if a supervisor
// of ours keeps one.
func (m *Mover) resolve(ref workload.Ref) (root int, rec *workload.Record, err error) {
	if ref.Kind == workload.Process {
		return m.resolveProcess(ref)
	}
	if ref.Kind.Container() {
		return 0, m.arrived(ref), nil
	}
	r, err := workload.Load(m.cfg.StateDir, ref.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil, &notFound{fmt.Sprintf("no capsule %s on this host", ref.ID), "\"migrate ps --all\" lists what there is"}
	}
	if err != nil {
		return 0, nil, err
	}
	if root = r.LiveRoot(); root == 0 {
		return 0, nil, &notFound{fmt.Sprintf("capsule %s does not run (%s)", ref.ID, r.State), "start it with \"migrate run\""}
	}
	return root, &r, nil
}

// resolveProcess also finds a process that arrived here by migration, which
// has a supervisor.
func (m *Mover) resolveProcess(ref workload.Ref) (int, *workload.Record, error) {
	if _, err := workload.Identify(ref.PID()); err != nil {
		return 0, nil, &notFound{fmt.Sprintf("no process %s on this host", ref.ID), "give the PID of a running process, as \"ps\" on this host shows it"}
	}
	records, err := workload.List(m.cfg.StateDir)
	if err != nil {
		m.log.Warn("registry of workloads", "cause", err)
	}
	for _, r := range records {
		if r.LiveRoot() == ref.PID() {
			return ref.PID(), &r, nil
		}
	}
	return ref.PID(), nil, nil
}
