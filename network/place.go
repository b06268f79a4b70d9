package network

import (
	"errors"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
)

// SamePlace reports whether both are reached in the same way: by the same links, on
// the same bridges and parents, under the same addresses. What [Target.Check] has found
// of the one then holds for the other.
func (d Description) SamePlace(o Description) bool {
	return slices.EqualFunc(d.Links, o.Links, samePlace)
}

func samePlace(a, b Link) bool {
	return a.Name == b.Name && a.Kind == b.Kind && a.MAC == b.MAC && a.MTU == b.MTU && a.uplink() == b.uplink() &&
		slices.EqualFunc(a.Addresses, b.Addresses, func(a, b Address) bool { return a.Prefix == b.Prefix })
}

// Outline returns as much of a description as [Release], [Target.Up] and [Announce]
// want: its links, without their settings.
func (d Description) Outline() Description {
	links := slices.Clone(d.Links)
	for i := range links {
		links[i].Sysctls = nil
	}
	return Description{Links: links}
}

var wellNamed = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@:-]*$`)

// maxName is the longest name of a file (NAME_MAX, pathname(7)).
const maxName = 255

// ValidName reports whether path is one that a namespace may be given at a peer's wish:
// a name that ip-netns(8) knows.
func ValidName(path string) bool {
	dir, name := filepath.Split(path)
	return (dir == "/run/netns/" || dir == "/var/run/netns/") && len(name) <= maxName && wellNamed.MatchString(name)
}

// RemoveOwn is [RemoveNamed] if the name is still that of the namespace with the
// inode.
func RemoveOwn(path string, inode uint64) error {
	ns, err := Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	have, err := ns.Inode()
	ns.Close()
	if err != nil || have != inode {
		return err
	}
	return RemoveNamed(path)
}
