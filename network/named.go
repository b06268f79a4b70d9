package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// CreateNamed makes a network namespace with nothing but a loopback link that is
// down, bound at path as ip-netns(8) does it, so that ip(8) knows those in
// /run/netns by name. The path must be free.
func CreateNamed(path string) (*Namespace, error) {
	if err := shareDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0)
	if err != nil {
		return nil, fmt.Errorf("name a network namespace: %w", err)
	}
	f.Close()
	ns, err := newNamespace()
	if err != nil {
		return nil, errors.Join(err, RemoveNamed(path))
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), path, "", unix.MS_BIND, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("bind the network namespace at %s: %w", path, err), ns.Close(), RemoveNamed(path))
	}
	return ns, nil
}

// shareDir makes the directory a shared mount, as ip-netns(8) does: a name that is
// removed is then removed in the mount namespaces of others too, and does not keep
// the namespace alive there.
func shareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	err := unix.Mount("", dir, "", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s to itself: %w", dir, err)
		}
		err = unix.Mount("", dir, "", unix.MS_SHARED|unix.MS_REC, "")
	}
	if err != nil {
		return fmt.Errorf("share %s: %w", dir, err)
	}
	return nil
}

// newNamespace makes a namespace that ends when it is closed.
func newNamespace() (*Namespace, error) {
	runtime.LockOSThread()
	home, err := Current()
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	ns, err := Current()
	if back := unix.Setns(home.Fd(), unix.CLONE_NEWNET); back != nil {
		return nil, errors.Join(err, fmt.Errorf("leave the new network namespace: %w", back)) // locked, see Do
	}
	runtime.UnlockOSThread()
	return ns, err
}

// RemoveNamed takes a name away, as "ip netns delete" does; the namespace ends with
// its last user. A path that is not there is no error.
func RemoveNamed(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount the network namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the name of a network namespace: %w", err)
	}
	return nil
}
