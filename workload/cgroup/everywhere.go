package cgroup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Hierarchy is one that is mounted.
type Hierarchy struct {
	Mount
	Version int
	// Controllers are those of version 1, "name=systemd" for one that has none.
	Controllers []string
}

// Hierarchies returns all that the caller sees.
func Hierarchies() ([]Hierarchy, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("looking for cgroups: %w", err)
	}
	defer f.Close()
	return parseHierarchies(f)
}

// notControllers are the options that version 1 shows among its controllers.
var notControllers = []string{"rw", "ro", "xattr", "clone_children", "noprefix", "release_agent"}

func isNoController(option string) bool {
	key, _, _ := strings.Cut(option, "=")
	return slices.Contains(notControllers, key)
}

func parseHierarchies(r io.Reader) ([]Hierarchy, error) {
	byKey := map[string]Hierarchy{}
	err := eachMount(r, func(m Mount, options []string) {
		h := Hierarchy{Mount: m, Version: 2}
		if options != nil {
			h.Version = 1
			h.Controllers = slices.DeleteFunc(options, isNoController)
		}
		key := strings.Join(h.Controllers, ",")
		if was, ok := byKey[key]; ok {
			h.Mount = wider(was.Mount, h.Mount)
		}
		byKey[key] = h
	})
	var list []Hierarchy
	for _, h := range byKey {
		list = append(list, h)
	}
	slices.SortFunc(list, func(a, b Hierarchy) int { return strings.Compare(a.Dir, b.Dir) })
	return list, err
}

// Named returns the directory of a cgroup in every hierarchy that has it; want
// gives its name by controller, "" standing for all that are not named.
func Named(all []Hierarchy, want map[string]string) []string {
	var dirs []string
	for _, h := range all {
		name := want[""]
		for _, c := range h.Controllers {
			if n, ok := want[c]; ok {
				name = n
			}
		}
		dir, err := h.locate(name)
		if name == "" || err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// Of returns the cgroups of a process by controller, as [Named] wants them: ""
// is that of version 2.
func Of(pid int) (map[string]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, fmt.Errorf("cgroups of process %d: %w", pid, err)
	}
	m := map[string]string{}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		for _, c := range strings.Split(f[1], ",") {
			m[c] = f[2]
		}
	}
	return m, nil
}

// Freezer returns the first of the directories that can freeze, the one of
// version 2 before others.
func Freezer(dirs []string) (*Group, error) {
	var found *Group
	for _, d := range dirs {
		if g, err := Open(d); err == nil && (found == nil || g.version > found.version) {
			found = g
		}
	}
	if found == nil {
		return nil, fmt.Errorf("no cgroup that freezes among %q", dirs)
	}
	return found, nil
}

// RemoveDirs removes cgroups without processes, as [Group.Remove] does.
func RemoveDirs(dirs []string) error {
	var errs []error
	for _, d := range dirs {
		if err := removePatiently(d); err != nil {
			errs = append(errs, fmt.Errorf("removing cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}
