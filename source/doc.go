// Package source drives one migration on the host that has the workload.
//
// [Mover.Move] takes it through the phases of the design: connect, preflight,
// prepare, pre-copy, freeze, stop-and-copy, restore, commit, finish. Each is
// journaled before the target can see its effect. Up to the commit point every
// failure, cancel or timeout ends with the workload thawed here and an Abort
// sent; from the commit point on, only the target's own journaled refusal
// ("I never ran it and never will") lets this copy run again.
//
// The tree is frozen by its cgroup before CRIU sees it, and once more while
// CRIU holds in post-dump, so that no process's death can thaw it. What a dead
// source leaves behind is put right by [Mover.Recover].
package source
