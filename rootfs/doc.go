// Package rootfs owns file trees: what of a workload's files must be on the
// target, and how it gets there. It knows file descriptors, an [io.Writer] and an
// [io.Reader], and no peer.
//
// [Compare] is for what both hosts have anyway: it finds out ahead of a move which
// of the files that a workload has open are missing or different.
//
// A tree that moves along with its workload, a directory or the upper layer of an
// overlay, is sent by a [Sender] in passes, each a stream of its own: the first while the
// workload runs, further ones with what changed since, and a final one when the
// workload is frozen, which is exact. A [Stage] on the target applies them to a
// staging tree beside the final place. [Place.Commit] swaps that in with one rename;
// [Place.Discard] leaves the target as it was, before and after the swap, until
// [Place.Finish]. All three work by path, so that they can be repeated after a crash.
//
// [Digest] and [Survey] tell hosts and operators what a tree is, [PlantProbe] and [FindProbe]
// whether both hosts look at the same one. docs/rootfs.md describes the stream and
// says what is carried, what is refused and why.
package rootfs
