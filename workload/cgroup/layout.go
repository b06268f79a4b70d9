package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// The modes of a [Layout].
const (
	V1     = "v1"     // only hierarchies of version 1
	V2     = "v2"     // only the unified hierarchy
	Hybrid = "hybrid" // both
)

// Layout says which cgroup hierarchies the caller sees, and where.
type Layout struct {
	Mode    string // V1, V2 or Hybrid
	Unified Mount  // the version 2 hierarchy; zero if there is none
	Freezer Mount  // the version 1 hierarchy with the freezer; zero if there is none
	CPU     Mount  // the version 1 hierarchy with the processor controller; zero if there is none
}

// Mount is a mounted hierarchy.
type Mount struct {
	Dir  string // where it is mounted
	Root string // the cgroup that is mounted there, "/" if the whole hierarchy
}

// Detect reads the layout from the caller's mounts. It is an error to have
// neither a unified hierarchy nor a freezer.
func Detect() (Layout, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Layout{}, fmt.Errorf("looking for cgroups: %w", err)
	}
	defer f.Close()
	return parseMounts(f)
}

// parseMounts understands mountinfo as proc_pid_mountinfo(5) describes it. Of
// several mounts of one hierarchy the one that shows most of it counts.
func parseMounts(r io.Reader) (Layout, error) {
	var l Layout
	v1 := false
	err := eachMount(r, func(m Mount, options []string) {
		if options == nil {
			l.Unified = wider(l.Unified, m)
			return
		}
		v1 = true
		if slices.Contains(options, "freezer") {
			l.Freezer = wider(l.Freezer, m)
		}
		if slices.Contains(options, "cpu") {
			l.CPU = wider(l.CPU, m)
		}
	})
	if err != nil {
		return Layout{}, fmt.Errorf("looking for cgroups: %w", err)
	}
	return l.named(v1)
}

// eachMount calls f for each mount of a hierarchy, with the options of its file system if
// that is version 1, and nil if it is the unified one.
func eachMount(r io.Reader, f func(m Mount, options []string)) error {
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		before, after, ok := strings.Cut(sc.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 6 || len(right) < 3 {
			continue
		}
		m := Mount{Dir: unescape(left[4]), Root: unescape(left[3])}
		switch right[0] {
		case "cgroup2":
			f(m, nil)
		case "cgroup":
			f(m, strings.Split(right[2], ","))
		}
	}
	return sc.Err()
}

func (l Layout) named(v1 bool) (Layout, error) {
	switch {
	case l.Unified.Dir == "" && l.Freezer.Dir == "":
		return Layout{}, errors.New("no cgroup hierarchy that can freeze is mounted")
	case l.Unified.Dir == "":
		l.Mode = V1
	case v1:
		l.Mode = Hybrid
	default:
		l.Mode = V2
	}
	return l, nil
}

func wider(a, b Mount) Mount {
	if a.Dir != "" && len(a.Root) <= len(b.Root) {
		return a
	}
	return b
}

// unescape undoes the octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// freezers returns the hierarchies to try, best first.
func (l Layout) freezers() []Mount {
	var list []Mount
	for _, m := range []Mount{l.Unified, l.Freezer} {
		if m.Dir != "" {
			list = append(list, m)
		}
	}
	return list
}

// dirOf returns the directory of the cgroup that pid is in, within m.
func (l Layout) dirOf(m Mount, pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	name, ok := cgroupName(string(b), l.controller(m))
	if !ok {
		return "", fmt.Errorf("process %d: not in the hierarchy of %s", pid, m.Dir)
	}
	return m.locate(name)
}

// controller names the one by which m is known in /proc/PID/cgroup, "" for the
// unified hierarchy.
func (l Layout) controller(m Mount) string {
	switch m {
	case l.Unified:
		return ""
	case l.CPU:
		return "cpu"
	}
	return "freezer"
}

// cgroupName finds a line "ID:CONTROLLERS:PATH" of /proc/PID/cgroup: that of a
// controller, or the unified one.
func cgroupName(text, controller string) (string, bool) {
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		if controller == "" && f[0] != "0" {
			continue
		}
		if slices.Contains(strings.Split(f[1], ","), controller) {
			return f[2], true
		}
	}
	return "", false
}

// locate turns a cgroup's name into a directory. A cgroup outside of what is
// mounted, or of the caller's cgroup namespace ("/.."), has none.
func (m Mount) locate(name string) (string, error) {
	rest, ok := strings.CutPrefix(name, strings.TrimSuffix(m.Root, "/"))
	if !ok || (rest != "" && rest[0] != '/') || strings.HasPrefix(rest+"/", "/../") {
		return "", fmt.Errorf("cgroup %s is outside of what %s shows", name, m.Dir)
	}
	return path.Join(m.Dir, rest), nil
}
