package oci

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"migrate"
)

// MountOverlay mounts a container's root file system.
func MountOverlay(r migrate.RootFS) error {
	data, err := overlayData(r)
	if err != nil {
		return err
	}
	if err := unix.Mount("overlay", r.Path, "overlay", 0, data); err != nil {
		return fmt.Errorf("mounting the overlay at %s (%s): %w", r.Path, data, err)
	}
	return nil
}

// UnmountOverlay unmounts an overlay. If none is there that is no error.
func UnmountOverlay(path string) error {
	there, err := OverlayAt(path)
	if err != nil || !there {
		return err
	}
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting the overlay at %s: %w", path, err)
	}
	return nil
}

// OverlayAt reports whether an overlay is mounted at path.
func OverlayAt(path string) (bool, error) {
	list, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(path))
	return len(list) > 0 && list[0].FSType == "overlay", err
}

// maxMountData is the size of a page, less its end: what mount(2) takes.
const maxMountData = 4095

// overlayData are the options of an overlay mount. The kernel takes a comma or
// colon in a path for one if no backslash precedes it.
func overlayData(r migrate.RootFS) (string, error) {
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`)
	lower := make([]string, len(r.Lower))
	for i, d := range r.Lower {
		lower[i] = escape.Replace(d)
	}
	options := []string{
		"lowerdir=" + strings.Join(lower, ":"),
		"upperdir=" + escape.Replace(r.Upper), "workdir=" + escape.Replace(r.Work),
	}
	options = append(options, slices.DeleteFunc(slices.Clone(r.Options), shownOnly)...)
	data := strings.Join(options, ",")
	if len(data) > maxMountData {
		return "", fmt.Errorf("the overlay at %s has too many lower directories to be mounted with one call", r.Path)
	}
	return data, nil
}

// shownOnly knows options that the kernel shows but need not be told, or would
// not take from every caller.
func shownOnly(o string) bool {
	key, _, _ := strings.Cut(o, "=")
	return slices.Contains([]string{"seclabel", "inode64", "inode32"}, key)
}
