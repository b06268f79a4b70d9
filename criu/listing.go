package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Listing is a dump that tells which private pages there are and gives none of
// them: whoever asked reads the frozen tasks itself, and only what it lacks.
//
// CRIU has no option for that. It leaves out the pages that did not change since
// a parent, but refuses to look for such where the kernel does not track memory.
// What the kernel can do it takes from its cache, /run/criu.kdat. Told there that
// the kernel does track memory, it finds on a kernel without soft-dirty that no
// page ever changed.
//
// A CRIU that reads such a cache for any other dump loses data. It is therefore
// in a tmpfs that only one mount namespace has, that of the one child, and the
// namespace ends when the child leaves it, in its pre-dump hook: see leave.go.
const (
	cacheDirectory = "/run"
	cacheFile      = cacheDirectory + "/criu.kdat"

	// hasDirtyTrack is the place of that flag in struct kerndat_s (kerndat.h):
	// after two magic numbers, the device of shared memory, the last capability
	// and the frame of the zero page.
	hasDirtyTrack = 0x20
)

// CanList tells whether a child can be started with [ChildOptions].Listing: nil,
// or why not. It tries everything short of a dump, which takes about 0.2 s.
func (t Tool) CanList(ctx context.Context) error {
	c, err := t.Start(ctx, ChildOptions{Listing: true})
	if err != nil {
		return err
	}
	defer c.Close()
	mounts, err := os.Open(ownMounts)
	if err != nil {
		return fmt.Errorf("listing pages: %w", err)
	}
	defer mounts.Close()
	work, err := openDirectory("/")
	if err != nil {
		return fmt.Errorf("listing pages: %w", err)
	}
	defer work.Close()
	return c.leave(mounts, work)
}

// startListing starts a child that believes that the kernel tracks memory.
func (t Tool) startListing(ctx context.Context, o ChildOptions) (c *Child, err error) {
	if err := clearReferences(); err != nil {
		return nil, fmt.Errorf("listing pages: %w", err)
	}
	err = inOwnMounts(func() error {
		if err := t.makeBelieve(ctx); err != nil {
			return fmt.Errorf("listing pages: %w", err)
		}
		c, err = t.spawn(ctx, o)
		return err
	})
	return c, err
}

// clearReferences does to this process what CRIU does to each task after a dump
// that tracks memory. Where the kernel refuses it, CRIU aborts (mem.c).
func clearReferences() error {
	if err := os.WriteFile("/proc/self/clear_refs", []byte("4"), 0); err != nil {
		return fmt.Errorf("this kernel does not take it that soft-dirty bits are reset: %w", err)
	}
	return nil
}

// inOwnMounts runs f on a system thread of its own, in a mount namespace of its
// own with an empty /run; a process that f starts is in it too. The thread ends
// with f, and with it the namespace unless such a process keeps it.
func inOwnMounts(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread of a process never ends. While it is held here, the
			// next goroutine is on another one.
			done <- inOwnMounts(f)
			runtime.UnlockOSThread()
			return
		}
		if err := unshareMounts(); err != nil {
			done <- fmt.Errorf("listing pages: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// unshareMounts is for a thread that will end. Nothing that is mounted in the
// new namespace is seen outside; what is unmounted outside goes here as well.
func unshareMounts() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keeping mounts to the new namespace: %w", err)
	}
	err := unix.Mount("tmpfs", cacheDirectory, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700,size=1m")
	if err != nil {
		return fmt.Errorf("mounting a tmpfs on %s: %w", cacheDirectory, err)
	}
	return nil
}

// makeBelieve has CRIU look at this kernel, changes one flag in what it found,
// and proves that it is the right one: CRIU then says that the kernel tracks
// memory, and all else as before. Nothing that is known already counts here: only a
// CRIU that runs leaves its cache.
func (t Tool) makeBelieve(ctx context.Context) error {
	before, err := t.askFeatures(ctx)
	if err != nil {
		return err
	}
	cache, err := os.ReadFile(cacheFile)
	if err != nil {
		return fmt.Errorf("criu did not keep what it found: %w", err)
	}
	if err := flipTracking(cache, before); err != nil {
		return err
	}
	if err := os.WriteFile(cacheFile, cache, 0o600); err != nil {
		return err
	}
	after, err := t.askFeatures(ctx)
	if err != nil {
		return err
	}
	before.MemTrack = true
	if after != before {
		return fmt.Errorf("criu %v keeps its flags in another place: it found %+v where %+v was meant", t.Version, after, before)
	}
	return nil
}

// flipTracking sets the flag, unless the kernel does track memory: every page
// that changed would then be missing from the list of those that did not.
func flipTracking(cache []byte, f Features) error {
	switch {
	case f.MemTrack:
		return errors.New("this kernel tracks memory itself (soft-dirty)")
	case len(cache) <= hasDirtyTrack || cache[hasDirtyTrack] != 0:
		return errors.New("criu keeps its flags in another place")
	}
	cache[hasDirtyTrack] = 1
	return nil
}
