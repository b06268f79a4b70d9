package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Of a tree with PIDs of its own that sees the host's /proc, CRIU mounts another
// /proc for a moment, on a directory "proc.crtools" that it makes in the working
// directory of the tree's root (get_proc_fd of criu/pie/parasite.c). Two such trees in
// one directory cannot be dumped at a time: the second mkdir fails, and the dump.
const (
	aloneFile  = "dump.lock"
	alonePause = 2 * time.Millisecond
)

// hasForeignProc reports whether CRIU makes that directory. A container has a /proc of
// its own, and a directory that nobody shares.
func (v *move) hasForeignProc() bool { return v.facts.RootPID == 1 && v.container == nil }

// alone waits for the dumps of other trees of this host that would be in the way, and
// keeps them waiting until release, which may be called more than once. It is to be
// called before the freeze.
func (v *move) alone(ctx context.Context) (release func(), err error) {
	if !v.hasForeignProc() {
		return func() {}, nil
	}
	f, err := os.OpenFile(filepath.Join(v.cfg.RunDir, aloneFile), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(fmt.Errorf("locking %s: %w", f.Name(), err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(alonePause):
		}
	}
}
