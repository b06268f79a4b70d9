// Package predump copies a workload's memory while it runs, so that little is
// left to send while it is frozen.
//
// # Trackers
//
// A tracker finds the pages that changed since they were last sent.
//
//   - hash: every [Pass] reads all private memory and compares each page with a
//     128-bit hash of what was sent last, kept in a [Table]. Nothing is asked
//     of the kernel but process_vm_readv(2) and a pagemap, so it works on any
//     kernel and architecture, whatever the workload does with its memory
//     (O_DIRECT, exec, mremap), and the workload is never stopped or slowed by
//     faults. It costs one core some 0.2 s per GiB and pass, the workload some
//     of its cache and memory bandwidth, and 16 bytes of memory per page.
//   - none: no passes; everything is sent while frozen.
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
