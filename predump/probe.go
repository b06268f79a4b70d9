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
	b, err := unix.Mmap(-1, 0, probePages*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	defer unix.Munmap(b)
	return probeScan(fd, pagemap, b)
}

// probeScan writes to a page, and then to another, and looks whether both scans
// find just that one.
func probeScan(fd int, pagemap *os.File, b []byte) error {
	start := uint64(uintptr(unsafe.Pointer(&b[0])))
	all := extent{start, start + uint64(len(b))}
	if err := register(fd, all); err != nil {
		return fmt.Errorf("userfaultfd register: %w", err)
	}
	s := ioctlScanner{pagemap: pagemap, query: written}
	b[0] = 1
	for _, page := range []uint64{1, 2} {
		b[page*PageSize] = 1
		var got []extent
		if err := s.scan(all, func(e extent) error { got = append(got, e); return nil }); err != nil {
			return err
		}
		want := extent{start + page*PageSize, start + (page+1)*PageSize}
		if page == 1 {
			want.start = start // the first scan finds both
		}
		if !slices.Equal(got, []extent{want}) {
			return fmt.Errorf("a scan for written pages finds %x, want %x", got, want)
		}
	}
	return nil
}
