package predump

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"migrate"
)

// Ability is what a host can do.
type Ability struct {
	UffdWP error // why the tracker uffd-wp would not work; nil if it would
}

// Probe tries on the calling process, within about a tenth of a millisecond,
// whether the kernel has what a tracker needs; its version says little.
func Probe() Ability {
	if Disabled(migrate.TrackerUffdWP) {
		return Ability{errors.New("switched off by " + disable)}
	}
	return Ability{probeUffd()}
}

const disable = "MIGRATE_PROBE_DISABLE"

// Disabled reports whether the environment variable MIGRATE_PROBE_DISABLE, words
// with commas between, has the tracker's name. It lets tests see a host that is
// without.
func Disabled(t migrate.Tracker) bool {
	return slices.Contains(strings.Split(os.Getenv(disable), ","), string(t))
}

const probePages = 4

func probeUffd() error {
	fd, err := openUffd()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return err
	}
	defer pagemap.Close()
	p, err := unix.MmapPtr(-1, 0, nil, probePages*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	b := unsafe.Slice((*byte)(p), probePages*PageSize)
	ours := b
	defer func() { _ = unix.MunmapPtr(unsafe.Pointer(&ours[0]), uintptr(len(ours))) }() // which it cannot refuse
	if err := probeScan(fd, pagemap, b); err != nil {
		return err
	}
	if err := moveHalf(b); err != nil {
		return err
	}
	ours = b[len(b)/2:] // by now the rest may be another thread's
	return probeMoved(fd, ioctlScanner{pagemap: pagemap, query: written}, ours)
}

// probeScan writes to one page after the other, and looks whether each scan
// finds just what was written.
func probeScan(fd int, pagemap *os.File, b []byte) error {
	start := uint64(uintptr(unsafe.Pointer(&b[0])))
	all := extent{start, start + uint64(len(b))}
	if err := register(fd, all); err != nil {
		return fmt.Errorf("userfaultfd register: %w", err)
	}
	s := ioctlScanner{pagemap: pagemap, query: written}
	for page := uint64(0); page < probePages; page += 2 {
		b[page*PageSize] = 1
		var got []extent
		if err := s.scan(all, func(e extent) error { got = append(got, e); return nil }); err != nil {
			return err
		}
		want := extent{start + page*PageSize, start + (page+1)*PageSize}
		if !slices.Equal(got, []extent{want}) {
			return fmt.Errorf("a scan for written pages finds %x, want %x", got, want)
		}
	}
	return nil
}

// moveHalf moves the first half of b over the second. Nothing is mapped where
// the first was then.
func moveHalf(b []byte) error {
	half := len(b) / 2
	_, err := unix.MremapPtr(unsafe.Pointer(&b[0]), uintptr(half), unsafe.Pointer(&b[half]), uintptr(half), unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED)
	if err != nil {
		return fmt.Errorf("mremap: %w", err)
	}
	return nil
}

// probeMoved looks whether pages that have moved to b lost their protection, as
// from Linux 6.13 on and where that was taken over. Else they would keep it
// unwatched, and pass for unchanged once they are watched again, after they were
// written to.
func probeMoved(fd int, s ioctlScanner, b []byte) error {
	start := uint64(uintptr(unsafe.Pointer(&b[0])))
	to := extent{start, start + uint64(len(b))}
	if err := register(fd, to); err != nil {
		return fmt.Errorf("userfaultfd register: %w", err)
	}
	found := false
	err := s.scan(to, func(extent) error { found = true; return nil })
	if err == nil && !found {
		err = errors.New("the kernel keeps the write protection of pages that mremap moves")
	}
	return err
}
