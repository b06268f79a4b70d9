package criu

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"migrate/internal/inject"
)

// ownMounts is the mount namespace of the calling thread.
const ownMounts = "/proc/thread-self/ns/mnt"

// listingParent is the directory, below the images, that a listing dump has for
// its parent. parentLink is the link to it that CRIU makes beside it.
const (
	listingParent = "listing-parent"
	parentLink    = "parent"
)

// stopAgain is how often it is tried again to stop a child that did not stop in
// time. Nothing of the tree is held meanwhile.
const stopAgain = 4

// listing is one dump by a child that was started for it.
type listing struct {
	child        *Child
	images       string
	mounts, work *os.File // where the child belongs: mount namespace and working directory
	hook         HookFunc // the caller's
	home         bool     // it is there
}

// beginListing makes the parent in which every page is, and changes the options
// to ask for it. end must be called.
func (c *Child) beginListing(o *DumpOptions, hook HookFunc) (l *listing, err error) {
	if o.TrackMem || o.Parent != "" || o.PageSocket == nil {
		return nil, errors.New("listing pages needs a page server, and has no parent")
	}
	if hook == nil {
		hook = yes
	}
	l = &listing{child: c, images: o.ImagesDir, hook: hook}
	if err := writeParent(filepath.Join(o.ImagesDir, listingParent)); err != nil {
		return nil, err
	}
	if l.mounts, err = os.Open(ownMounts); err == nil {
		l.work, err = openDirectory(cmp.Or(o.WorkDir, o.ImagesDir))
	}
	if err != nil {
		return nil, errors.Join(err, l.end())
	}
	o.TrackMem, o.Parent = true, listingParent
	return l, nil
}

// writeParent makes a directory with an inventory that says that its dump will
// end in a far future. To CRIU no task is then newer than it, so that none is
// taken for another with the same PID and dumped in full (detect_pid_reuse).
func writeParent(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	msg, err := proto.Marshal(&inventory.InventoryEntry{ImgVersion: proto.Uint32(2), DumpUptime: proto.Uint64(math.MaxInt64)})
	if err != nil {
		return err
	}
	b := binary.LittleEndian.AppendUint32(nil, inventoryMagic)
	return os.WriteFile(filepath.Join(dir, InventoryName), appendMessage(b, msg), 0o600)
}

// ask stands before the caller's hook. Before CRIU looks at any task it has to
// be in the mount namespace that it was started from: it would take a task in
// another one than its own for a container, with mounts to dump.
func (l *listing) ask(ctx context.Context, ev HookEvent) error {
	switch {
	case ev.Hook == PreDump:
		if err := l.child.leave(l.mounts, l.work); err != nil {
			return err
		}
		l.home = true
	case !l.home:
		return errors.New("criu did not ask before it began")
	case ev.Hook == PostDump:
		// The images are complete without a parent.
		if err := l.removeParent(); err != nil {
			return err
		}
	}
	return l.hook(ctx, ev)
}

func (l *listing) removeParent() error {
	return errors.Join(os.RemoveAll(filepath.Join(l.images, parentLink)), os.RemoveAll(filepath.Join(l.images, listingParent)))
}

func (l *listing) end() error {
	if l.mounts != nil {
		l.mounts.Close()
	}
	if l.work != nil {
		l.work.Close()
	}
	return l.removeParent()
}

// leave moves the child into a mount namespace and a working directory of this
// process, by system calls made in it while it waits for an answer. With that
// the namespace it was started in ends.
func (c *Child) leave(mounts, work *os.File) (err error) {
	t, err := inject.Stop(c.PID())
	for range stopAgain {
		if !errors.Is(err, inject.ErrTimeout) {
			break
		}
		t, err = inject.Stop(c.PID()) // on a busy machine it may not have run
	}
	if err != nil {
		return fmt.Errorf("taking criu out of its mount namespace: %w", err)
	}
	err = errors.Join(move(t, mounts, work), t.Resume())
	if err == nil {
		err = c.isAt(mounts, work)
	}
	if err != nil {
		return fmt.Errorf("taking criu out of its mount namespace: %w", err)
	}
	return nil
}

// move makes the calls. None has an argument in memory, so nothing is written
// to the child: it fetches this process's descriptors by number.
func move(t *inject.Thread, mounts, work *os.File) error {
	self, err := t.Syscall(unix.SYS_PIDFD_OPEN, uintptr(os.Getpid()), 0)
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	err = with(t, self, mounts, func(fd uintptr) error {
		_, err := t.Syscall(unix.SYS_SETNS, fd, unix.CLONE_NEWNS)
		return err
	})
	if err == nil {
		err = with(t, self, work, func(fd uintptr) error {
			_, err := t.Syscall(unix.SYS_FCHDIR, fd)
			return err
		})
	}
	_, closeErr := t.Syscall(unix.SYS_CLOSE, self)
	return errors.Join(err, closeErr)
}

// with gives f the number that the stopped process has for file meanwhile.
func with(t *inject.Thread, self uintptr, file *os.File, f func(fd uintptr) error) error {
	fd, err := t.Syscall(unix.SYS_PIDFD_GETFD, self, file.Fd(), 0)
	if err != nil {
		return fmt.Errorf("pidfd_getfd: %w", err)
	}
	err = f(fd)
	_, closeErr := t.Syscall(unix.SYS_CLOSE, fd)
	return errors.Join(err, closeErr)
}

// isAt looks whether the child is where it belongs, and sees the same root.
func (c *Child) isAt(mounts, work *os.File) error {
	for _, place := range []struct {
		link string
		want func() (os.FileInfo, error)
	}{
		{"ns/mnt", mounts.Stat},
		{"cwd", work.Stat},
		{"root", func() (os.FileInfo, error) { return os.Stat("/") }},
	} {
		got, err := os.Stat(fmt.Sprintf("/proc/%d/%s", c.PID(), place.link))
		if err != nil {
			return err
		}
		want, err := place.want()
		if err != nil {
			return err
		}
		if !os.SameFile(got, want) {
			return fmt.Errorf("its %s is still another", place.link)
		}
	}
	return nil
}
