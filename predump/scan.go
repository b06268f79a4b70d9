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

// PAGEMAP_SCAN and its categories (linux/fs.h, Linux 6.7).
const (
	pagemapScan     = 0xc0606610
	pagePresent     = 1 << 3
	pageSwapped     = 1 << 4
	pageFile        = 1 << 2
	pagePFNZero     = 1 << 5
	regionsPerScan  = 512
	pagemapPresent  = 1 << 63
	pagemapSwapped  = 1 << 62
	pagemapFile     = 1 << 61
	pagemapPerRead  = 4096
	pagemapEntryLen = 8
)

// scanArg is struct pm_scan_arg.
type scanArg struct {
	size, flags, start, end, walkEnd, vec, vecLen, maxPages uint64
	inverted, mask, anyOf, ret                              uint64
}

// region is struct page_region.
type region struct{ start, end, categories uint64 }

// A scanner finds the pages of one process that exist and are its own. Reserved
// address space that was never touched costs it nothing.
type scanner struct {
	pagemap *os.File
	regions [regionsPerScan]region
	old     bool // no PAGEMAP_SCAN: read the entries
}

func newScanner(pid int) (*scanner, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, err
	}
	return &scanner{pagemap: f}, nil
}

func (s *scanner) close() { s.pagemap.Close() }

// each calls f for every run of present anonymous pages in a.
func (s *scanner) each(a area, f func(start, end uint64) error) error {
	if s.old {
		return s.eachEntry(a, f)
	}
	for at := a.start; at < a.end; {
		n, walked, err := s.scan(at, a.end)
		if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
			s.old = true
			return s.eachEntry(area{at, a.end}, f)
		}
		if err != nil {
			return err
		}
		for _, r := range s.regions[:n] {
			if err := f(r.start, r.end); err != nil {
				return err
			}
		}
		if walked <= at {
			return nil
		}
		at = walked
	}
	return nil
}

func (s *scanner) scan(start, end uint64) (n int, walked uint64, err error) {
	arg := scanArg{
		start: start, end: end, vec: uint64(uintptr(unsafe.Pointer(&s.regions[0]))), vecLen: regionsPerScan,
		inverted: pageFile | pagePFNZero, mask: pageFile | pagePFNZero,
		anyOf: pagePresent | pageSwapped, ret: pagePresent | pageSwapped,
	}
	arg.size = uint64(unsafe.Sizeof(arg))
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, s.pagemap.Fd(), pagemapScan, uintptr(unsafe.Pointer(&arg)))
	runtime.KeepAlive(s)
	if errno != 0 {
		return 0, 0, errno
	}
	return int(r), arg.walkEnd, nil
}

// eachEntry does the same on kernels before 6.7, from the entries of
// proc_pid_pagemap(5).
func (s *scanner) eachEntry(a area, f func(start, end uint64) error) error {
	buf := make([]byte, pagemapPerRead*pagemapEntryLen)
	var run area
	for at := a.start; at < a.end; {
		want := min((a.end-at)/PageSize, pagemapPerRead) * pagemapEntryLen
		n, err := s.pagemap.ReadAt(buf[:want], int64(at/PageSize*pagemapEntryLen))
		if n < pagemapEntryLen {
			return err
		}
		for b := buf[:n-n%pagemapEntryLen]; len(b) > 0; b, at = b[pagemapEntryLen:], at+PageSize {
			if !own(binary.NativeEndian.Uint64(b)) {
				continue
			}
			if run.end != at {
				if err := give(run, f); err != nil {
					return err
				}
				run.start = at
			}
			run.end = at + PageSize
		}
	}
	return give(run, f)
}

func own(entry uint64) bool {
	return entry&(pagemapPresent|pagemapSwapped) != 0 && entry&pagemapFile == 0
}

func give(run area, f func(start, end uint64) error) error {
	if run.end == 0 {
		return nil
	}
	return f(run.start, run.end)
}
