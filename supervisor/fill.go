package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/internal/fill"
)

// filler is the process that fills the memory of a lazily restored tree. If it
// ends too early, the tree cannot run on.
type filler struct {
	process  *fill.Process
	reaper   *reaper
	exited   *exited
	opened   bool
	needless chan struct{} // closed when it may end
	once     sync.Once
	watch    sync.WaitGroup // over those who act on its end
}

// startFiller starts one for the attempt, if there is none yet.
func (s *server) startFiller(a *attempt) error {
	if a.filler != nil {
		return nil
	}
	f := &filler{reaper: s.reaper, needless: make(chan struct{})}
	_, exited, err := s.reaper.start(func() (pid int, err error) {
		if f.process, err = fill.Launch(os.Stderr, s.noteFill); err != nil {
			return 0, err
		}
		return f.process.PID(), nil
	})
	if err != nil {
		return err
	}
	f.exited, a.filler = exited, f
	return nil
}

// openTime bounds the opening of a store.
const openTime = 10 * time.Second

// openFiller makes the filler ready for CRIU. From here on the restore is called
// off if it ends.
func (s *server) openFiller(a *attempt, spec RestoreSpec) error {
	if err := s.startFiller(a); err != nil {
		return err
	}
	if a.filler.opened {
		return errors.New("the filler was told what to fill already")
	}
	ctx, cancel := context.WithTimeout(a.filler.life(a.ctx), openTime)
	defer cancel()
	work := spec.WorkDir
	if work == "" {
		work = spec.ImagesDir
	}
	a.filler.opened = true
	if err := a.filler.process.Open(ctx, fill.Spec{Map: spec.LazyMap, ImagesDir: spec.ImagesDir, WorkDir: work}); err != nil {
		return fmt.Errorf("what is to be filled in: %w", err)
	}
	a.filler.watch.Go(func() {
		if err := a.filler.await(); err != nil {
			a.cancel(err)
			s.killGroup() // CRIU too: it may wait for a task that waits for a page
		}
	})
	return nil
}

// await waits for its end, and returns an error if that is too early.
func (f *filler) await() error {
	<-f.exited.done
	select {
	case <-f.needless:
		return nil
	default:
		return f.end()
	}
}

// life returns a context that ends with ctx or the filler: the keeper holds its
// end of the socket open.
func (f *filler) life(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-f.exited.done:
			cancel(f.end())
		case <-ctx.Done():
		}
	}()
	return ctx
}

// hold waits until the filler has done what must be done before the tree runs.
func (f *filler) hold(ctx context.Context) error {
	if err := f.process.Hold(f.life(ctx)); err != nil {
		return fmt.Errorf("filling what cannot wait: %w", err)
	}
	return nil
}

// close ends the filler of a tree that is gone, or has its memory, and waits for
// it.
func (f *filler) close() {
	if f == nil {
		return
	}
	f.once.Do(func() { close(f.needless) })
	if f.opened {
		_ = f.reaper.signal(f.process.PID(), unix.SIGKILL) // or it has ended
	}
	f.process.Close()
	<-f.exited.done
	f.watch.Wait()
}

// end says how the filler ended that has ended; nil is when all was done.
func (f *filler) end() error {
	if fault := f.process.Fault(); fault != "" {
		return errors.New(fault)
	}
	e := exitOf(f.exited.status, time.Now())
	switch {
	case e.Signal != 0:
		return fmt.Errorf("the filler was killed by signal %d", e.Signal)
	case e.Code != 0:
		return fmt.Errorf("the filler ended with status %d", e.Code)
	}
	return nil
}

// beginFill has the tree's memory filled in, now that it runs.
func (s *server) beginFill(a *attempt, lazy bool) {
	if !lazy {
		go a.filler.close() // there may be one that was prepared
		return
	}
	s.mu.Lock()
	s.filler = a.filler
	s.mu.Unlock()
	adjust, err := protect()
	if err != nil {
		s.log.Debug("the kernel may pick this process when memory is short", "cause", err)
	}
	go func() {
		s.fill(a.filler)
		adjust()
	}()
}

// protect does for this process what a filler does for itself, until undo.
func protect() (undo func(), err error) {
	const path = "/proc/self/oom_score_adj"
	before, err := os.ReadFile(path)
	if err == nil {
		err = fill.Protect()
	}
	if err != nil {
		return func() {}, err
	}
	return func() { _ = os.WriteFile(path, before, 0) }, nil // raising it is always allowed
}

// fill sees the filling through to its end.
func (s *server) fill(f *filler) {
	begin := time.Now()
	if err := f.process.Go(f.life(context.Background())); err != nil {
		s.log.Warn("the filler", "cause", err)
	}
	if err := f.await(); err != nil {
		s.fillFailed(err)
		return
	}
	if f.exited.status.Signaled() {
		return // the tree has ended
	}
	p := *s.snapshot().Fill
	s.noteFill(fill.Progress{Total: p.Total, Done: p.Total, Complete: true})
	s.log.Info("memory is complete", "bytes", p.Total, "time", time.Since(begin))
	f.close()
}

// noteFill makes a new note each time: others read the old one.
func (s *server) noteFill(p fill.Progress) {
	s.update(func(st *Status) { st.Fill = &Fill{Total: p.Total, Done: p.Done, Complete: p.Complete} })
}

// fillFailed kills a tree whose memory will not be complete. Until then whoever
// needs a page waits for it: the filler's keeper sees to that, and goes last.
func (s *server) fillFailed(cause error) {
	failure := migrate.Failure{
		What:   "the memory of the workload was not filled in to the end, so it was killed",
		Cause:  cause.Error(),
		Advice: "Start it again: what it had in memory is lost.",
	}
	s.log.Error(failure.What, "cause", cause)
	s.update(func(st *Status) {
		f := *st.Fill
		f.Failure = &failure
		st.Fill = &f
		s.record.Failure = &failure
	})
	s.killGroup()
	s.save()
}

// endFill clears up behind a tree that has ended.
func (s *server) endFill() {
	s.mu.Lock()
	f := s.filler
	s.mu.Unlock()
	f.close()
}

// awaitFill waits until the workload has its memory.
func (s *server) awaitFill(ctx context.Context) (Status, error) {
	st, err := s.await(ctx, func(st Status) bool {
		return st.Fill == nil || st.Fill.Complete || st.Fill.Failure != nil || st.Exit != nil
	})
	switch {
	case err != nil, st.Fill == nil, st.Fill.Complete:
		return st, err
	case st.Fill.Failure != nil:
		return st, &Error{*st.Fill.Failure}
	}
	return st, refusal(st, "its memory was not filled in before it ended")
}
