package source

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"migrate"
	"migrate/criu"
	"migrate/journal"
	"migrate/workload"
	"migrate/workload/oci"
)

// findContainer asks the runtime for the container, and returns its first
// process.
func (v *move) findContainer(ctx context.Context) (int, []migrate.Finding, error) {
	root := v.opts.RuntimeRoot
	if r := v.arrived(v.ref); r != nil && root == "" {
		root = r.Container.Root
	}
	r, err := oci.Find(ctx, string(v.ref.Kind), root)
	if errors.Is(err, exec.ErrNotFound) {
		return 0, nil, &notFound{fmt.Sprintf("this host has no %s in its PATH", v.ref.Kind), "install it, or give the container by the runtime that it runs in"}
	}
	if err != nil {
		return 0, nil, err
	}
	c, findings, err := oci.Inspect(ctx, r, v.ref.ID)
	if errors.Is(err, oci.ErrNone) {
		return 0, nil, &notFound{err.Error(), "\"migrate ps --all\" lists what there is; --runtime-root says where the runtime keeps its state"}
	}
	if err != nil {
		return 0, nil, err
	}
	v.container = &c
	return c.PID, findings, nil
}

// arrived returns the record of a container that came here by migration and
// runs, or nil.
func (m *Mover) arrived(ref workload.Ref) *workload.Record {
	r, err := workload.Load(m.cfg.StateDir, ref.Name())
	if err != nil || r.Container == nil || r.LiveRoot() == 0 {
		return nil
	}
	return &r
}

// look reads the facts of the tree.
func (v *move) look(ctx context.Context) (migrate.Workload, []migrate.Finding, error) {
	if v.container == nil {
		return workload.Inspect(ctx, v.root)
	}
	w, findings, err := workload.InspectContainer(ctx, v.root, v.container.RootFS.Path)
	w.Container = &v.container.Container
	return w, findings, err
}

// describe reads the facts of the frozen tree.
func (v *move) describe() (migrate.Workload, error) {
	if v.container == nil {
		return workload.Describe(v.root)
	}
	return workload.DescribeContainer(v.root, v.container.RootFS.Path)
}

// journalContainer has the record tell which container is to be removed after
// the commit, and what to be unmounted.
func (v *move) journalContainer(r *journal.Record) {
	if v.container == nil {
		return
	}
	r.Container = &v.container.ContainerRef
	if root := v.container.RootFS; root.Kind == migrate.RootOverlay {
		r.Overlay = root.Path
	}
	r.Leave = v.leaves()
}

// containerOptions adds what a dump has to be told about a container: what its
// runtime would say.
func (v *move) containerOptions(o *criu.DumpOptions) {
	if v.container == nil {
		return
	}
	c := v.container
	o.Root, o.OrphanPTSMaster, o.ExtUnixSockets = c.RootFS.Path, true, true
	for _, m := range c.Mounts {
		o.Mounts = append(o.Mounts, criu.ExternalMount{Key: m.Path, Value: m.Key})
	}
}

// removeContainer has the runtime forget a container whose processes are gone,
// and unmounts its root: what is below it is on the target.
func removeContainer(ctx context.Context, rec journal.Record) error {
	if rec.Container == nil {
		return nil
	}
	r, err := oci.Of(ctx, *rec.Container, nil)
	if err == nil {
		err = r.Delete(ctx, rec.Container.ID, rec.RootPID)
	}
	if err == nil && rec.Overlay != "" {
		err = oci.UnmountOverlay(rec.Overlay)
	}
	if err != nil {
		return fmt.Errorf("remove the container on the source: %w", err)
	}
	return removeLeaves(rec.Leave)
}
