package predump

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A scanner finds the pages of a mapping that hold something of the process's
// own: present or swapped out, not the file's and not the shared page of zeros.
type scanner interface {
	scan(m extent, found func(extent) error) error
}

// PAGEMAP_SCAN, Linux 6.7 (include/uapi/linux/fs.h).
const (
	pagemapScan = 0xc0606610 // _IOWR('f', 16, struct pm_scan_arg)

	scanWPMatching = 1 << 0 // write-protect the pages that are found

	pageIsWPAllowed = 1 << 0
	pageIsWritten   = 1 << 1
	pageIsFile      = 1 << 2
	pageIsPresent   = 1 << 3
	pageIsSwapped   = 1 << 4
	pageIsPFNZero   = 1 << 5
)

// query says which pages a PAGEMAP_SCAN finds: all of the set categories, none
// of the clear ones, one of anyOf.
type query struct{ flags, set, clear, anyOf uint64 }

// A hole counts as written, and protecting it costs page tables: every query
// asks for pages that are there.
var (
	ownPages = query{clear: pageIsFile | pageIsPFNZero, anyOf: pageIsPresent | pageIsSwapped}
	// written finds and protects the pages that were written to since they were
	// last protected. Ranges that no userfaultfd watches are passed over. The
	// flag CHECK_WPASYNC must not be added: the error that it makes of such a
	// range loses what was protected just before.
	written = query{scanWPMatching, pageIsWritten, ownPages.clear, ownPages.anyOf}
	// unwritten finds those that were not. Where no userfaultfd watches, every
	// page counts as written.
	unwritten = query{0, pageIsWPAllowed, pageIsWritten | ownPages.clear, ownPages.anyOf}
	// watchable finds everything where a userfaultfd of the right kind watches.
	watchable = query{set: pageIsWPAllowed}
)

// pmScanArg is struct pm_scan_arg.
type pmScanArg struct {
	size, flags      uint64
	start, end       uint64
	walkEnd          uint64
	vec, vecLen      uint64
	maxPages         uint64
	categoryInverted uint64
	categoryMask     uint64
	categoryAnyof    uint64
	returnMask       uint64
}

// pageRegion is struct page_region.
type pageRegion struct{ start, end, categories uint64 }

const (
	// scanRegions and scanPages end a call, and with it the time for which it
	// holds the process's mmap lock, well under a millisecond.
	scanRegions = 512
	scanPages   = 16384
)

// ioctlScanner asks the kernel for the pages. Holes cost nothing.
type ioctlScanner struct {
	pagemap *os.File
	query   query
	vec     []pageRegion
}

// supported asks for an empty range.
func (s *ioctlScanner) supported() bool {
	_, _, err := s.call(extent{})
	return err == nil
}

func (s *ioctlScanner) scan(m extent, found func(extent) error) error {
	for m.start < m.end {
		regions, next, err := s.call(m)
		if err != nil {
			return fmt.Errorf("scanning pagemap: %w", err)
		}
		for _, r := range regions {
			if err := found(extent{r.start, r.end}); err != nil {
				return err
			}
		}
		if next <= m.start {
			return nil // nothing was walked: the mapping is gone
		}
		m.start = next
	}
	return nil
}

// call returns the pages in the first part of m, and where the rest begins.
func (s *ioctlScanner) call(m extent) ([]pageRegion, uint64, error) {
	if s.vec == nil {
		s.vec = make([]pageRegion, scanRegions)
	}
	arg := pmScanArg{
		start: m.start, end: m.end,
		vec: uint64(uintptr(unsafe.Pointer(&s.vec[0]))), vecLen: scanRegions,
		maxPages:         scanPages,
		flags:            s.query.flags,
		categoryInverted: s.query.clear,
		categoryMask:     s.query.set | s.query.clear,
		categoryAnyof:    s.query.anyOf,
		returnMask:       pageIsPresent | pageIsWPAllowed,
	}
	arg.size = uint64(unsafe.Sizeof(arg))
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, s.pagemap.Fd(), pagemapScan, uintptr(unsafe.Pointer(&arg)))
	runtime.KeepAlive(s)
	if errno != 0 {
		return nil, 0, errno
	}
	return s.vec[:n], arg.walkEnd, nil
}

// Entries of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
const (
	entrySize    = 8
	entryFile    = 1 << 61
	entrySwapped = 1 << 62
	entryPresent = 1 << 63
)

// entryScanner reads one entry per page, holes included.
type entryScanner struct {
	pagemap *os.File
	buf     []byte
}

func (s *entryScanner) scan(m extent, found func(extent) error) error {
	if s.buf == nil {
		s.buf = make([]byte, entrySize*scanPages)
	}
	for m.start < m.end {
		want := min((m.end-m.start)/PageSize, scanPages) * entrySize
		n, err := s.pagemap.ReadAt(s.buf[:want], int64(m.start/PageSize*entrySize))
		n -= n % entrySize
		if n == 0 {
			return vanished(err)
		}
		if err := s.entries(m.start, s.buf[:n], found); err != nil {
			return err
		}
		m.start += uint64(n) / entrySize * PageSize
	}
	return nil
}

// vanished tells the end of a pagemap, which is not an error, from one.
func vanished(err error) error {
	if errno := unix.Errno(0); errors.As(err, &errno) {
		return fmt.Errorf("reading pagemap: %w", err)
	}
	return nil
}

// entries reports the pages among some entries, neighbours as one extent.
func (s *entryScanner) entries(addr uint64, b []byte, found func(extent) error) error {
	var open extent
	for ; len(b) > 0; b, addr = b[entrySize:], addr+PageSize {
		e := binary.NativeEndian.Uint64(b)
		own := e&(entryPresent|entrySwapped) != 0 && e&entryFile == 0
		if own && open.end == addr && open.start != open.end {
			open.end += PageSize
			continue
		}
		if !own {
			continue
		}
		if open.start != open.end {
			if err := found(open); err != nil {
				return err
			}
		}
		open = extent{addr, addr + PageSize}
	}
	if open.start == open.end {
		return nil
	}
	return found(open)
}
