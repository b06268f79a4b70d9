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
