package criu

import (
	"context"
	"fmt"
	"os"
	"slices"
)

// Hook names a point at which CRIU stops and asks whether to go on.
type Hook string

// The hooks, in CRIU's own spelling (action-scripts.c).
//
// On dump, failing any of them leaves the tree running. On restore, failing
// any up to [PostRestore] kills what was restored; [PreResume] and later come
// too late: CRIU logs the failure and resumes the tree all the same.
const (
	PreStream           Hook = "pre-stream"
	PreDump             Hook = "pre-dump"  // before anything is frozen
	PostDump            Hook = "post-dump" // all images written, page server closed, tree held by ptrace
	PreRestore          Hook = "pre-restore"
	PostRestore         Hook = "post-restore" // memory and files are there, nothing of the tree has run
	NetworkLock         Hook = "network-lock"
	NetworkUnlock       Hook = "network-unlock"
	SetupNamespaces     Hook = "setup-namespaces"
	PostSetupNamespaces Hook = "post-setup-namespaces"
	PreResume           Hook = "pre-resume"
	PostResume          Hook = "post-resume"
	OrphanPTSMaster     Hook = "orphan-pts-master" // carries a file
	StatusReady         Hook = "status-ready"
	QueryExtFiles       Hook = "query-ext-files"
)

var hooks = []Hook{
	PreStream, PreDump, PostDump, PreRestore, PostRestore, NetworkLock, NetworkUnlock, SetupNamespaces,
	PostSetupNamespaces, PreResume, PostResume, OrphanPTSMaster, StatusReady, QueryExtFiles,
}

// decides reports whether a yes to the hook is the point of no return: CRIU
// kills the dumped tree, or lets the restored one run.
func (h Hook) decides() bool { return h == PostDump || h == PostRestore }

// HookEvent is one question of CRIU's.
type HookEvent struct {
	Hook Hook
	PID  int      // of the tree's root, in CRIU's PID namespace; 0 where CRIU gives none
	File *os.File // the file that came with [OrphanPTSMaster]; the receiver closes it. Else nil
}

// HookFunc answers one hook: nil lets CRIU go on, an error makes it give up.
// It may wait as long as it likes; CRIU holds meanwhile. ctx is that of the
// Dump or Restore under way. CRIU's socket is closed as soon as ctx ends,
// whether the function has returned or not.
type HookFunc func(context.Context, HookEvent) error

// call answers ev with f. A hook that the package does not know is refused:
// to say yes to a question that was not understood is not safe.
func (f HookFunc) call(ctx context.Context, ev HookEvent) error {
	known := slices.Contains(hooks, ev.Hook)
	if !known || f == nil {
		if ev.File != nil {
			ev.File.Close()
		}
		if !known {
			return fmt.Errorf("criu asked an unknown hook %.60q", ev.Hook)
		}
		return nil
	}
	if err := f(ctx, ev); err != nil {
		return fmt.Errorf("%s hook: %w", ev.Hook, err)
	}
	return nil
}

// yes is the hook function that stands in for none.
func yes(_ context.Context, ev HookEvent) error {
	if ev.File != nil {
		ev.File.Close()
	}
	return nil
}
