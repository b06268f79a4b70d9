package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// A process is born with the namespaces and version 1 cgroups of the thread
// that starts it. A step changes the calling thread and returns what undoes
// that, which is nil if there is nothing to undo.
type step func() (undo func() error, err error)

// onThread takes the steps and calls f, all on one thread. A thread that
// cannot be put back ends.
func onThread(steps []step, f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := takeSteps(steps, f)
		if !errors.Is(err, errSpoilt) {
			runtime.UnlockOSThread() // else the thread ends with us
		}
		result <- err
	}()
	return <-result
}

var errSpoilt = errors.New("cannot put the thread back")

func takeSteps(steps []step, f func() error) (err error) {
	for _, s := range steps {
		undo, serr := s()
		if undo != nil {
			defer func() {
				if uerr := undo(); uerr != nil {
					err = errors.Join(err, fmt.Errorf("%w: %w", errSpoilt, uerr))
				}
			}()
		}
		if serr != nil {
			return serr
		}
	}
	return f()
}

// intoTasks is a step into the version 1 cgroup dir, where threads have a
// cgroup each. The way back is to the top of the hierarchy, or to our own group
// if that is there.
func intoTasks(dir string) step {
	return func() (func() error, error) {
		home := filepath.Join(filepath.Dir(dir), ownGroup)
		if _, err := os.Stat(home); err != nil {
			home = filepath.Dir(filepath.Dir(dir))
		}
		return func() error { return moveThread(home) }, moveThread(dir)
	}
}

func moveThread(dir string) error {
	return os.WriteFile(filepath.Join(dir, "tasks"), []byte(strconv.Itoa(unix.Gettid())), 0)
}

// intoNetwork is a step into a new network namespace whose loopback device is
// up.
func intoNetwork() (func() error, error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, errors.Join(fmt.Errorf("making a network namespace: %w", err), home.Close())
	}
	back := func() error {
		defer home.Close()
		return unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)
	}
	return back, loopbackUp()
}

func loopbackUp() error {
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bringing lo up: %w", err)
	}
	defer unix.Close(sock)
	lo, err := unix.NewIfreq("lo")
	if err == nil {
		lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		err = unix.IoctlIfreq(sock, unix.SIOCSIFFLAGS, lo)
	}
	if err != nil {
		return fmt.Errorf("bringing lo up: %w", err)
	}
	return nil
}
