// Package migrate holds the nouns that every part of the tool shares: the
// migration's [ID], its [Phase], the facts two hosts exchange about themselves
// and a workload, the [Options] of a move and the [Report] of one.
//
// The package imports the standard library only and does no I/O, so any other
// package may import it. Types here that are sent to a peer or written to disk
// carry JSON tags; their fields are only ever added, never renamed.
package migrate
