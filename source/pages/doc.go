// Package pages turns memory into batches on the wire, as few bytes as the
// target needs to have the same.
//
// A [Path] lives as long as a move: it remembers what was sent. Each round has
// a [Round], which is fed in one goroutine and does the rest beside it:
//
//	tracker or CRIU → collector → encoders, one for each core → page streams
//
// The collector puts runs of zero pages and copies of pages sent earlier in the
// place of content. Encoders put differences to what was sent before in the
// place of pages, and compress. Batches leave in the order in which they were
// made, numbered from 0 in every round, and the target applies them in that
// order: a copy or a difference refers to what the target then has.
//
// Nothing here waits for a whole round of anything: what is read is encoded,
// sent and stored while more is read.
package pages
