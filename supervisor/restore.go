package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/clock"
	"migrate/criu"
	"migrate/internal/failpoint"
	"migrate/workload"
)

// prepare starts CRIU in the workload's cgroup.
func (s *server) prepare(spec PrepareSpec) (Status, error) {
	s.ops.Lock()
	defer s.ops.Unlock()
	if st := s.snapshot(); st.State != Idle {
		return st, refusal(st, "cannot prepare a restore")
	}
	if err := s.checkName(spec.Name); err != nil {
		return s.snapshot(), err
	}
	err := s.prepareNetwork(spec.Migration, spec.Network)
	var a *attempt
	if err == nil {
		a, err = s.warmAttempt(spec.CRIU, spec.Workload)
	}
	if err == nil && spec.Lazy {
		err = s.startFiller(a)
	}
	if err != nil {
		return s.snapshot(), fmt.Errorf("preparing the restore: %w", err)
	}
	s.update(func(st *Status) { st.State, st.Migration = Prepared, spec.Migration })
	return s.snapshot(), nil
}

func (s *server) checkName(name string) error {
	if name != s.cfg.name {
		return fmt.Errorf("asked for workload %.80q, this is the supervisor of %s", name, s.cfg.name)
	}
	return nil
}

// warmAttempt returns a CRIU that fits w: the one that waits, or a new one.
func (s *server) warmAttempt(tool criu.Tool, w migrate.Workload) (*attempt, error) {
	s.mu.Lock()
	a := s.attempt
	s.mu.Unlock()
	if a != nil {
		if a.fits(w) {
			return a, nil
		}
		if err := s.dropAttempt(a); err != nil {
			return nil, err
		}
	}
	if s.group == nil && w.Container == nil {
		group, err := workloadGroup(s.cfg.name)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.group = group
		s.mu.Unlock()
	}
	if err := passPIDs(PIDs(w)); err != nil {
		return nil, err
	}
	a, err := s.newAttempt(tool, w)
	if err != nil {
		return nil, err
	}
	if err := ownConflict(PIDs(w), a.child.PID()); err != nil {
		a.stdio.close()
		return nil, errors.Join(err, s.endCRIU(a), s.undoRuntime(a))
	}
	s.setAttempt(a)
	if w.Container != nil {
		s.mark(a, markPrepared) // with CRIU, and the container's cgroup
	}
	return a, nil
}

// dropAttempt ends one that has restored nothing.
func (s *server) dropAttempt(a *attempt) error {
	s.setAttempt(nil)
	a.stdio.close()
	a.filler.close()
	return errors.Join(s.endCRIU(a), s.undoRuntime(a))
}

// undoRuntime removes what was made for a container that has no processes.
func (s *server) undoRuntime(a *attempt) error {
	if a.restorer == nil {
		return nil
	}
	err := a.restorer.undo()
	if err == nil {
		s.unmark()
	}
	return err
}

func (s *server) setAttempt(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempt = a
}

// restore begins a restore and waits until the tree is held.
func (s *server) restore(ctx context.Context, spec RestoreSpec) (Hold, error) {
	if err := s.beginRestore(spec); err != nil {
		return Hold{}, err
	}
	st, err := s.await(ctx, func(st Status) bool { return st.State != Restoring })
	switch {
	case err != nil:
		return Hold{}, err
	case st.Held != nil && st.Failure == nil:
		return *st.Held, nil
	case st.Failure != nil:
		return Hold{}, &Error{*st.Failure}
	}
	return Hold{}, refusal(st, "the restore was called off")
}

func (s *server) beginRestore(spec RestoreSpec) error {
	s.ops.Lock()
	defer s.ops.Unlock()
	if st := s.snapshot(); !unvoted(st.State) {
		return refusal(st, "cannot restore")
	}
	if err := s.checkName(spec.Name); err != nil {
		return err
	}
	c, err := dumpedClocks(spec.ImagesDir, spec.Clock)
	if err != nil {
		return err
	}
	if err := s.repairImages(spec.ImagesDir); err != nil {
		return err
	}
	if err := s.prepareNetwork(spec.Migration, spec.Network); err != nil {
		return err
	}
	a, err := s.warmAttempt(spec.CRIU, spec.Workload)
	if err != nil {
		return fmt.Errorf("starting the restore: %w", err)
	}
	if err := a.fillPipes(spec.Workload, spec.ImagesDir); err != nil {
		return errors.Join(err, s.dropAttempt(a))
	}
	if spec.Lazy {
		if err := s.openFiller(a, spec); err != nil {
			return errors.Join(fmt.Errorf("starting the restore: %w", err), s.dropAttempt(a))
		}
	}
	root, err := a.openRoot()
	if err == nil {
		err = openImages(spec)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("making ready for the container: %w", err), s.dropAttempt(a))
	}
	s.update(func(st *Status) {
		st.State, st.Migration, st.Failure, st.Held, st.Fill = Restoring, spec.Migration, nil, nil, nil
		if spec.Lazy {
			st.Fill = &Fill{}
		}
	})
	go s.carryThrough(a, spec, c, root)
	return nil
}

// repairImages puts right what CRIU would restore wrongly.
func (s *server) repairImages(dir string) error {
	n, err := criu.RepairTimers(dir)
	if err != nil {
		return err
	}
	thawed, err := criu.ForgetFrozen(dir)
	if err != nil {
		return err
	}
	s.log.Debug("images set right", "timers", n, "frozen", thawed)
	return criu.RenameGhosts(dir)
}

// carryThrough runs the restore to its end: the tree runs, or nothing is left.
func (s *server) carryThrough(a *attempt, spec RestoreSpec, c clocks, root string) {
	o := spec.Options
	_, err := a.child.Restore(a.ctx, criu.RestoreOptions{
		ImagesDir: spec.ImagesDir, WorkDir: spec.WorkDir, ManageCgroupsMode: o.ManageCgroupsMode,
		TCPClose: o.TCP == migrate.TCPClose, ShellJob: spec.Workload.ShellJob, FileLocks: o.FileLocks,
		Lock: criu.LockSkip, TCPEstablished: o.TCP == migrate.TCPEstablished,
		GhostLimit: o.GhostLimit, LinkRemap: true, ExtUnixSockets: true, InheritFDs: a.inherit(spec.Workload), Sibling: true,
		Lazy: spec.Lazy, Root: root, Caller: a.caller(), Mounts: externalMounts(a, spec.Workload), EmptyNet: emptyNet(spec),
		OrphanPTSMaster: spec.Workload.Container != nil,
	}, func(ctx context.Context, ev criu.HookEvent) error { return s.hook(ctx, a, spec, c, ev) })
	if a.letGo {
		if err != nil {
			s.log.Warn("criu did not end well, but the tree runs", "cause", err)
		}
		s.endRestore(a, spec)
		return
	}
	s.abandonAttempt(a, err)
}

// hook answers CRIU. Network hooks and those about namespaces need nothing.
func (s *server) hook(ctx context.Context, a *attempt, spec RestoreSpec, c clocks, ev criu.HookEvent) (err error) {
	switch ev.Hook {
	case criu.PreRestore:
		a.clockReport, err = c.write(spec, a.timens)
		return err
	case criu.SetupNamespaces:
		return s.setUpNamespaces(ctx, a, spec, ev)
	case criu.OrphanPTSMaster:
		return a.takeMaster(spec.Workload, ev)
	case criu.PostRestore:
		if a.restorer != nil {
			if err := a.restorer.finish(ctx, ev); err != nil {
				return err
			}
		}
		return s.hold(ctx, a, spec, ev.PID)
	case criu.PreResume:
		a.resumedAt = clock.Now()
		a.letGo = true
		s.mark(a, markLetGo)
		failpoint.Reach("supervisor:pre-resume")
		s.net.open(s.log)
	case criu.PostResume:
		s.adopt(a, spec)
	}
	if ev.File != nil {
		ev.File.Close()
	}
	return nil
}

// hold keeps CRIU in its hook until there is a verdict. Whatever else ends the
// hold is answered with an error, which makes CRIU kill the tree: an answer of
// yes over a dead root would hang it.
func (s *server) hold(ctx context.Context, a *attempt, spec RestoreSpec, pid int) error {
	root, err := s.reaper.watch(pid)
	if err != nil {
		return errRootDied
	}
	if spec.Lazy {
		if err := a.filler.hold(ctx); err != nil {
			return err
		}
	}
	h := Hold{PID: pid, At: clock.Now(), Clock: a.clockReport}
	if mono, _, err := clock.Offsets(pid); err == nil && h.Clock.Namespace {
		h.Clock.Offset = int64(mono)
	}
	a.root, a.holdPID, a.clockReport = root, pid, h.Clock
	a.record = s.recordOf(a, spec)
	s.mark(a, markHeld)
	failpoint.Reach("supervisor:restored")
	s.update(func(st *Status) { st.State, st.Root, st.Held = Held, pid, &h })
	select {
	case v := <-a.verdict:
		if v == discardIt {
			return errDiscarded
		}
		failpoint.Reach("supervisor:resuming")
		go s.guard(a)
		return nil
	case <-root.done:
		return errRootDied
	case <-a.criuDied:
		return errCRIUDied
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// hangTime is how long CRIU may go on after the root it was told to let go
// has died: it can wait for it for ever.
const hangTime = 2 * time.Second

// guard ends a CRIU that waits for a dead root.
func (s *server) guard(a *attempt) {
	select {
	case <-a.criuDied:
		return
	case <-a.root.done:
	}
	select {
	case <-a.criuDied:
	case <-time.After(hangTime):
		_ = unix.Kill(a.child.PID(), unix.SIGKILL) // nothing is left that it could harm
	}
}

// recordOf is what the host is to remember of a tree that is held.
func (s *server) recordOf(a *attempt, spec RestoreSpec) workload.Record {
	mono, boot, err := clock.Offsets(a.holdPID)
	if err != nil {
		s.log.Warn("reading the workload's clock offsets", "cause", err)
	}
	w := spec.Workload
	return workload.Record{
		Kind: workload.Kind(w.Kind), ID: w.ID, Container: w.Container, Command: w.Command, Dir: w.Dir, Init: w.Init, Cgroup: s.group.Path(),
		Migration: spec.Migration, MonoOffset: int64(mono), BootOffset: int64(boot), LogLimit: w.LogLimit, Network: s.net.named(),
	}
}

// adopt makes the restored tree the workload that runs here.
func (s *server) adopt(a *attempt, spec RestoreSpec) {
	a.record.Started, a.record.Arrived = time.Now(), time.Now()
	s.take(a.holdPID, a.root, a.stdio, spec.Workload.OwnPIDs, a.record)
	s.beginFill(a, spec.Lazy)
	s.save()
	s.update(func(st *Status) {
		st.State, st.Resumed = Running, &Resumed{PID: a.holdPID, ResumedAt: a.resumedAt, Clock: a.clockReport}
	})
	go s.supervise()
}

// endRestore tidies up behind a restore that went well. CRIU may have ended
// without the last hook.
func (s *server) endRestore(a *attempt, spec RestoreSpec) {
	if s.snapshot().Resumed == nil {
		s.adopt(a, spec)
	}
	s.setAttempt(nil)
	s.dropNetwork()
	if err := errors.Join(s.endCRIU(a), a.restorer.clean()); err != nil {
		s.log.Warn("ending criu", "cause", err)
	}
}

// undoTime bounds the removal of what a failed restore left.
const undoTime = 30 * time.Second

// abandonAttempt removes what a failed restore left and says why it failed.
func (s *server) abandonAttempt(a *attempt, cause error) {
	err := s.endCRIU(a)
	a.stdio.close()
	err = errors.Join(err, s.emptyGroup())
	err = errors.Join(err, a.awaitRoot())
	err = errors.Join(err, a.restorer.undo())
	a.filler.close()
	if err == nil {
		s.mark(a, markGone)
	}
	s.setAttempt(nil)
	s.dropNetwork()
	if errors.Is(cause, errDiscarded) && err == nil {
		err = s.leave(Discarded)
		if err == nil {
			return
		}
	}
	s.log.Error("restore", "cause", errors.Join(cause, err))
	f, _ := migrate.FailureOf(cause)
	if err != nil {
		f.Cause += "; and removing it: " + err.Error()
	}
	s.update(func(st *Status) { st.State, st.Root, st.Held, st.Failure, st.Fill = Failed, 0, nil, &f, nil })
}

func (s *server) emptyGroup() error {
	ctx, cancel := context.WithTimeout(context.Background(), undoTime)
	defer cancel()
	return s.group.Kill(ctx)
}

// PIDs returns the numbers that the workload needs in its host's PID namespace,
// threads included: what [StartConfig].AvoidPIDs wants. A tree with a PID
// namespace of its own needs none.
func PIDs(w migrate.Workload) []int {
	if w.OwnPIDs {
		return nil
	}
	var pids []int
	for _, t := range w.Tasks {
		pids = append(append(pids, t.VPID), t.Threads...)
	}
	return pids
}

// leave removes the workload's cgroup and ends the supervisor. A directory
// that holds no record of an earlier stay goes too.
func (s *server) leave(last State) error {
	if s.group != nil {
		if err := s.group.Remove(); err != nil {
			return err
		}
	}
	s.removeEmptyDir()
	s.unmark()
	s.over(last)
	return nil
}
