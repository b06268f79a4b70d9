package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/clock"
	"migrate/criu"
	"migrate/workload"
)

// attempt is one CRIU child, and the pipes and terminals that were made for
// what it is to restore. Each try has its own: they are filled with what was in
// them.
type attempt struct {
	child  *criu.Child
	stdio  *stdio
	keys   []string            // what each file given to CRIU stands for
	inputs map[uint64]*os.File // our ends of the pipes it reads from, by the inode they had
	job    bool                // standard input of CRIU is the terminal of a shell job
	timens bool                // a restore on this host makes a time namespace

	ctx    context.Context // ends to call the restore off
	cancel context.CancelCauseFunc

	verdict     chan verdict // of a hold; one is taken
	decide      sync.Once
	letGo       bool // CRIU has reached pre-resume: the tree runs, whatever CRIU says
	resumedAt   migrate.ClockReading
	criuDied    chan struct{}
	root        *exited
	holdPID     int
	clockReport migrate.Clock
	record      workload.Record // of the tree, once it is held
	filler      *filler         // nil unless the restore may be lazy
	restorer    *restorer       // nil unless it is a container
	network     []string        // keys of the namespaces among files
}

// verdict is what is to become of a held tree.
type verdict bool

const (
	resumeIt  verdict = true
	discardIt verdict = false
)

var (
	errDiscarded = errors.New("the restored copy was discarded")
	errRootDied  = errors.New("the root of the restored tree died before it ran")
	errCRIUDied  = errors.New("criu died while it held the restored tree")
)

// jobTerminal reports whether t belongs to the session of the shell that the
// tree is a job of. CRIU has no key for that one: the restored tree gets CRIU's
// standard input instead.
func jobTerminal(w migrate.Workload, t migrate.Terminal) bool { return w.ShellJob && t.Control }

// takeTerminal makes f the controlling terminal of this process, which leads a
// session, in place of the one from an earlier attempt: the restored job will be
// in our session, and its terminal's signals go to it.
func takeTerminal(f *os.File) error {
	if old, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0); err == nil {
		err = unix.IoctlSetInt(int(old.Fd()), unix.TIOCNOTTY, 0)
		if err = errors.Join(err, old.Close()); err != nil {
			return fmt.Errorf("giving up a terminal: %w", err)
		}
	}
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("taking a terminal: %w", err)
	}
	return nil
}

// newAttempt makes pipes and terminals like those of w, and starts CRIU with
// them in the group.
func (s *server) newAttempt(tool criu.Tool, w migrate.Workload) (*attempt, error) {
	a := &attempt{
		stdio:   newStdio(workload.RecordDir(s.cfg.stateDir, s.cfg.name), w.LogLimit, s.log),
		timens:  clock.Supported(),
		inputs:  map[uint64]*os.File{},
		verdict: make(chan verdict, 1), criuDied: make(chan struct{}),
	}
	a.ctx, a.cancel = context.WithCancelCause(context.Background())
	files, stdin, err := a.guestFiles(w)
	defer func() {
		for _, f := range files {
			if !a.isTerminal(f) {
				f.Close()
			}
		}
	}()
	if err == nil {
		tool, err = s.findCRIU(a.ctx, tool)
	}
	var dirs []string
	if err == nil {
		files, dirs, err = s.place(a, w, tool, files)
	}
	if err == nil {
		err = s.startCRIU(a, tool, files, stdin, dirs)
	}
	if err != nil {
		a.cancel(err)
		a.stdio.close()
		return nil, errors.Join(err, s.undoRuntime(a))
	}
	return a, nil
}

// findCRIU returns the tool, if it is one, or looks for one.
func (s *server) findCRIU(ctx context.Context, tool criu.Tool) (criu.Tool, error) {
	if tool.Path != "" {
		return tool, nil
	}
	err := s.reaper.undisturbed(func() (err error) {
		tool, err = criu.FindKnown(ctx, "", s.cfg.runDir)
		return err
	})
	return tool, err
}

// place finds the cgroups that CRIU is to be started in. Those of a container
// are made by its runtime, which may have namespaces of the host to add to the
// files.
func (s *server) place(a *attempt, w migrate.Workload, tool criu.Tool, files []*os.File) ([]*os.File, []string, error) {
	if w.Container == nil {
		return files, s.group.Dirs(), nil
	}
	if err := s.startRuntime(a, w, tool.Version, stdioOf(w, files)); err != nil {
		return files, nil, err
	}
	group, dirs, err := a.restorer.place()
	if err != nil {
		return files, nil, err
	}
	s.mu.Lock()
	s.group = group
	s.mu.Unlock()
	keys, more, err := a.restorer.namespaceFiles()
	a.keys = append(a.keys, keys...)
	a.network = keys
	return append(files, more...), dirs, err
}

// stdioOf returns those of the files that are standard streams; nil is for those
// that are not there.
func stdioOf(w migrate.Workload, files []*os.File) (std [3]*os.File) {
	for i, p := range w.Pipes {
		if n := slices.Index([]string{"stdin", "stdout", "stderr"}, p.Stream); n >= 0 {
			std[n] = files[i]
		}
	}
	return std
}

// guestFiles makes what the restored tree gets in place of what it had.
func (a *attempt) guestFiles(w migrate.Workload) (files []*os.File, stdin *os.File, err error) {
	for _, p := range w.Pipes {
		var f *os.File
		if p.Write {
			f, err = a.stdio.pipeOut(p.Stream)
		} else {
			f, err = a.pipeIn(p.Inode)
		}
		if err != nil {
			return files, nil, err
		}
		files = append(files, f)
	}
	for _, t := range ownTerminals(w) {
		f, err := a.stdio.terminal(Size{Rows: t.Rows, Columns: t.Columns})
		if err != nil {
			return files, nil, err
		}
		if jobTerminal(w, t) {
			if err := takeTerminal(f); err != nil {
				return files, nil, err
			}
			stdin = f
			continue
		}
		files = append(files, f)
	}
	a.keys, a.job = keys(w), stdin != nil
	return files, stdin, nil
}

func (a *attempt) pipeIn(inode uint64) (*os.File, error) {
	r, w, err := a.stdio.pipeIn()
	if err == nil {
		a.inputs[inode] = w
	}
	return r, err
}

// fillPipes puts back what the tree had not read yet of pipes whose other end
// it does not have.
func (a *attempt) fillPipes(w migrate.Workload, images string) error {
	var inodes []uint64
	for _, p := range w.Pipes {
		if !p.Write {
			inodes = append(inodes, p.Inode)
		}
	}
	pipes, err := criu.ReadPipes(images, inodes...)
	if err != nil {
		return err
	}
	for inode, c := range pipes {
		if err := refill(a.inputs[inode], c); err != nil {
			return fmt.Errorf("putting back what is in a pipe: %w", err)
		}
	}
	return nil
}

// refill does not wait: what was in a pipe has room in one of the same size.
func refill(pipe *os.File, c criu.PipeContent) error {
	raw, err := pipe.SyscallConn()
	if err != nil {
		return err
	}
	if c.Size > 0 {
		cerr := raw.Control(func(fd uintptr) { _, err = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, c.Size) })
		if err := errors.Join(err, cerr); err != nil {
			return err
		}
	}
	if err := pipe.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := pipe.Write(c.Data); err != nil {
		return err
	}
	return pipe.SetWriteDeadline(time.Time{})
}

func (a *attempt) isTerminal(f *os.File) bool {
	return slices.ContainsFunc(a.stdio.terms, func(t *terminal) bool { return t.slave == f })
}

// keys returns CRIU's names for the workload's pipes and terminals, in the
// order of the files that stand for them (files.c, tty.c).
func keys(w migrate.Workload) []string {
	var k []string
	for _, p := range w.Pipes {
		k = append(k, fmt.Sprintf("pipe:[%d]", p.Inode))
	}
	return append(k, External(w)...)
}

// External returns CRIU's names for the terminals of w whose other end is not
// dumped: what a dump has to be told so that our restore can replace them.
func External(w migrate.Workload) []string {
	var k []string
	for _, t := range ownTerminals(w) {
		if !jobTerminal(w, t) {
			k = append(k, fmt.Sprintf("tty[%x:%x]", t.Rdev, t.Dev))
		}
	}
	return k
}

// ownTerminals are those that we make for the tree. A container's terminal is in
// its own devpts, which CRIU makes anew: it gives us the master.
func ownTerminals(w migrate.Workload) []migrate.Terminal {
	if w.Container != nil {
		return nil
	}
	return w.Terminals
}

// fits reports whether the attempt has all that a restore of w needs: between
// prepare and freeze a workload may have opened or closed some.
func (a *attempt) fits(w migrate.Workload) bool {
	job := slices.ContainsFunc(ownTerminals(w), func(t migrate.Terminal) bool { return jobTerminal(w, t) })
	return job == a.job && !slices.ContainsFunc(keys(w), func(k string) bool { return !slices.Contains(a.keys, k) })
}

func (a *attempt) inherit(w migrate.Workload) []criu.InheritFD {
	var fds []criu.InheritFD
	for _, k := range append(keys(w), a.network...) {
		fds = append(fds, criu.InheritFD{Key: k, File: slices.Index(a.keys, k)})
	}
	return fds
}

func (s *server) startCRIU(a *attempt, tool criu.Tool, files []*os.File, stdin *os.File, dirs []string) error {
	return s.reaper.startOther(func() (pid int, err error) {
		a.child, err = tool.Start(a.ctx, criu.ChildOptions{Cgroups: dirs, Files: files, Stdin: stdin, Dir: "/", Logger: s.log})
		if err != nil {
			return 0, err
		}
		go a.watchCRIU(a.child.PID())
		return a.child.PID(), nil
	})
}

// watchCRIU tells of the end of the child: while a hook runs nobody reads its
// socket.
func (a *attempt) watchCRIU(pid int) {
	defer close(a.criuDied)
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended
	}
	defer unix.Close(fd)
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if err != unix.EINTR {
			return
		}
	}
}

// pronounce gives the verdict, if none was given before.
func (a *attempt) pronounce(v verdict) {
	a.decide.Do(func() { a.verdict <- v })
}

// awaitRoot waits until the root, which was killed, is reaped: until then its
// number is taken.
func (a *attempt) awaitRoot() error {
	if a.root == nil {
		return nil
	}
	select {
	case <-a.root.done:
		return nil
	case <-time.After(undoTime):
		return fmt.Errorf("process %d was killed and does not end", a.holdPID)
	}
}

// endCRIU ends CRIU, which undoes a restore under way.
func (s *server) endCRIU(a *attempt) error {
	a.cancel(errDiscarded)
	err := a.child.Close()
	s.reaper.forget(a.child.PID())
	return err
}
