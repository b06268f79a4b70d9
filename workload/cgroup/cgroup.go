// Package cgroup freezes process trees through control groups, of version 1
// (the freezer controller) and version 2 (cgroup.freeze) alike.
//
// A group is used as a freezer, and to slow what is in it; see [CPULimit]. Where
// both versions are mounted, the unified hierarchy is preferred if the kernel can
// freeze there (Linux 5.2); the version 1 freezer is as good, but its tasks
// cannot be killed while they are frozen. A group lives under "migrate" at the
// top of the hierarchy as the caller sees it. Until it is slowed no controller
// is enabled in it; on a host with only the unified hierarchy a process that is
// moved there is out of the limits of the group it came from until
// [Placement.Restore].
//
// The state of a freezer belongs to the kernel, not to the process that set
// it: a frozen group stays frozen when that process dies.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// parent is the directory under which groups are made.
const parent = "migrate"

const (
	firstPoll = 200 * time.Microsecond // freezing is part of the downtime
	longPoll  = 10 * time.Millisecond
)

// Group is one cgroup in the hierarchy that freezes. It holds no descriptors;
// copies refer to the same cgroup. Its methods may be called from several
// goroutines, though freezing and thawing at once has no certain end.
type Group struct {
	dir     string
	version int // 1 or 2
}

// Create makes the group NAME, or returns the one that is there already.
func Create(name string) (*Group, error) {
	l, err := Detect()
	if err != nil {
		return nil, fmt.Errorf("creating cgroup %s: %w", name, err)
	}
	return l.Create(name)
}

// Create is the function [Create] for a given layout.
func (l Layout) Create(name string) (*Group, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\n") {
		return nil, fmt.Errorf("creating cgroup %q: not a name", name)
	}
	var problems []error
	for _, m := range l.freezers() {
		g, err := createIn(m, name)
		if err == nil {
			return g, nil
		}
		problems = append(problems, err)
	}
	return nil, fmt.Errorf("creating cgroup %s: %w", name, errors.Join(problems...))
}

// createIn finds out whether the hierarchy can freeze by making the group: the
// root has no cgroup.freeze to look at.
func createIn(m Mount, name string) (*Group, error) {
	dir := filepath.Join(m.Dir, parent, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	g, err := Open(dir)
	if err != nil {
		return nil, errors.Join(err, (&Group{dir: dir}).Remove())
	}
	return g, nil
}

// Open returns the group whose directory is dir. It must be able to freeze,
// which the root of a hierarchy is not.
func Open(dir string) (*Group, error) {
	for version, file := range map[int]string{1: "freezer.state", 2: "cgroup.freeze"} {
		if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
			return &Group{dir: dir, version: version}, nil
		}
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("opening cgroup: %w", err)
	}
	return nil, fmt.Errorf("opening cgroup %s: it cannot freeze", dir)
}

// Path returns the group's directory, which is what CRIU wants as freeze_cgroup.
func (g *Group) Path() string { return g.dir }

// Version returns 1 or 2, the version of the hierarchy.
func (g *Group) Version() int { return g.version }

// Dirs returns the directories in whose cgroup.procs a process must be written
// to be in the group.
func (g *Group) Dirs() []string { return []string{g.dir} }

// Add moves a process, with all its threads, into the group. A process that
// has ended gives an error that matches syscall.ESRCH.
func (g *Group) Add(pid int) error { return place(g.dir, pid) }

func place(dir string, pid int) error {
	err := write(dir, "cgroup.procs", strconv.Itoa(pid))
	if err != nil {
		return fmt.Errorf("moving process %d into %s: %w", pid, dir, err)
	}
	return nil
}

// Procs returns the processes of the group and of all groups below it, in no
// order. A process outside the caller's PID namespace is left out.
func (g *Group) Procs() ([]int, error) {
	var pids []int
	err := g.each(func(dir string) error {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if errors.Is(err, syscall.EOPNOTSUPP) {
			return nil // a threaded group: its processes are listed by the group above
		}
		if err != nil {
			return err
		}
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing cgroup: %w", err)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// each calls visit with the directory of the group and of every one below it.
func (g *Group) each(visit func(dir string) error) error {
	return filepath.WalkDir(g.dir, func(dir string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = visit(dir)
		}
		return ignoreGone(err)
	})
}

// ignoreGone drops the error of a group below that was removed meanwhile.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return err
}

// Kill kills every process of the group and of those below, and returns when
// the last has ended. Frozen processes die without running another instruction
// of their program; a group of version 1 is thawed for it, after the signal is sent.
func (g *Group) Kill(ctx context.Context) error {
	if g.version == 2 {
		// Linux 5.14. Without it, the loop below does the same for a
		// group that is frozen or does not fork faster than we kill.
		_ = write(g.dir, "cgroup.kill", "1")
	}
	err := g.poll(ctx, func() (bool, error) {
		pids, err := g.Procs()
		if err != nil || len(pids) == 0 {
			return true, err
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
				return true, fmt.Errorf("process %d: %w", pid, err)
			}
		}
		if g.version == 1 {
			return false, g.each(func(dir string) error { return write(dir, "freezer.state", "THAWED") })
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("killing cgroup %s: %w", g.dir, err)
	}
	return nil
}

// Remove removes the group, which must be empty, with the groups below it, and
// the directory that held it if that is ours and no other group is left. A
// process that has just ended may keep a group busy for a moment; Remove waits
// up to a second for it. A group that is not there is no error.
func (g *Group) Remove() error {
	if err := removePatiently(g.dir); err != nil {
		return fmt.Errorf("removing cgroup: %w", err)
	}
	if up := filepath.Dir(g.dir); filepath.Base(up) == parent {
		_ = syscall.Rmdir(up) // EBUSY or ENOTEMPTY: another group is there
	}
	return nil
}

func removePatiently(dir string) (err error) {
	for range 100 {
		if err = removeTree(dir); !errors.Is(err, syscall.EBUSY) {
			break
		}
		time.Sleep(longPoll)
	}
	return err
}

// removeTree removes a directory and those below with rmdir(2) only: the files
// of a cgroup cannot be unlinked and go with it.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ignoreGone(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := syscall.Rmdir(dir); err != nil && err != syscall.ENOENT {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// poll calls done, first at short and then at longer intervals, until it says
// true or ctx ends.
func (g *Group) poll(ctx context.Context, done func() (bool, error)) error {
	for wait := firstPoll; ; wait = min(2*wait, longPoll) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// write writes a value to a control file with a single write(2), as the kernel
// wants it.
func write(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}
