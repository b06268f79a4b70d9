package supervisor

import (
	"cmp"
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"migrate/workload"
)

// take makes the tree under pid the workload of this supervisor and begins to
// copy its output.
func (s *server) take(pid int, root *exited, stdio *stdio, ownPIDs bool, rec workload.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	rec.Name, rec.State = s.cfg.name, workload.Running
	if rec.Root, err = workload.Identify(pid); err != nil {
		s.log.Warn("it ended at once", "cause", err)
	}
	if rec.Supervisor, err = workload.Identify(os.Getpid()); err != nil {
		s.log.Error("identifying myself", "cause", err)
	}
	for _, o := range stdio.outputs {
		rec.LogFiles = append(rec.LogFiles, o.log.path)
	}
	s.root, s.stdio, s.ownPIDs, s.record = root, stdio, ownPIDs, rec
	s.status.Root = pid
	stdio.start()
}

// save writes the record. A disk that is full must not end the workload.
func (s *server) save() {
	s.mu.Lock()
	rec := s.record
	s.mu.Unlock()
	if err := workload.Save(s.cfg.stateDir, rec); err != nil {
		s.log.Error("recording the workload", "cause", err)
	}
}

// supervise waits for the workload's end and records it.
func (s *server) supervise() {
	s.mu.Lock()
	root := s.root
	s.mu.Unlock()
	<-root.done
	exit := exitOf(root.status, time.Now())
	s.log.Info("the workload's root ended", "code", exit.Code, "signal", exit.Signal)
	s.recordExit(exit)
	s.outlast()
	s.endFill()
	s.stdio.finish()
	if s.record.Container == nil { // else it is the runtime's, which removes it with the container
		if err := s.group.Remove(); err != nil {
			s.log.Error("removing the workload's cgroup", "cause", err)
		}
	}
	if err := removeNetworkName(s.record); err != nil {
		s.log.Error("removing the name of the workload's network namespace", "cause", err)
	}
	s.unmark()
	s.over(Exited)
}

// exitOf reads a wait status as a shell does.
func exitOf(ws unix.WaitStatus, now time.Time) Exit {
	if ws.Signaled() {
		return Exit{Code: 128 + int(ws.Signal()), Signal: int(ws.Signal()), Time: now}
	}
	return Exit{Code: ws.ExitStatus(), Time: now}
}

func (s *server) recordExit(exit Exit) {
	s.update(func(st *Status) {
		exit.Moved = st.MovedTo != ""
		st.Exit = &exit
		s.record.Ended = exit.Time
		if !exit.Moved {
			s.record.State, s.record.ExitCode, s.record.Signal = workload.Exited, exit.Code, exit.Signal
		}
	})
	s.save()
}

// outlast waits until nothing is left of the tree. In a PID namespace of its
// own the kernel has killed all with the root; elsewhere, what the root left
// running runs on until it ends or is stopped.
func (s *server) outlast() {
	kill := s.kill
	for wait := time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		pids, err := s.group.Procs()
		if err != nil {
			s.log.Warn("looking for what is left", "cause", err) // such as: the source removed it after a move
			return
		}
		if len(pids) == 0 {
			return
		}
		if s.ownPIDs && wait > 10*time.Millisecond {
			s.killGroup() // somebody else's process: it joined the cgroup, not the namespace
			return
		}
		select {
		case <-kill:
			s.killGroup()
			kill = nil
		case <-time.After(wait):
		}
	}
}

func (s *server) killGroup() {
	if err := s.emptyGroup(); err != nil {
		s.log.Error("killing what is left", "cause", err)
	}
}

// wait waits for the workload's end.
func (s *server) wait(ctx context.Context) (Exit, error) {
	st, err := s.await(ctx, func(st Status) bool { return st.State == Exited || st.State == Discarded })
	if err != nil {
		return Exit{}, err
	}
	if st.Exit == nil {
		return Exit{}, refusal(st, "it never ran here")
	}
	return *st.Exit, nil
}

// stop asks the root to end, and kills what has not ended in time. The
// timeout goes on if the client is gone.
func (s *server) stop(ctx context.Context, a stopArgs) (Exit, error) {
	st := s.snapshot()
	switch st.State {
	case Running, Exited:
	default:
		return Exit{}, refusal(st, "cannot stop it")
	}
	timeout := cmp.Or(a.Timeout, StopTimeout)
	if timeout > 0 {
		if err := s.signal(st.Root, syscall.Signal(cmp.Or(a.Signal, int(unix.SIGTERM)))); err != nil {
			return Exit{}, err
		}
	}
	timer := time.AfterFunc(max(0, timeout), func() {
		s.killOnce.Do(func() { close(s.kill) })
		if s.snapshot().State == Running { // not one that was moved meanwhile: its source kills it
			s.killGroup()
		}
	})
	exit, err := s.wait(ctx)
	if err == nil {
		timer.Stop()
	}
	return exit, err
}

// signal sends sig to the root, or to each process that it left running.
func (s *server) signal(root int, sig syscall.Signal) error {
	err := s.reaper.signal(root, sig)
	if !errors.Is(err, unix.ESRCH) {
		return err
	}
	pids, err := s.group.Procs()
	for _, pid := range pids {
		_ = unix.Kill(pid, sig) // or it has ended
	}
	return err
}

// terminate is the answer to SIGTERM.
func (s *server) terminate() {
	st := s.snapshot().State
	s.log.Info("told to end", "state", st)
	var err error
	switch {
	case unvoted(st) || st == Restoring:
		err = s.discard(context.Background())
	case st == Running:
		_, err = s.stop(context.Background(), stopArgs{})
	}
	if err != nil {
		s.log.Error("ending", "cause", err)
	}
}

// moved notes that a peer has the workload.
func (s *server) moved(a movedArgs) (Status, error) {
	st := s.snapshot()
	if st.State != Running && st.State != Moved {
		return st, refusal(st, "cannot note that it moved")
	}
	s.update(func(st *Status) {
		st.State, st.MovedTo = Moved, a.Peer
		s.record.State, s.record.MovedTo, s.record.Migration = workload.Moved, a.Peer, a.Migration
		if a.Peer == "" {
			st.State, s.record.State = Running, workload.Running
		}
	})
	s.save()
	return s.snapshot(), nil
}

// resize sets the size of the workload's terminal.
func (s *server) resize(size Size) (Status, error) {
	st := s.snapshot()
	if st.State != Running {
		return st, refusal(st, "cannot resize its terminal")
	}
	return st, s.stdio.resize(size)
}

// removeEmptyDir removes the workload's directory unless an earlier stay left
// its record there.
func (s *server) removeEmptyDir() {
	if _, err := workload.Load(s.cfg.stateDir, s.cfg.name); err == nil {
		return
	}
	if err := workload.Remove(s.cfg.stateDir, s.cfg.name); err != nil {
		s.log.Warn("removing the workload's directory", "cause", err)
	}
}
