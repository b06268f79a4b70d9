// Package workload knows what can be moved: how a process tree is named, what
// it consists of, what in it cannot be moved, and what a host remembers of the
// workloads that it started or received.
//
// Inspection is in two steps. [Snapshot] reads /proc, sock_diag(7) and nothing
// else, and disturbs nobody; [Facts.Workload] and [Facts.Blockers] are pure and
// draw the conclusions. What counts as a blocker is what CRIU 4.2 cannot dump or
// restore, or what it would drop in silence. The tree runs meanwhile, so the
// answer can be out of date when it is given: CRIU has the last word.
package workload

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"migrate"
)

// Inspect looks at the process tree whose first process is pid, and returns
// what there is to move and what stands in the way of it. It sets Kind to
// "process" and Name to "process-PID"; the caller, who knows, replaces these and
// sets Init and LogLimit for a capsule.
//
// There is no Workload without the process: then the error matches
// syscall.ESRCH. Everything else that is wrong is a finding.
func Inspect(ctx context.Context, pid int) (migrate.Workload, []migrate.Finding, error) {
	f, err := Snapshot(ctx, pid)
	if err != nil {
		return migrate.Workload{}, nil, fmt.Errorf("inspecting process %d: %w", pid, err)
	}
	return f.Workload(), f.Blockers(), nil
}

// Describe returns what Inspect does of a frozen tree, without what stands in the
// way. It does not wait for tasks that seem stuck: those that a freezer holds do.
func Describe(pid int) (migrate.Workload, error) {
	f, err := snapshot(pid)
	if err != nil {
		return migrate.Workload{}, fmt.Errorf("describing process %d: %w", pid, err)
	}
	return f.Workload(), nil
}

// InspectContainer is [Inspect] for the first process of a container whose root
// file system is the directory root on the host. Of the files that the tree has
// open or mapped it names those on that file system, as the host sees them.
func InspectContainer(ctx context.Context, pid int, root string) (migrate.Workload, []migrate.Finding, error) {
	f, err := Snapshot(ctx, pid)
	if err != nil {
		return migrate.Workload{}, nil, fmt.Errorf("inspecting process %d: %w", pid, err)
	}
	f.Container, f.Mounts = true, mountNumbers(pid)
	return f.container(root), f.Blockers(), nil
}

// DescribeContainer is to [InspectContainer] what Describe is to Inspect.
func DescribeContainer(pid int, root string) (migrate.Workload, error) {
	f, err := snapshot(pid)
	if err != nil {
		return migrate.Workload{}, fmt.Errorf("describing process %d: %w", pid, err)
	}
	return f.container(root), nil
}

func (f Facts) container(root string) migrate.Workload {
	w := f.Workload()
	w.Files = onHost(w.Files, fmt.Sprintf("/proc/%d/root", f.Root().PID), root)
	return w
}

// onHost gives files the paths by which they are found below root, and leaves
// out those that are mounted from elsewhere.
func onHost(files []migrate.File, inside, root string) []migrate.File {
	var list []migrate.File
	for _, f := range files {
		theirs, err1 := os.Lstat(filepath.Join(inside, f.Path))
		ours, err2 := os.Lstat(filepath.Join(root, f.Path))
		if err1 == nil && err2 == nil && os.SameFile(theirs, ours) {
			f.Path = filepath.Join(root, f.Path)
			list = append(list, f)
		}
	}
	return list
}

// mountNumbers returns those of the mounts that a process sees, by
// proc_pid_mountinfo(5).
func mountNumbers(pid int) map[int]bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil
	}
	numbers := map[int]bool{}
	for line := range strings.Lines(string(b)) {
		first, _, _ := strings.Cut(line, " ")
		if n, err := strconv.Atoi(first); err == nil {
			numbers[n] = true
		}
	}
	return numbers
}
