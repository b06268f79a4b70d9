// Package predump copies a workload's memory ahead of the freeze.
//
// The one tracker so far is "hash": every pass reads the whole memory of the
// running tree with process_vm_readv(2) and sends the pages whose 128-bit hash
// differs from what was sent before. It needs nothing from the kernel and puts
// nothing into the workload, so a kernel without soft-dirty is never asked for a
// CRIU pre-dump. It costs about 0.2 s of one core for each GiB and pass, and the
// same comparison again for the final dump ([Table.Classify]). That one is what
// makes the result right: whatever a pass misses, tears or leaves out, the
// final dump compares byte for byte by hash and sends.
//
// The hash is keyed with a random seed for each migration and 128 bits long: two
// different pages are taken for equal with a probability of about 2^-128.
package predump

import (
	"context"

	"migrate"
)

// PageSize is the unit in which memory is compared and sent.
const PageSize = 4096

// TaskImage is the [Image] type of a task's private memory.
const TaskImage = 1

// Image names the memory that a page belongs to, as CRIU's images do.
type Image struct {
	Type uint8
	ID   uint64 // PID in the task's own PID namespace
}

// Task is one process of the tree.
type Task struct {
	PID  int // in the host's PID namespace
	VPID int // in its own
}

// Sink takes the pages that a pass found new or changed, in rising order of
// address within an image. data is valid only during the call.
type Sink interface {
	Data(ctx context.Context, im Image, address uint64, data []byte) error
	Zero(ctx context.Context, im Image, address, pages uint64) error
}

// Stats counts what a pass saw, in pages.
type Stats struct {
	Pages     uint64
	Sent      uint64
	Zero      uint64
	Unchanged uint64
}

// Choose says which tracker a move uses and why not another one.
func Choose(asked migrate.Tracker, softDirty bool) (migrate.Tracker, string) {
	switch {
	case asked == migrate.TrackerNone:
		return asked, "asked for: stop-and-copy only"
	case softDirty:
		return migrate.TrackerHash, "compares whole memory by hash, which needs nothing from the kernel"
	}
	return migrate.TrackerHash, "this kernel has no soft-dirty tracking (CRIU says mem_track is off), so memory is compared by hash and no CRIU pre-dump is asked for"
}
