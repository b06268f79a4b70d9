package rootfs

import (
	"fmt"
	"strings"
)

// Limits of a path in a tree.
const (
	MaxPath  = 1<<16 - 1 // bytes; beyond PATH_MAX, as trees are walked by descriptors
	MaxDepth = 1024      // components; each costs a file descriptor while it is walked
	maxName  = 255       // NAME_MAX
)

// comparePaths orders the paths of a tree: a directory before what is in it, and
// all of that before whatever follows the directory. So a slash sorts before every
// other byte.
func comparePaths(a, b string) int {
	for i := range min(len(a), len(b)) {
		x, y := a[i], b[i]
		switch {
		case x == y:
		case x == '/':
			return -1
		case y == '/' || x > y:
			return 1
		default:
			return -1
		}
	}
	return len(a) - len(b)
}

// checkPath returns an error unless path, which may come from a peer, names
// something below a root.
func checkPath(path string) error {
	if len(path) > MaxPath {
		return fmt.Errorf("%w: path of %d bytes", ErrRefused, len(path))
	}
	depth := 0
	for name := range strings.SplitSeq(path, "/") {
		if err := checkName(name); err != nil {
			return fmt.Errorf("%w: path %.200q: %w", ErrRefused, path, err)
		}
		depth++
	}
	if depth > MaxDepth {
		return fmt.Errorf("%w: path %.200q is %d levels deep", ErrRefused, path, depth)
	}
	return nil
}

func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("absolute, or with an empty component")
	case name == "." || name == "..":
		return fmt.Errorf("component %q", name)
	case len(name) > maxName:
		return fmt.Errorf("component of %d bytes", len(name))
	case strings.ContainsRune(name, 0):
		return fmt.Errorf("a NUL byte")
	}
	return nil
}

// split returns the directory of path, "" for the root, and the last component.
func split(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path
	}
	return path[:i], path[i+1:]
}

// join is split's inverse.
func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// IsBelow reports whether the absolute path p is dir or below it. Both are clean.
func IsBelow(p, dir string) bool {
	rest, ok := strings.CutPrefix(p, dir)
	return ok && (rest == "" || rest[0] == '/' || dir == "/")
}
