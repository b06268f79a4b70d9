package cgroup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"

	"migrate/workload/proc"
)

// Placement says where the processes were that [Group.Adopt] moved. It is
// plain data, for a journal.
type Placement struct {
	Group string  `json:"group"` // directory of the group they were moved to
	Root  string  `json:"root"`  // directory where the root of the tree was
	From  []Moved `json:"from"`
}

// Moved is one process that was moved.
type Moved struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // see [proc.Process]
	Dir   string `json:"dir"`   // where it was
}

// Before returns the placement of a tree of which [Group.Adopt] has moved
// nothing yet. With it in a journal, what an Adopt that was cut short has done
// can be undone: all go back to where the root was.
func (g *Group) Before(root int) (Placement, error) {
	l, m, err := g.layout()
	if err != nil {
		return Placement{}, err
	}
	dir, err := l.dirOf(m, root)
	return Placement{Group: g.dir, Root: dir}, err
}

// Adopt moves the process root and all its descendants into the group, while
// they run and fork. It returns when a look at the whole tree finds nobody
// outside: from then on every child is born inside. A descendant whose parent
// ended before it was moved is nobody's descendant any more, and stays outside.
//
// On an error nothing is undone; the Placement says what was moved until then.
func (g *Group) Adopt(ctx context.Context, root int) (Placement, error) {
	p := Placement{Group: g.dir}
	for {
		moved, err := g.adoptOnce(root, &p)
		if err != nil {
			return p, fmt.Errorf("gathering the tree of process %d: %w", root, err)
		}
		if !moved {
			return p, nil
		}
		if err := context.Cause(ctx); err != nil {
			return p, fmt.Errorf("gathering the tree of process %d: %w", root, err)
		}
	}
}

// adoptOnce moves what is outside and reports whether there was any.
func (g *Group) adoptOnce(root int, p *Placement) (bool, error) {
	inside, err := g.Procs()
	if err != nil {
		return false, err
	}
	tree, err := proc.Descendants(root)
	if err != nil {
		return false, err
	}
	l, m, err := g.layout()
	if err != nil {
		return false, err
	}
	moved := false
	for _, t := range tree {
		if t.State == 'Z' || slices.Contains(inside, t.PID) {
			continue // a zombie can no longer be moved, and runs nothing
		}
		from, err := l.dirOf(m, t.PID)
		if err == nil {
			err = g.Add(t.PID)
		}
		if t.PID != root && ended(t.PID, err) {
			continue
		}
		if err != nil {
			return moved, err
		}
		moved = true
		p.From = append(p.From, Moved{PID: t.PID, Start: t.Start, Dir: from})
		if t.PID == root {
			p.Root = from
		}
	}
	return moved, nil
}

// ended tells the end of a process from the absence of a group, which may be
// the same error number.
func ended(pid int, err error) bool {
	if !proc.Gone(err) {
		return false
	}
	_, err = proc.Read(pid)
	return proc.Gone(err)
}

// layout returns the mount that the group is in.
func (g *Group) layout() (Layout, Mount, error) {
	l, err := Detect()
	if g.version == 1 {
		return l, l.Freezer, err
	}
	return l, l.Unified, err
}

// Restore moves every process that is in the group back to where it was: one
// that was born there, or whose old group is gone, to where the root was. It
// repeats until the group is empty or ctx ends, and does not thaw or remove the
// group. Processes that cannot be moved are an error, after all others were.
func (p Placement) Restore(ctx context.Context) error {
	g, err := Open(p.Group)
	if err != nil {
		return fmt.Errorf("putting processes back: %w", err)
	}
	err = g.poll(ctx, func() (bool, error) {
		pids, err := g.Procs()
		if err != nil || len(pids) == 0 {
			return true, err
		}
		return false, p.restoreEach(pids)
	})
	if err != nil {
		return fmt.Errorf("putting processes back: %w", err)
	}
	return nil
}

func (p Placement) restoreEach(pids []int) error {
	var problems []error
	for _, pid := range pids {
		err := place(p.destination(pid), pid)
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENODEV) {
			err = place(p.Root, pid)
		}
		if err != nil && !ended(pid, err) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// destination does not take a process that got the number of a moved one for
// that one.
func (p Placement) destination(pid int) string {
	for _, m := range p.From {
		if m.PID != pid {
			continue
		}
		if now, err := proc.Read(pid); err == nil && now.Start == m.Start {
			return m.Dir
		}
	}
	return p.Root
}

// Dedicated returns the group that holds exactly the processes pids, of which
// root is one, if there is such a group and it can freeze. Then no group has to be
// made for a migration.
func Dedicated(root int, pids []int) (*Group, bool) {
	l, err := Detect()
	if err != nil {
		return nil, false
	}
	return l.Dedicated(root, pids)
}

// Dedicated is the function [Dedicated] for a given layout.
func (l Layout) Dedicated(root int, pids []int) (*Group, bool) {
	want := slices.Sorted(slices.Values(pids))
	for _, m := range l.freezers() {
		dir, err := l.dirOf(m, root)
		if err != nil || filepath.Clean(dir) == filepath.Clean(m.Dir) {
			continue
		}
		g, err := Open(dir)
		if err != nil {
			continue
		}
		if in, err := g.Procs(); err == nil && slices.Equal(in, want) {
			return g, true
		}
	}
	return nil, false
}
