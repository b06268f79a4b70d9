// Package testload is a workload that checks itself, for tests, the demo and
// benchmarks.
//
// It holds memory whose every page follows from the page's number and version,
// and rewrites some of it at a set rate; it has threads, and child processes
// that it exchanges numbers with over pipes; files that are open, appended to
// and deleted; timers; and a listener. All of that is checked all the time, and
// all at once when asked. A watcher looks at the clocks once a tick: it
// records the largest gap, which is the downtime as the workload sees it, and
// takes a monotonic clock that steps back for an error.
//
// An error is never forgotten: the [Status] says so from then on, and the
// program ends with status [ExitFailed] however it is told to end. It does not
// end by itself, so that it can still be asked.
//
// It uses nothing that CRIU cannot move. In particular it starts its children
// with fork and exec alone, because os/exec would hold a pidfd of each.
package testload
