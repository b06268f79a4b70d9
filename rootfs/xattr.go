package rootfs

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// xattr is an extended attribute; the value is any bytes.
type xattr struct{ name, value string }

// Limits of the extended attributes of one entry, in bytes.
const (
	maxXattrValue = 64 << 10 // XATTR_SIZE_MAX
	maxXattrs     = 512 << 10
)

// private are the attributes of an overlay that refer to the lower layers of this
// host by file handle, or are counts and hints derived from such (the kernel's
// Documentation/filesystems/overlayfs.rst). On another host they are wrong at best,
// and at worst name another file. An overlay without them is one whose files were
// never looked up by handle: it stores them again where it needs them.
var private = []string{"origin", "impure", "nlink", "upper", "uuid"}

// carried says whether a tree of kind k takes the attribute along. The rest belongs
// to the host: labels and signatures (security.selinux, security.ima, security.evm) are
// of its policy and keys.
func (k Kind) carried(name string) bool {
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	if own, ok := strings.CutPrefix(name, k.overlay()); ok && k != Plain {
		return !slices.Contains(private, own)
	}
	return strings.HasPrefix(name, "user.") && len(name) > len("user.")
}

// overlay returns the prefix of the attributes that are the overlay's own.
func (k Kind) overlay() string {
	switch k {
	case Upper:
		return "trusted.overlay."
	case UserUpper:
		return "user.overlay."
	}
	return ""
}

// pathOf returns a path by which calls that take no directory descriptor reach a
// name in a directory.
func pathOf(dirfd int, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dirfd, name)
}

// listXattrs returns the names of all attributes of the file at path, which is not followed.
func listXattrs(path string) ([]string, error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Llistxattr(path, buf)
		switch {
		case errors.Is(err, unix.ERANGE):
			buf = make([]byte, maxXattrValue) // XATTR_LIST_MAX
		case errors.Is(err, unix.ENOTSUP), err == nil && n == 0:
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("listing extended attributes: %w", err)
		default:
			return strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00"), nil
		}
	}
}

func getXattr(path, name string) (string, error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Lgetxattr(path, name, buf)
		switch {
		case errors.Is(err, unix.ERANGE) && len(buf) < maxXattrValue:
			buf = make([]byte, maxXattrValue)
		case err != nil:
			return "", fmt.Errorf("reading extended attribute %s: %w", name, err)
		default:
			return string(buf[:n]), nil
		}
	}
}

// readXattrs returns the attributes that are carried, sorted, and the names of those
// that are not. One that vanishes meanwhile is left out.
func (k Kind) readXattrs(dirfd int, name string) (list []xattr, left []string, err error) {
	path := pathOf(dirfd, name)
	names, err := listXattrs(path)
	if err != nil {
		return nil, nil, err
	}
	total := 0
	for _, n := range names {
		if !k.carried(n) {
			left = append(left, n)
			continue
		}
		value, err := getXattr(path, n)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if total += len(n) + len(value); total > maxXattrs {
			return nil, nil, fmt.Errorf("more than %d KiB of extended attributes", maxXattrs>>10)
		}
		list = append(list, xattr{n, value})
	}
	slices.SortFunc(list, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
	return list, left, nil
}

// writeXattrs makes the carried attributes of a file those of the list.
func (k Kind) writeXattrs(dirfd int, name string, list []xattr) error {
	path := pathOf(dirfd, name)
	names, err := listXattrs(path)
	if err != nil {
		return err
	}
	for _, n := range names {
		if !k.carried(n) || slices.ContainsFunc(list, func(x xattr) bool { return x.name == n }) {
			continue
		}
		if err := unix.Lremovexattr(path, n); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("removing extended attribute %s: %w", n, err)
		}
	}
	for _, x := range list {
		if err := unix.Lsetxattr(path, x.name, []byte(x.value), 0); err != nil {
			return fmt.Errorf("setting extended attribute %s: %w", x.name, err)
		}
	}
	return nil
}
