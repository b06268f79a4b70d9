package fill

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"migrate/criu"
)

// Verb is the hidden command of the program that runs [Main].
const Verb = "fill"

// controlFD is the descriptor of the socket to the parent.
const controlFD = 3

// Main is the filler: the hidden command [Verb], which [Launch] starts. It
// returns when the memory is complete or the tree is gone. An error means that
// the tree cannot run on; the keeper that is left then must be killed after it.
func Main(log io.Writer) error {
	f := newFiller(slog.New(slog.NewTextHandler(log, nil)))
	// Handled, not ignored, as everywhere else; only SIGKILL ends a filler.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE)
	unix.CloseOnExec(controlFD)
	if _, err := unix.GetsockoptInt(controlFD, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return fmt.Errorf("%s is for internal use", Verb)
	}
	f.control = &control{fd: controlFD}
	if err := Protect(); err != nil {
		f.log.Debug("the kernel may pick this process when memory is short", "cause", err)
	}
	if err := f.keep(); err != nil {
		f.control.say(word{Error: err.Error()})
		return err
	}
	if err := f.run(); err != nil {
		f.log.Error("filling memory", "cause", err)
		f.control.say(word{Error: err.Error()})
		return err
	}
	f.keeper.end()
	return nil
}

// keep starts a keeper, and another when that is killed.
func (f *filler) keep() (err error) {
	if f.keeper.pid != 0 {
		f.log.Warn("the keeper was killed")
		f.keeper.end()
	}
	if f.keeper, err = startKeeper(); err != nil {
		return err
	}
	f.control.say(word{Keeper: f.keeper.pid})
	return nil
}

func (f *filler) run() error {
	for wait := time.Duration(0); !f.complete(); {
		ready, err := f.wait(wait)
		if err == nil {
			err = f.hear(ready[0], ready[1], ready[2])
		}
		if err == nil {
			wait, err = f.step()
		}
		if err != nil {
			return err
		}
		if f.orphaned() {
			return nil
		}
		f.report()
	}
	f.store.dropAll()
	f.told = time.Time{}
	f.report()
	return nil
}

// hear deals with what has come from the parent, the keeper and CRIU.
func (f *filler) hear(control, keeper, criu bool) error {
	if keeper {
		if err := f.keep(); err != nil {
			return err
		}
	}
	if criu {
		finished, err := f.criu.receive()
		if err != nil {
			return fmt.Errorf("taking tasks from criu: %w", err)
		}
		f.restored = f.restored || finished
	}
	if !control {
		return nil
	}
	o, ok, err := f.control.next()
	if err != nil {
		return fmt.Errorf("listening to the supervisor: %w", err)
	}
	if ok {
		return f.obey(o)
	}
	return nil
}

// orphaned decides what becomes of us without a parent. A tree that CRIU has
// restored runs on, or will end; one that it has not will never run.
func (f *filler) orphaned() (end bool) {
	if f.control.lost && f.restored {
		f.goOn()
	}
	return f.control.lost && !f.restored && f.criu.over()
}

func (f *filler) obey(o order) error {
	switch {
	case o.Open != nil:
		if err := f.openAll(*o.Open); err != nil {
			return err
		}
	case o.Hold:
		if err := f.hold(); err != nil {
			return err
		}
	case o.Go:
		f.goOn()
	}
	f.control.say(word{Answer: true})
	return nil
}

// openAll gets everything that is needed from now on, and listens for CRIU.
func (f *filler) openAll(s Spec) (err error) {
	if f.store, err = openStore(s.Map, f.log); err != nil {
		return err
	}
	f.mapPath, f.total, f.wiped = s.Map, f.store.total, map[uint64][]span{}
	for image := range f.store.images {
		ranges, err := criu.WipedOnFork(s.ImagesDir, image)
		if err != nil {
			return err
		}
		for _, r := range ranges {
			f.wiped[image] = append(f.wiped[image], span{r.Start, r.End})
		}
	}
	f.criu, err = listenForCRIU(s.WorkDir, f.add)
	return err
}

// reportEvery is the pace of reports.
const reportEvery = 50 * time.Millisecond

func (f *filler) report() {
	if f.going && time.Since(f.told) > reportEvery {
		f.control.say(word{Progress: &Progress{Total: f.total, Done: f.done, Complete: f.complete()}})
		f.told = time.Now()
	}
}

// Protect keeps the kernel from killing this process when memory is short
// (proc(5), oom_score_adj): the whole workload would be lost with it.
func Protect() error { return os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0) }
