package supervisor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/criu"
	"migrate/network"
	"migrate/workload/cgroup"
	"migrate/workload/oci"
)

// caller is the runtime that the restore is for, or nil.
func (a *attempt) caller() *criu.Caller {
	if a.restorer == nil {
		return nil
	}
	return a.restorer.call.caller
}

// openRoot returns where CRIU finds the root file system of a container; "" for
// anything else.
func (a *attempt) openRoot() (string, error) {
	if a.restorer == nil {
		return "", nil
	}
	return a.restorer.root.open(a.restorer.dir)
}

// openImages lets everybody read the images of a container with a user namespace:
// CRIU reads them in there, first as our user and then as the container's, and is
// privileged as neither. The directory above all of them stays ours alone.
func openImages(spec RestoreSpec) error {
	c := spec.Workload.Container
	if c == nil || !c.UserNamespace {
		return nil
	}
	return filepath.WalkDir(filepath.Dir(spec.ImagesDir), func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir():
			return os.Chmod(path, 0o755)
		case e.Type().IsRegular():
			return os.Chmod(path, 0o644)
		}
		return nil
	})
}

// externalMounts says what to mount of the host where the runtime does not. Of
// cgroups of version 1 crun would have the whole hierarchy mounted, in which the
// container had only its own.
func externalMounts(a *attempt, w migrate.Workload) []criu.ExternalMount {
	if w.Container == nil {
		return nil
	}
	var list []criu.ExternalMount
	for _, m := range w.Container.Mounts {
		e := criu.ExternalMount{Key: m.Key, Value: m.Source}
		if m.Type == "cgroup" {
			e.Value, e.Own = a.restorer.cgroupLike(m.Source), true
		}
		list = append(list, e)
	}
	return list
}

// ownNet reports whether a container has a network namespace without a name.
func ownNet(w migrate.Workload) bool {
	if w.Container == nil {
		return false
	}
	_, own := w.Container.NamespacePath("network")
	return own
}

// emptyNet reports whether CRIU is to make a network namespace that we fill.
func emptyNet(spec RestoreSpec) bool {
	return ownNet(spec.Workload) || spec.Network != nil && spec.Network.Path == ""
}

// setUpNamespaces puts into the namespaces of the tree, whose first process is
// there, what CRIU does not: what belongs into its network, and what the hooks of
// a container do.
func (s *server) setUpNamespaces(ctx context.Context, a *attempt, spec RestoreSpec, ev criu.HookEvent) error {
	var err error
	switch {
	case spec.Network != nil:
		err = s.net.fill(ev.PID, spec.Network.Description)
	case ownNet(spec.Workload):
		err = openLoopback(ev.PID)
	}
	if err != nil {
		return err
	}
	if a.restorer == nil {
		return nil
	}
	return a.restorer.tell(ctx, ev)
}

// openLoopback opens the one link of the network namespace that CRIU made for a process.
func openLoopback(pid int) error {
	ns, err := network.OfProcess(pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(loopbackUp)
}

// takeMaster takes the master of a container's terminal.
func (a *attempt) takeMaster(w migrate.Workload, ev criu.HookEvent) error {
	if ev.File == nil {
		return errors.New("criu sent no terminal")
	}
	size := Size{}
	if n := len(a.stdio.terms); n < len(w.Terminals) {
		size = Size{Rows: w.Terminals[n].Rows, Columns: w.Terminals[n].Columns}
	}
	return a.stdio.adopt(ev.File, size)
}

// removeContainer removes what a runtime has made for a tree that never ran, once
// the runtime is at it no more.
func (m mark) removeContainer(ctx context.Context) error {
	c := m.Record.Container
	if c == nil || m.State == markGone {
		return nil
	}
	if err := m.endRuntime(ctx); err != nil {
		return err
	}
	if g, err := cgroup.Open(m.Cgroup); m.Cgroup != "" && err == nil {
		if err := g.Kill(ctx); err != nil {
			return err
		}
	}
	r, err := oci.Of(ctx, c.ContainerRef, nil)
	if err == nil {
		err = r.ClearLeft(*c)
	}
	if err == nil {
		err = errors.Join(r.Delete(ctx, c.ID, m.Root.PID), cgroup.RemoveDirs(m.Cgroups))
	}
	if err == nil && m.Overlay != "" {
		err = unmountRoot(m.Overlay)
	}
	return err
}

// endRuntime waits for a runtime that has lost who answered it, which has it
// remove the container, and kills it if it does not end.
func (m mark) endRuntime(ctx context.Context) error {
	patient, cancel := context.WithTimeout(ctx, runtimeTime/3)
	defer cancel()
	if m.Runtime.AwaitEnd(patient) == nil {
		return nil
	}
	fd, err := unix.PidfdOpen(m.Runtime.PID, 0)
	if err == nil {
		defer unix.Close(fd)
		if m.Runtime.Alive() { // the number may be another's by now
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // or it has just ended
		}
	}
	return m.Runtime.AwaitEnd(ctx)
}
