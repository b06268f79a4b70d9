package rootfs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// What can be wrong with a pass. Other errors are the system's, with the path.
var (
	// ErrRefused is in the error of a stream that this host will not apply: it is
	// damaged, breaks the rules, or asks for what is not allowed here.
	ErrRefused = errors.New("file stream refused")
	// ErrChanging is in the error of a final pass during which the tree changed:
	// something other than the frozen workload writes to it.
	ErrChanging = errors.New("the tree changes although its workload is frozen")
	// ErrMount is in the error of a pass over a tree with something mounted in it.
	ErrMount = errors.New("something is mounted inside the tree")
	// ErrDeep is in the error of a pass over a tree that is too deep.
	ErrDeep = errors.New("the tree is too deep")
)

// What is full, in a [FullError].
const (
	FullSpace  = "disk"        // no free blocks
	FullInodes = "inodes"      // no free inodes
	FullQuota  = "disk quota"  // of a user, group or project
	FullLimit  = "limit"       // of [Limits], in bytes
	FullCount  = "entry limit" // of [Limits], in entries
)

// FullError says that the target has no room for a tree.
type FullError struct {
	What string // one of the constants above
	Path string // of the staging directory
	Err  error  // the system's; nil for a limit
}

// Error says what is full, and where.
func (e *FullError) Error() string {
	switch e.What {
	case FullSpace, FullInodes:
		return fmt.Sprintf("no %s left for %s", map[string]string{FullSpace: "disk space", FullInodes: "inodes"}[e.What], e.Path)
	case FullQuota:
		return fmt.Sprintf("the disk quota is used up for %s", e.Path)
	}
	return fmt.Sprintf("the files are more than the %s set for %s", e.What, e.Path)
}

// Unwrap returns the system's error.
func (e *FullError) Unwrap() error { return e.Err }

// full turns an error of the file system that fd is on into a [FullError] if
// something is full.
func full(err error, fd int, path string) error {
	var what string
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EDQUOT):
		what = FullQuota
	case errors.Is(err, unix.ENOSPC):
		what = FullSpace
		var st unix.Statfs_t
		if unix.Fstatfs(fd, &st) == nil && st.Files > 0 && st.Ffree == 0 {
			what = FullInodes
		}
	default:
		return err
	}
	return &FullError{What: what, Path: path, Err: err}
}
