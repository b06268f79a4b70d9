package testhost

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// hierarchy is one tree of cgroups as the machine has it mounted: one in all
// with cgroup v2, one for each controller with v1, and both on hybrid machines.
type hierarchy struct {
	mount   string // such as /sys/fs/cgroup/freezer
	options string // the controllers, or name=NAME; "" is v2
}

func (h hierarchy) v2() bool { return h.options == "" }

// hierarchies returns the cgroup trees in the mount namespace of the caller.
func hierarchies() ([]hierarchy, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	found := parseMountinfo(string(b))
	if len(found) == 0 {
		return nil, errors.New("no cgroup file system is mounted whole")
	}
	return found, nil
}

// parseMountinfo finds cgroup file systems that are mounted from their root;
// proc_pid_mountinfo(5) has the format.
func parseMountinfo(text string) []hierarchy {
	var found []hierarchy
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		before, after, _ := strings.Cut(line, " - ")
		mount, super := strings.Fields(before), strings.Fields(after)
		if len(mount) < 6 || len(super) < 3 || mount[3] != "/" {
			continue
		}
		var h hierarchy
		switch super[0] {
		case "cgroup":
			h = hierarchy{mount[4], controllers(super[2])}
		case "cgroup2":
			h = hierarchy{mount[4], ""}
		default:
			continue
		}
		if !seen[h.options] {
			found = append(found, h)
		}
		seen[h.options] = true
	}
	return found
}

// controllers keeps of a v1 mount's options those that say which tree it is.
func controllers(options string) string {
	other := []string{"rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"}
	keep := slices.DeleteFunc(strings.Split(options, ","), func(o string) bool {
		return slices.Contains(other, o) || strings.HasPrefix(o, "release_agent=")
	})
	return strings.Join(keep, ",")
}

// cgroup returns the name of the host's cgroup, the same in every tree and
// directly below its root. Neither part can hold a dot.
func (h *Host) cgroup() string { return fmt.Sprintf("migrate-hosts.%s.%s", h.set.name, h.Name) }

// initCgroup is where a host's processes are in the v2 tree. They are not in
// its root, because a v2 cgroup with processes in it can hand no controllers
// to its children, and a host must be able to.
const initCgroup = "init"

// makeCgroups makes the host's cgroups in every tree.
func (h *Host) makeCgroups(trees []hierarchy) error {
	for _, t := range trees {
		dir := filepath.Join(t.mount, h.cgroup())
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if t.v2() {
			if err := os.MkdirAll(filepath.Join(dir, initCgroup), 0o755); err != nil {
				return err
			}
		}
		if slices.Contains(strings.Split(t.options, ","), "cpuset") {
			if err := fillCpuset(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// fillCpuset copies the parent's settings: a fresh v1 cpuset has no CPU and no
// memory and takes no process.
func fillCpuset(dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// joinCgroups moves the calling process to the host's cgroups; below is the
// path from there in the v2 tree.
func (h *Host) joinCgroups(trees []hierarchy, below string) error {
	for _, t := range trees {
		dir := filepath.Join(t.mount, h.cgroup())
		if t.v2() {
			dir = filepath.Join(dir, below)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

// eachCgroup calls f for every cgroup of the set, children after parents.
func (s *Set) eachCgroup(f func(dir string)) error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	for _, t := range trees {
		tops, err := filepath.Glob(filepath.Join(t.mount, "migrate-hosts."+s.name+".*"))
		if err != nil {
			return err
		}
		for _, top := range tops {
			// The error is that a cgroup went while we looked.
			_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					f(path)
				}
				return nil
			})
		}
	}
	return nil
}

// killCgroups kills every process in the set's cgroups and returns how many
// there were. It thaws them first: a process that the v1 freezer holds does
// not die.
func (s *Set) killCgroups() (int, error) {
	pids := map[int]bool{}
	err := s.eachCgroup(func(dir string) {
		// Each file is in one kind of cgroup only, so errors mean nothing.
		_ = os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0)
		_ = os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("0"), 0)
		for _, pid := range cgroupPIDs(dir) {
			pids[pid] = true
		}
	})
	for pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // gone is as good
	}
	return len(pids), err
}

func cgroupPIDs(dir string) []int {
	f, err := os.Open(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	defer f.Close()
	var pids []int
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if pid, err := strconv.Atoi(sc.Text()); err == nil && pid != 0 && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// removeCgroups removes the set's cgroups and returns what is in the way.
func (s *Set) removeCgroups() error {
	var dirs []string
	if err := s.eachCgroup(func(dir string) { dirs = append(dirs, dir) }); err != nil {
		return err
	}
	var errs []error
	for _, dir := range slices.Backward(dirs) {
		if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}
