// Package criu runs the CRIU binary and speaks its protocols: the RPC of
// "criu swrk", the page server's stream, and the image files that a migration
// has to read or write itself.
//
// It is the only package that knows CRIU's option names, hooks, image layouts
// and log texts. [Find] locates a CRIU that works on this kernel; [Tool.Start]
// starts one child, which serves one [Child.Dump], [Child.PreDump] or
// [Child.Restore]; [ServePages] makes this process the page server of a dump, so
// that memory never touches the disk. Where [Tool.CanList] says so, a dump can
// list pages instead of sending them.
//
// Abort is always by closing the child's socket: CRIU then undoes what it was
// doing. It is never killed while it dumps, because that leaves connections
// in repair mode and the tree damaged (see [ExitGrace]).
//
// When CRIU ran and refused, the error is an [*Error] that holds the cause
// from CRIU's own log, in plain words where the package knows it, and advice.
// Trouble starting or talking to the child is an ordinary wrapped error.
package criu
