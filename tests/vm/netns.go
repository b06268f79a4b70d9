package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// netns is a network namespace without a name, held by a thread. What that
// thread starts with a parent-death signal ends with it.
type netns struct {
	calls chan func()
	ended chan struct{}
}

func newNetns() (*netns, error) {
	n := &netns{calls: make(chan func()), ended: make(chan struct{})}
	errs := make(chan error)
	go func() {
		defer close(n.ended)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		errs <- err
		if err != nil {
			return
		}
		for f := range n.calls {
			f()
		}
	}()
	if err := <-errs; err != nil {
		return nil, fmt.Errorf("making a network namespace (as root?): %w", err)
	}
	return n, nil
}

// do calls f on the thread.
func (n *netns) do(f func()) {
	done := make(chan struct{})
	n.calls <- func() { defer close(done); f() }
	<-done
}

// close ends the thread, and what it started.
func (n *netns) close() {
	close(n.calls)
	<-n.ended
}

// ip runs ip(8) in the namespace.
func (n *netns) ip(args ...string) (err error) {
	n.do(func() {
		if out, e := exec.Command("ip", args...).CombinedOutput(); e != nil {
			err = fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), e, strings.TrimSpace(string(out)))
		}
	})
	return err
}

// dialIn connects from the network namespace of another process.
func dialIn(ctx context.Context, pid int, address string) (c net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // as above: the thread cannot be used by others
		fd, e := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if e != nil {
			err = errors.Join(errors.New("the machine does not run"), e)
			return
		}
		defer fd.Close()
		if err = unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET); err != nil {
			return
		}
		// To an address as such, the dialler connects on the thread it is called on.
		var d net.Dialer
		c, err = d.DialContext(ctx, "tcp4", address)
	}()
	<-done
	return c, err
}
