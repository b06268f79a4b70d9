package main

import (
	"context"
	"errors"
	"syscall"
	"time"

	"migrate/workload"
	"migrate/workload/oci"
)

// discover returns the workloads that run on this host, containers among them, by
// kind and name. What cannot be read is in the error; the list is good also then.
func (a *app) discover(ctx context.Context) ([]workload.Found, error) {
	list, err1 := workload.Discover(a.stateDir)
	containers, err2 := oci.Discover(ctx, a.stateDir)
	list = append(list, containers...)
	workload.SortFound(list)
	return list, errors.Join(err1, err2)
}

// unsupervised returns the first process of a workload that runs here without a
// supervisor of ours: of a process of the host, or a container that its runtime
// started.
func (a *app) unsupervised(ctx context.Context, ref workload.Ref) (workload.Live, error) {
	if ref.Kind == workload.Process {
		return workload.Identify(ref.PID())
	}
	f, err := oci.Lookup(ctx, a.stateDir, ref)
	return f.Root, err
}

// end stops a workload of this host, whatever its kind.
func (a *app) end(ctx context.Context, ref workload.Ref, timeout time.Duration) error {
	rec, err := workload.Load(a.stateDir, ref.Name())
	ours := err == nil && rec.LiveRoot() != 0 || err != nil && !isMissing(err)
	if ours || ref.Kind == workload.Capsule {
		return a.stop(ctx, ref.Name(), syscall.SIGTERM, stopOptions{timeout: timeout})
	}
	root, err := a.unsupervised(ctx, ref)
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
