package network

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is an open network namespace. It lives for as long as it is open,
// even when its last process has ended. It may be used concurrently.
type Namespace struct{ file *os.File }

// Open opens a namespace by its path: /proc/PID/ns/net or one that ip-netns(8)
// made.
func Open(path string) (*Namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return FromFile(f)
}

// OfProcess opens the namespace that a process is in.
func OfProcess(pid int) (*Namespace, error) { return Open(fmt.Sprintf("/proc/%d/ns/net", pid)) }

// Current opens the namespace of the calling thread.
func Current() (*Namespace, error) { return Open("/proc/thread-self/ns/net") }

// FromFile takes over an open namespace. It closes f on failure.
func FromFile(f *os.File) (*Namespace, error) {
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE) // ioctl_ns(2)
	if err == nil && kind == unix.CLONE_NEWNET {
		return &Namespace{f}, nil
	}
	f.Close()
	return nil, fmt.Errorf("%s is not a network namespace", f.Name())
}

// Close closes the descriptor. Nil has none.
func (n *Namespace) Close() error {
	if n == nil {
		return nil
	}
	return n.file.Close()
}

// Fd returns the descriptor, which stays the namespace's own.
func (n *Namespace) Fd() int { return int(n.file.Fd()) }

// Inode returns the namespace's inode number, as in net:[4026531840] and CRIU's
// external net[INODE].
func (n *Namespace) Inode() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(n.Fd(), &st); err != nil {
		return 0, fmt.Errorf("stat network namespace: %w", err)
	}
	return st.Ino, nil
}

// Same reports whether both are one namespace.
func (n *Namespace) Same(o *Namespace) bool {
	a, errA := n.Inode()
	b, errB := o.Inode()
	return errA == nil && errB == nil && a == b
}

// SameOwner reports whether one user namespace owns both: who is root in another
// one has no rights over this network (user_namespaces(7), ioctl_nsfs(2)).
func (n *Namespace) SameOwner(o *Namespace) (bool, error) {
	a, err := n.owner()
	if err != nil {
		return false, err
	}
	b, err := o.owner()
	return a == b, err
}

func (n *Namespace) owner() (inode uint64, err error) {
	fd, err := unix.IoctlRetInt(n.Fd(), unix.NS_GET_USERNS)
	if err != nil {
		return 0, fmt.Errorf("owner of a network namespace: %w", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("owner of a network namespace: %w", err)
	}
	return st.Ino, nil
}

// Do runs f on a thread that is in the namespace. Goroutines that f starts are not.
func (n *Namespace) Do(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open this thread's network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(n.Fd(), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread stays locked, so that no other goroutine runs in a foreign namespace.
		return errors.Join(err, fmt.Errorf("leave network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

// handle returns a routing socket in the namespace; the caller closes it.
func (n *Namespace) handle() (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(n.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return h, nil
}

// dump repeats a listing that the kernel says was changed meanwhile.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	const tries = 8
	var got []T
	var err error
	for range tries {
		if got, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return got, err
}
