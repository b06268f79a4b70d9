package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Path is where a guest has this program.
const Path = "/usr/local/sbin/guest"

// EarlyDir is where the initial file system has the modules that the disk
// needs, in the order of their names.
const EarlyDir = "/early"

const disk = "/dev/vda"

// Boot is the first process in the initial file system: it mounts the disk,
// makes it the root and goes on there as "guest init". It returns only if it
// fails.
func Boot() error {
	if err := mount("devtmpfs", "/dev", "devtmpfs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return err
	}
	if err := loadEarly(); err != nil {
		return err
	}
	if err := await(disk, 10*time.Second); err != nil {
		return err
	}
	const root = "/mnt"
	if err := mount(disk, root, "ext4", unix.MS_NOATIME, ""); err != nil {
		return err
	}
	if err := errors.Join(copyFile("/init", root+Path), installKeys(root)); err != nil {
		return err
	}
	// Nothing reads them any more, and they are in memory.
	if err := errors.Join(os.RemoveAll(EarlyDir), os.Remove("/init")); err != nil {
		return err
	}
	return switchRoot(root, Path, "init")
}

func loadEarly() error {
	paths, err := filepath.Glob(EarlyDir + "/*.ko")
	if err != nil {
		return err
	}
	slices.Sort(paths)
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("load %s: %w", p, err)
		}
	}
	return nil
}

func await(path string, limit time.Duration) error {
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("no %s after %v", path, limit)
		}
	}
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}

func copyFile(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// switchRoot is switch_root(8).
func switchRoot(root string, args ...string) error {
	if err := unix.Mount("/dev", root+"/dev", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move /dev: %w", err)
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := errors.Join(unix.Chroot("."), unix.Chdir("/")); err != nil {
		return err
	}
	return fmt.Errorf("run %s: %w", args[0], unix.Exec(args[0], args, os.Environ()))
}
