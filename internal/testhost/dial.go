package testhost

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Dial connects from the host's network to a literal address, such as
// 10.77.0.1:80. The connection stays in the host's network wherever it is used.
func (h *Host) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = h.inNetwork(func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens in the host's network, as Dial connects from it.
func (h *Host) Listen(ctx context.Context, network, address string) (l net.Listener, err error) {
	err = h.inNetwork(func() error {
		var c net.ListenConfig
		l, err = c.Listen(ctx, network, address)
		return err
	})
	return l, err
}

// inNetwork runs f, which must make its sockets itself, on a thread that is in
// the host's network. A thread that finds no way back ends with the goroutine
// that is locked to it, and is never used again.
func (h *Host) inNetwork(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		here, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer here.Close()
		there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", h.InitPID()))
		if err != nil {
			done <- err
			return
		}
		defer there.Close()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network of host %s: %w", h.Name, err)
			return
		}
		err = f()
		if unix.Setns(int(here.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Path returns where the machine sees a path of the host's, for as long as the
// host lives.
func (h *Host) Path(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", h.InitPID(), path)
}
