package rootfs

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// beneath keeps a name from leading out of the directory it is looked up in, by a
// link or a mount (openat2(2)).
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// openBeneath opens a name in a directory.
func openBeneath(dirfd int, name string, flags int, mode uint64) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW), Mode: mode, Resolve: beneath}
	for {
		fd, err := unix.Openat2(dirfd, name, &how)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

// dirs reaches the directories of a tree by descriptors, one level at a time, so that
// no path is too long and none leads out. It keeps open the way to the last one; paths
// that come in the tree's order, or its reverse, open every directory once.
type dirs struct {
	way  []dir
	read bool // only read: the times are left alone
}

// dir is one directory that is open.
type dir struct {
	path    string
	fd      int
	times   [2]unix.Timespec // as they were when it was opened, or shall be
	touched bool             // names in it were changed
}

// openDirs starts at the directory at path, which may be a link.
func openDirs(path string, read bool) (*dirs, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening directory %s: %w", path, err)
	}
	d := &dirs{read: read}
	if err := d.push("", fd); err != nil {
		return nil, err
	}
	return d, nil
}

// last returns the directory that was entered last.
func (d *dirs) last() *dir { return &d.way[len(d.way)-1] }

// enter returns a descriptor of the directory at path, valid until the next call.
func (d *dirs) enter(path string) (int, error) {
	for !isWithin(path, d.last().path) {
		if err := d.pop(); err != nil {
			return -1, err
		}
	}
	for d.last().path != path {
		at := d.last().path
		rest := path
		if at != "" {
			rest = path[len(at)+1:]
		}
		name, _, _ := strings.Cut(rest, "/")
		fd, err := openBeneath(d.last().fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return -1, fmt.Errorf("opening directory %.200q: %w", join(at, name), err)
		}
		if err := d.push(join(at, name), fd); err != nil {
			return -1, err
		}
	}
	return d.last().fd, nil
}

// at enters the directory that has the name at path, as enter does, and returns its
// descriptor and the name in it: "." for the root.
func (d *dirs) at(path string) (dirfd int, name string, err error) {
	dir, name := split(path)
	if path == "" {
		name = "."
	}
	dirfd, err = d.enter(dir)
	return dirfd, name, err
}

// open opens the regular file at path to be read. Its descriptor is the caller's.
func (d *dirs) open(path string) (fd int, st stat, err error) {
	dirfd, name, err := d.at(path)
	if err != nil {
		return -1, st, err
	}
	return openRegular(dirfd, name)
}

// isWithin reports whether path is dir or below it.
func isWithin(path, dir string) bool {
	if dir == "" {
		return true
	}
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/')
}

func (d *dirs) push(path string, fd int) error {
	at := dir{path: path, fd: fd}
	if !d.read {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			unix.Close(fd)
			return fmt.Errorf("looking at directory %.200q: %w", path, err)
		}
		at.times = [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, st.Mtim}
	}
	d.way = append(d.way, at)
	return nil
}

// pop leaves the last directory, which gets its times back.
func (d *dirs) pop() error {
	at := d.last()
	d.way = d.way[:len(d.way)-1]
	defer unix.Close(at.fd)
	if !at.touched {
		return nil
	}
	if err := unix.UtimesNanoAt(at.fd, ".", at.times[:], 0); err != nil {
		return fmt.Errorf("setting times of directory %.200q: %w", at.path, err)
	}
	return nil
}

// leave leaves all directories but the root, whose times are put right too.
func (d *dirs) leave() error {
	for len(d.way) > 1 {
		if err := d.pop(); err != nil {
			return err
		}
	}
	root := d.last()
	if !root.touched {
		return nil
	}
	root.touched = false
	if err := unix.UtimesNanoAt(root.fd, ".", root.times[:], 0); err != nil {
		return fmt.Errorf("setting times of the root: %w", err)
	}
	return nil
}

// close gives up all descriptors, and sets nothing.
func (d *dirs) close() {
	for _, at := range d.way {
		unix.Close(at.fd)
	}
	d.way = nil
}

// gone reports whether err is of a name that is not there, or not what it was.
func gone(err error) bool {
	for _, e := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV, unix.ESTALE, unix.ENODEV, unix.ENXIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// openRegular opens the regular file at a name for reading. What it is is seen before
// it is opened: to open a device may do something, such as start a watchdog.
func openRegular(dirfd int, name string) (int, stat, error) {
	at, err := openBeneath(dirfd, name, unix.O_PATH, 0)
	if err != nil {
		return -1, stat{}, err
	}
	defer unix.Close(at)
	st, _, err := statAt(at, "")
	if err != nil {
		return -1, stat{}, err
	}
	if st.kind != regular {
		return -1, stat{}, unix.ENOENT
	}
	path := fmt.Sprintf("/proc/self/fd/%d", at)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) { // not ours, and no CAP_FOWNER
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	return fd, st, err
}
