package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"migrate"
)

// CreateNamed makes a network namespace with nothing but a loopback link that is
// down, bound at path as ip-netns(8) does it, so that ip(8) knows those in
// /run/netns by name. The path must be free. From its first moment the namespace is
// locked for the migration, by which [RemoveMade] knows it.
func CreateNamed(path string, id migrate.ID) (*Namespace, error) {
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
	if err := Lock(ns, id); err != nil {
		return nil, errors.Join(err, ns.Close(), RemoveNamed(path))
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

// RemoveMade removes what [CreateNamed] has made for a migration, by whichever process and
// however far it came, and all that [Target.Fill] has put into it. A namespace that is not
// locked for the migration is another one, and stays.
func (t *Target) RemoveMade(path string) error {
	ns, err := Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return t.Remove(nil)
	case err != nil: // the name was made, and nothing bound to it yet
		return errors.Join(t.Remove(nil), removeEmpty(path))
	}
	defer ns.Close()
	made, err := locked(ns, t.ID)
	if err != nil || !made {
		return errors.Join(err, t.Remove(nil))
	}
	// The name first: without the lock nobody would know whose it is.
	return errors.Join(RemoveNamed(path), t.Remove(ns))
}

// removeEmpty removes a file if it is one and empty.
func removeEmpty(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (!info.Mode().IsRegular() || info.Size() > 0) {
		return nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	return err
}
