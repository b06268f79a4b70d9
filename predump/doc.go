// Package predump copies a workload's memory while it runs, so that little is
// left to send while it is frozen.
//
// # Trackers
//
// A [Tracker] finds the pages that changed since they were last sent, round
// after round. What it finds is compared with a 128-bit hash of what was sent
// last, kept in a [Table], and sent if it differs. [Choose] takes the best that
// the kernel has; [Probe] tries it.
//
//   - soft-dirty: CRIU's pre-dumps, by the kernel's soft-dirty bits
//     (CONFIG_MEM_SOFT_DIRTY, which arm64 and many distributions lack).
//   - uffd-wp: each task's memory is write-protected by a userfaultfd that was
//     made in the task from outside, in the mode in which the kernel lifts the
//     protection itself; PAGEMAP_SCAN tells which pages were written to. It
//     needs x86-64 and Linux 6.7, or arm64 and 6.10. A round costs some 20 ms of
//     one core per GiB, and what the changed pages take; see [NewUffd].
//   - hash: every [Pass] reads all private memory. Nothing is asked of the kernel
//     but process_vm_readv(2) and a pagemap, so it works on any kernel and
//     architecture, whatever the workload does with its memory (O_DIRECT, exec,
//     mremap), and the workload is never stopped or slowed by faults. It costs
//     one core some 0.2 s per GiB and pass, the workload some of its cache and
//     memory bandwidth, and 16 bytes of memory per page.
//   - none: no passes; everything is sent while frozen.
//
// # When the workload is frozen
//
// [Tracker.Freeze] says which pages need not be read again. A page is clean only
// if its tracker has watched it since before it was read for the sink, nothing
// but the task itself could have written to it, it was not written to, and the
// Table knows it. All else is read and compared.
//
// A page may change while it is read. That is harmless: what counts is that
// table and target have the same bytes, and the final dump compares the frozen
// page with the hash of exactly those ([Table.Classify]).
//
// The hash is xxh3, seeded per migration. It is not cryptographic: two given
// pages collide with a probability of about 2^-128, but a program that knew the
// seed could make its own pages collide. It would damage only itself.
//
// # What is copied
//
// Private memory that a dump would hold: anonymous pages, and pages of private
// file mappings that were written to. Shared mappings, device memory, the
// kernel's own mappings and holes are left to the final dump. A page that is
// missed costs frozen time, never correctness.
package predump
