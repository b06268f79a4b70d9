package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"migrate"
)

// bindName is the directory at which both runtimes bind a container's root for
// CRIU: runc among its state, crun in the bundle (libcontainer/criu_linux.go, libcrun/criu.c).
const bindName = "criu-root"

// ClearLeft takes away what a runtime that was killed in a restore has left
// mounted. It must come before anything is removed: the container's root is there
// a second time, and to remove what is below would be to remove its files.
func (r Runtime) ClearLeft(c migrate.Container) error {
	at := filepath.Join(c.Bundle, bindName)
	if err := errors.Join(detachBelow(filepath.Join(r.stateRoot(), c.ID)), detachBelow(at)); err != nil {
		return err
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// detachBelow unmounts whatever is mounted at dir and below it.
func detachBelow(dir string) error {
	below := func(m *mountinfo.Info) (skip, stop bool) {
		return m.Mountpoint != dir && !strings.HasPrefix(m.Mountpoint, dir+"/"), false
	}
	list, err := mountinfo.GetMounts(below)
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(list) { // later ones lie on earlier ones
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmounting %s: %w", m.Mountpoint, err)
		}
	}
	if list, err = mountinfo.GetMounts(below); err == nil && len(list) > 0 {
		err = fmt.Errorf("%s is still mounted", list[0].Mountpoint)
	}
	return err
}
