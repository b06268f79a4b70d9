package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/criu"
	"migrate/workload"
	"migrate/workload/cgroup"
	"migrate/workload/oci"
)

// A restorer is a container runtime at work on a restore, for one attempt. It is
// started before the images are there, makes the container, and asks what it
// takes for CRIU to restore into it. That question is kept until the images have
// come: then the downtime holds nothing of the runtime's start. Once the tree is
// restored, and held, it is told so, and has ended before we vote.
type restorer struct {
	oci.Runtime
	container migrate.Container
	dir       string       // what it is given in place of images, and its log
	version   criu.Version // of the CRIU that it believes to talk to
	console   *net.UnixListener
	exited    *exited
	pid       int
	calls     chan *shimCall
	over      chan struct{} // closed when it is not to call any more
	call      *shimCall     // its restore; nil before
	root      *containerRoot
	dirs      []string // of the container's cgroups
}

// runtimeTime is how long a runtime may take to call, or to end when it was told
// how its restore ended.
const runtimeTime = 30 * time.Second

// startRuntime starts the runtime of a container and waits for its call.
func (s *server) startRuntime(a *attempt, w migrate.Workload, version criu.Version, stdio [3]*os.File) error {
	c := *w.Container
	o, err := oci.Of(a.ctx, c.ContainerRef, s.reaper.run)
	if err != nil {
		return err
	}
	r := &restorer{
		Runtime: o, container: c, version: version, calls: make(chan *shimCall, 1), over: make(chan struct{}),
		dir: runtimeDir(s.cfg.runDir, s.cfg.name),
	}
	for _, m := range c.Mounts {
		if m.Given && m.Mode&unix.S_IFMT == unix.S_IFDIR {
			if err := o.Provide(m.Source); err != nil {
				return err
			}
		}
	}
	if r.root, err = newRoot(c.RootFS); err != nil {
		return err
	}
	a.restorer = r
	a.record = workload.Record{Kind: workload.Kind(w.Kind), ID: w.ID, Container: w.Container}
	s.mark(a, markPrepared) // from here on there is something to be removed, should we die
	s.setRestorer(r)
	err = errors.Join(r.root.prepare(), r.prepare(c.Terminal))
	if err == nil {
		err = s.launchRuntime(a.ctx, r, c, stdio)
	}
	if err != nil {
		s.setRestorer(nil)
		return err
	}
	s.mark(a, markPrepared)
	return r.awaitCall(a.ctx)
}

func (s *server) setRestorer(r *restorer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restorer = r
}

func runtimeDir(runDir, name string) string { return filepath.Join(runDir, "w", name+".runtime") }

// prepare makes what the runtime finds: a program called criu, and a directory
// of images with nothing in it but what a runtime itself writes there at a dump.
func (r *restorer) prepare(terminal bool) error {
	if err := removeRuntimeDir(r.dir); err != nil {
		return err
	}
	for _, d := range []string{"bin", "images", "work"} {
		if err := os.MkdirAll(filepath.Join(r.dir, d), 0o700); err != nil {
			return err
		}
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Symlink(program, filepath.Join(r.dir, "bin", ShimName)); err != nil {
		return err
	}
	none, err := json.Marshal([3]string{os.DevNull, os.DevNull, os.DevNull}) // inherited files are our business
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.dir, "images", "descriptors.json"), none, 0o600); err != nil {
		return err
	}
	if terminal { // that a detached container has one is demanded; we get the terminal from CRIU
		r.console, err = net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(r.dir, "console")})
	}
	return err
}

// launchRuntime starts the runtime at the top of all cgroups: one that makes its
// container's cgroup below its own would else make it among ours.
func (s *server) launchRuntime(ctx context.Context, r *restorer, c migrate.Container, stdio [3]*os.File) error {
	args := []string{
		"--log", filepath.Join(r.dir, "log"), "restore", "--detach", "--bundle", c.Bundle,
		"--image-path", filepath.Join(r.dir, "images"), "--work-path", filepath.Join(r.dir, "work"),
	}
	if r.console != nil {
		args = append(args, "--console-socket", filepath.Join(r.dir, "console"))
	}
	cmd := r.Command(context.WithoutCancel(ctx), append(args, r.container.ID)...)
	cmd.Env = append(os.Environ(),
		"PATH="+filepath.Join(r.dir, "bin")+":"+os.Getenv("PATH"), shimVariable+"="+SocketPath(s.cfg.runDir, s.cfg.name))
	cmd.Dir = c.Bundle
	for i, f := range stdio {
		if f == nil {
			continue // exec opens /dev/null
		}
		switch i {
		case 0:
			cmd.Stdin = f
		case 1:
			cmd.Stdout = f
		case 2:
			cmd.Stderr = f
		}
	}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	steps, err := toTheTop(cmd)
	if err != nil {
		return err
	}
	r.pid, r.exited, err = s.reaper.start(func() (pid int, err error) {
		err = onThread(steps, cmd.Start)
		if err != nil {
			return 0, err
		}
		pid = cmd.Process.Pid
		return pid, cmd.Process.Release()
	})
	return err
}

// toTheTop returns what has cmd be born into the top cgroup of each hierarchy.
func toTheTop(cmd *exec.Cmd) ([]step, error) {
	all, err := cgroup.Hierarchies()
	if err != nil {
		return nil, err
	}
	own, err := cgroup.Of(os.Getpid())
	if err != nil {
		return nil, err
	}
	var steps []step
	for _, h := range all {
		if h.Version == 1 {
			steps = append(steps, between(h.Dir, cgroup.Named([]cgroup.Hierarchy{h}, own)))
			continue
		}
		fd, err := unix.Open(h.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
		steps = append(steps, func() (func() error, error) { return func() error { return unix.Close(fd) }, nil })
	}
	return steps, nil
}

// between is a step into the version 1 cgroup dir, and back to home if that is
// seen from here.
func between(dir string, home []string) step {
	return func() (func() error, error) {
		back := func() error {
			if len(home) == 0 {
				return nil
			}
			return moveThread(home[0])
		}
		return back, moveThread(dir)
	}
}

func (r *restorer) awaitCall(ctx context.Context) error {
	select {
	case r.call = <-r.calls:
		return nil
	case <-r.exited.done:
		return r.fault("ended without a restore")
	case <-time.After(runtimeTime):
		return r.fault(fmt.Sprintf("asked for no restore within %v", runtimeTime))
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// fault is an error about the runtime, with the last thing that it logged.
func (r *restorer) fault(what string) error {
	b, err := os.ReadFile(filepath.Join(r.dir, "log"))
	said := oci.LastMessage(string(b))
	if err != nil || said == "" {
		return fmt.Errorf("%s %s", r.Name, what)
	}
	return fmt.Errorf("%s %s: %s", r.Name, what, said)
}

// place says where CRIU is to be: the container's cgroups, and the one by which
// they are frozen and killed.
func (r *restorer) place() (*cgroup.Group, []string, error) {
	names, err := cgroup.Of(r.call.pid)
	if err != nil {
		return nil, nil, err
	}
	if roots := r.call.caller.Cgroups(); roots[""] != "" { // one for all: it moves nobody itself
		names = roots
	}
	all, err := cgroup.Hierarchies()
	if err != nil {
		return nil, nil, err
	}
	r.dirs = cgroup.Named(all, names)
	group, err := cgroup.Freezer(r.dirs)
	if err != nil {
		return nil, nil, fmt.Errorf("%s put criu into the cgroups %v: %w", r.Name, names, err)
	}
	return group, r.dirs, nil
}

// cgroupLike returns the directory of the container's cgroup that stands for the
// one that the source had as dir: the one in the same hierarchy.
func (r *restorer) cgroupLike(dir string) string {
	same, longest := dir, 0
	for _, d := range r.dirs {
		n := 0
		for n < min(len(d), len(dir)) && d[n] == dir[n] {
			n++
		}
		if n > longest {
			same, longest = d, n
		}
	}
	return same
}

// namespaceFiles opens what the runtime has open for namespaces of the host.
func (r *restorer) namespaceFiles() (keys []string, files []*os.File, err error) {
	for key, fd := range r.call.caller.Namespaces() {
		f, err := os.Open(fmt.Sprintf("/proc/%d/fd/%d", r.call.pid, fd))
		if err != nil {
			closeAll(files)
			return nil, nil, fmt.Errorf("namespace %s of the container: %w", key, err)
		}
		keys, files = append(keys, key), append(files, f)
	}
	return keys, files, nil
}

// tell passes a hook on to the runtime.
func (r *restorer) tell(ctx context.Context, ev criu.HookEvent) error {
	err := r.call.caller.Tell(ctx, ev)
	if err == nil {
		return nil
	}
	select {
	case <-r.exited.done:
		return r.fault("ended in the middle of the restore")
	case <-time.After(time.Second): // it goes on, or its end was not seen yet
		return errors.Join(r.fault("does not take the restored container"), err)
	}
}

// finish tells the runtime that the tree under pid is restored, and waits until
// it has recorded that and ended.
func (r *restorer) finish(ctx context.Context, ev criu.HookEvent) error {
	if err := r.tell(ctx, ev); err != nil {
		return err
	}
	if err := r.call.caller.Restored(ev.PID); err != nil {
		return r.fault("does not take the restored container")
	}
	close(r.call.done)
	select {
	case <-r.exited.done:
		if e := exitOf(r.exited.status, time.Now()); e.Code != 0 {
			return r.fault(fmt.Sprintf("ended with status %d over the restored container", e.Code))
		}
		return nil
	case <-time.After(runtimeTime):
		return r.fault("does not end")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// undo ends the runtime and removes the container that it made. The tree is gone.
func (r *restorer) undo() error {
	if r == nil {
		return nil
	}
	close(r.over)
	if r.exited == nil { // it was not started
		return errors.Join(r.root.close(false), r.clean())
	}
	if r.call != nil {
		r.call.caller.Close() // it takes that for CRIU's death, and removes the container itself
	}
	err := r.awaitEnd()
	if r.call != nil { // the name was free before, and is ours
		ctx, cancel := context.WithTimeout(context.Background(), undoTime)
		defer cancel()
		// One that was killed before it had the container on record knows none, and
		// leaves its cgroups.
		err = errors.Join(err, r.ClearLeft(r.container), r.Delete(ctx, r.container.ID, 0), cgroup.RemoveDirs(r.dirs))
	}
	return errors.Join(err, r.root.close(false), r.clean())
}

func (r *restorer) awaitEnd() error {
	for _, wait := range []time.Duration{runtimeTime / 3, time.Second} {
		select {
		case <-r.exited.done:
			return nil
		case <-time.After(wait):
			_ = unix.Kill(r.pid, unix.SIGKILL) // or it has just ended
		}
	}
	return fmt.Errorf("%s was killed and does not end", r.Name)
}

// clean removes what was made for the runtime to find.
func (r *restorer) clean() error {
	if r == nil {
		return nil
	}
	if r.console != nil {
		r.console.Close()
	}
	return errors.Join(r.root.close(true), removeRuntimeDir(r.dir))
}
