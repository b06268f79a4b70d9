package rootfs

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Kind says what a directory tree is, and so which of its extended attributes and
// devices have a meaning. The values go over the wire.
type Kind uint8

// The kinds of trees.
const (
	// Plain is an ordinary directory.
	Plain Kind = 1
	// Upper is the upper layer of an overlay with trusted.overlay.* attributes.
	Upper Kind = 2
	// UserUpper is one that is mounted with the option userxattr.
	UserUpper Kind = 3
)

func (k Kind) check() error {
	if k < Plain || k > UserUpper {
		return fmt.Errorf("%w: tree of kind %d", ErrRefused, k)
	}
	return nil
}

// entryKind is the type of a file. The values go over the wire.
type entryKind uint8

const (
	regular     entryKind = 1
	directory   entryKind = 2
	symlink     entryKind = 3
	fifo        entryKind = 4
	charDevice  entryKind = 5
	blockDevice entryKind = 6
	socket      entryKind = 0x80 // never sent
)

// formats are the file types of inode(7).
var formats = map[entryKind]uint32{
	regular: unix.S_IFREG, directory: unix.S_IFDIR, symlink: unix.S_IFLNK, fifo: unix.S_IFIFO,
	charDevice: unix.S_IFCHR, blockDevice: unix.S_IFBLK,
}

func kindOfMode(mode uint16) entryKind {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return regular
	case unix.S_IFDIR:
		return directory
	case unix.S_IFLNK:
		return symlink
	case unix.S_IFIFO:
		return fifo
	case unix.S_IFCHR:
		return charDevice
	case unix.S_IFBLK:
		return blockDevice
	}
	return socket
}

// stamp is a time of a file, with all that the file system keeps of it.
type stamp struct {
	sec  int64
	nsec uint32
}

func stampOf(t unix.StatxTimestamp) stamp { return stamp{t.Sec, t.Nsec} }

// inode names a file on this host, as long as it exists.
type inode struct{ dev, ino uint64 }

// stat is what statx(2) says of one file.
type stat struct {
	kind     entryKind
	mode     uint16 // permissions with set-ID and sticky bits
	nlink    uint32
	uid, gid uint32
	id       inode
	size     int64  // of a regular file
	blocks   uint64 // of 512 bytes
	rdev     device
	mtime    stamp
	ctime    stamp
}

// device is a device number.
type device struct{ major, minor uint32 }

// attrs are the attributes of a file that a move carries.
type attrs struct {
	kind     entryKind
	mode     uint16
	uid, gid uint32
	size     int64 // of a regular file
	rdev     device
	mtime    stamp
	target   string  // of a symbolic link
	xattrs   []xattr // sorted by name
}

func (s *stat) attrs() attrs {
	a := attrs{kind: s.kind, mode: s.mode, uid: s.uid, gid: s.gid, rdev: s.rdev, mtime: s.mtime}
	if s.kind == regular {
		a.size = s.size
	}
	return a
}

func (a *attrs) equal(b *attrs) bool {
	return a.kind == b.kind && a.mode == b.mode && a.uid == b.uid && a.gid == b.gid && a.size == b.size &&
		a.rdev == b.rdev && a.mtime == b.mtime && a.target == b.target && slices.Equal(a.xattrs, b.xattrs)
}

// statAt looks at a name in a directory, and does not follow a link. With an empty
// name it looks at dirfd itself.
func statAt(dirfd int, name string) (stat, uint64, error) {
	var x unix.Statx_t
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	if err := unix.Statx(dirfd, name, flags, unix.STATX_BASIC_STATS, &x); err != nil {
		return stat{}, 0, err
	}
	return stat{
		kind: kindOfMode(x.Mode), mode: x.Mode &^ unix.S_IFMT, nlink: x.Nlink, uid: x.Uid, gid: x.Gid,
		id:   inode{unix.Mkdev(x.Dev_major, x.Dev_minor), x.Ino},
		size: int64(x.Size), blocks: x.Blocks, rdev: device{x.Rdev_major, x.Rdev_minor},
		mtime: stampOf(x.Mtime), ctime: stampOf(x.Ctime),
	}, x.Attributes, nil
}
