// Package drain moves every workload away from a host, as many at a time as is
// asked for, to hosts that can take them, and brings them back.
//
// What goes where is decided by [Place], a pure function. A drain under way is
// a [Record] on the machine that runs it, written and flushed before anything
// that it announces is done, so that it can be gone on with after a crash of any
// part: each migration has its ID before it begins, and what became of it is
// asked of both hosts' journals ([Judge]).
//
// The package knows hosts by the interfaces [Source] and [Target] only.
package drain
