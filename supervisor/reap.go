package supervisor

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reaper waits for every child: the workload's root, orphans that the kernel
// gives to a subreaper, and whatever a restore that failed left. Children that
// somebody else waits for (CRIU, by its package) are left alone.
type reaper struct {
	mu     sync.Mutex // held while a child starts, so that it is known before it can be reaped
	roots  map[int]*exited
	others map[int]bool
	stop   func()
}

// exited tells when and how a process ended.
type exited struct {
	done   chan struct{}
	status unix.WaitStatus // valid once done is closed
}

func startReaper() (*reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	r := &reaper{roots: map[int]*exited{}, others: map[int]bool{}}
	wake, end := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(wake, unix.SIGCHLD)
	r.stop = func() { signal.Stop(wake); close(end) }
	go func() {
		for {
			for r.reap() {
			}
			select {
			case <-wake:
			case <-end:
				return
			}
		}
	}()
	return r, nil
}

// reap waits for one child that has ended, and reports whether there may be
// another.
func (r *reaper) reap() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid := endedChild()
	if pid == 0 {
		return false
	}
	if r.others[pid] {
		// It hides whoever ended after it. Its own waiter takes it at once.
		r.mu.Unlock()
		time.Sleep(time.Millisecond)
		r.mu.Lock()
		return true
	}
	var status unix.WaitStatus
	if got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil); err != nil || got != pid {
		return errors.Is(err, unix.EINTR)
	}
	if e := r.roots[pid]; e != nil {
		delete(r.roots, pid)
		e.status = status
		close(e.done)
	}
	return true
}

// childInfo is the kernel's siginfo_t for waitid(2) on 64-bit machines
// (include/uapi/asm-generic/siginfo.h).
type childInfo struct {
	signo, errno, code, _ int32
	pid                   int32
	_                     [108]byte
}

// endedChild returns a child that waits to be reaped, or 0.
func endedChild() int {
	var info childInfo
	for {
		_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&info)),
			unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, 0, 0)
		if errno == 0 {
			return int(info.pid)
		}
		if errno != unix.EINTR {
			return 0 // ECHILD
		}
	}
}

// start runs f, which starts a child and returns its PID, and watches that.
func (r *reaper) start(f func() (int, error)) (int, *exited, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := f()
	if err != nil {
		return 0, nil, err
	}
	return pid, r.watchLocked(pid), nil
}

// startOther runs f, which starts a child that somebody else waits for.
func (r *reaper) startOther(f func() (int, error)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := f()
	if err == nil {
		r.others[pid] = true
	}
	return err
}

// undisturbed calls f, which starts children and waits for them.
func (r *reaper) undisturbed(f func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return f()
}

// run runs a command to its end. Its output must go to files or buffers.
func (r *reaper) run(cmd *exec.Cmd) error {
	err := r.startOther(func() (int, error) {
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		return cmd.Process.Pid, nil
	})
	if err != nil {
		return err
	}
	defer r.forget(cmd.Process.Pid)
	return cmd.Wait()
}

// forget is called when a child of startOther was waited for.
func (r *reaper) forget(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.others, pid)
}

// watch tells when pid, a child by now, ends. It is an error if it has ended already.
func (r *reaper) watch(pid int) (*exited, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := unix.Kill(pid, 0); err != nil {
		return nil, err
	}
	return r.watchLocked(pid), nil
}

func (r *reaper) watchLocked(pid int) *exited {
	e := &exited{done: make(chan struct{})}
	r.roots[pid] = e
	return e
}

// signal sends sig to pid if it is watched, so never to another that got its
// number.
func (r *reaper) signal(pid int, sig unix.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.roots[pid] == nil {
		return unix.ESRCH
	}
	return unix.Kill(pid, sig)
}
