package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"migrate"
	"migrate/workload/oci"
)

// A containerRoot is the root file system of a container that is about to come.
//
// Its runtime looks at it long before the last files are there, and makes what
// is missing of the directories that something is to be mounted on. An overlay
// must not change below while it is mounted. So the runtime gets to see an empty
// file system in its place, and the overlay is mounted for CRIU alone.
type containerRoot struct {
	migrate.RootFS
	ours    bool   // the overlay was not there before
	veil    bool   // something is mounted in place of the overlay
	mounted bool   // the overlay was mounted by us
	bound   string // where CRIU finds it; "" before
}

// newRoot looks at what there is of a root file system.
func newRoot(r migrate.RootFS) (*containerRoot, error) {
	c := &containerRoot{RootFS: r}
	if r.Kind != migrate.RootOverlay {
		return c, nil
	}
	if err := unveil(r.Path); err != nil {
		return nil, err
	}
	there, err := oci.OverlayAt(r.Path)
	c.ours = !there
	return c, err
}

// overlay is the place of an overlay that is mounted for this restore alone, or "".
func (c *containerRoot) overlay() string {
	if c == nil || !c.ours {
		return ""
	}
	return c.Path
}

// veilName is what is shown as the source of what is mounted in place of an overlay.
const veilName = "migrate-veil"

// prepare makes the place of the root file system fit to be looked at.
func (c *containerRoot) prepare() error {
	if !c.ours {
		return nil
	}
	if err := os.MkdirAll(c.Path, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(veilName, c.Path, "tmpfs", 0, "size=1m"); err != nil {
		return fmt.Errorf("mounting at %s: %w", c.Path, err)
	}
	c.veil = true
	return nil
}

// unveil unmounts what a supervisor that died left in place of an overlay.
func unveil(path string) error {
	list, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(path))
	if err != nil || len(list) == 0 || list[0].Source != veilName {
		return err
	}
	return unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}

// unmountRoot unmounts what a supervisor that died had mounted for a container
// that did not come to run.
func unmountRoot(path string) error {
	if err := unveil(path); err != nil {
		return err
	}
	return oci.UnmountOverlay(path)
}

// rootIn is where CRIU finds a container's root, below what is made for its runtime.
func rootIn(dir string) string { return filepath.Join(dir, "root") }

// removeRuntimeDir removes what was made for a runtime, by us or by a supervisor
// that died. A container's root may be mounted in there: it is unmounted, and its
// files are not touched whatever happens, as only an empty directory is removed.
func removeRuntimeDir(dir string) error {
	at := rootIn(dir)
	err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // not a mount point, not there
		return fmt.Errorf("unmounting %s: %w", at, err)
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}

// open mounts the root file system, and once more in dir for CRIU, which wants a
// mount point that nothing is mounted over. All files have to be there.
func (c *containerRoot) open(dir string) (string, error) {
	if c.veil {
		if err := unix.Unmount(c.Path, unix.MNT_DETACH); err != nil {
			return "", fmt.Errorf("unmounting %s: %w", c.Path, err)
		}
		c.veil = false
		if err := oci.MountOverlay(c.RootFS); err != nil {
			return "", err
		}
		c.mounted = true
	}
	at := rootIn(dir)
	if err := os.Mkdir(at, 0o700); err != nil {
		return "", err
	}
	if err := unix.Mount(c.Path, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("binding %s: %w", c.Path, err)
	}
	c.bound = at
	// What is unmounted here must not be unmounted elsewhere.
	return at, unix.Mount("", at, "", unix.MS_PRIVATE|unix.MS_REC, "")
}

// close takes away what CRIU needed, and the overlay too unless it is to stay.
func (c *containerRoot) close(stay bool) error {
	if c == nil {
		return nil
	}
	var errs []error
	if c.bound != "" {
		errs = append(errs, unix.Unmount(c.bound, unix.MNT_DETACH))
		c.bound = ""
	}
	if c.veil || c.mounted && !stay {
		errs = append(errs, unix.Unmount(c.Path, unix.MNT_DETACH))
		c.veil, c.mounted = false, false
	}
	return errors.Join(errs...)
}
