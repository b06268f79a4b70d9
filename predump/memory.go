package predump

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// memory is the address space that a process has now. If it executes another
// program the files still speak of the old one, which is empty then.
type memory struct {
	pid     int
	pagemap *os.File
	mem     *os.File
	scan    scanner
	maps    string // file to read the mappings from
}

func openMemory(pid int) (*memory, error) {
	pagemap, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		pagemap.Close()
		return nil, err
	}
	m := &memory{pid: pid, pagemap: pagemap, mem: mem}
	m.useScan()
	return m, nil
}

// useScan takes PAGEMAP_SCAN, or what there is on older kernels.
func (m *memory) useScan() {
	s := &ioctlScanner{pagemap: m.pagemap, query: ownPages}
	if !s.supported() {
		m.useEntries()
		return
	}
	m.scan, m.maps = s, fmt.Sprintf("/proc/%d/maps", m.pid)
}

func (m *memory) useEntries() {
	m.scan, m.maps = &entryScanner{pagemap: m.pagemap}, fmt.Sprintf("/proc/%d/smaps", m.pid)
}

func (m *memory) close() {
	m.pagemap.Close()
	m.mem.Close()
}

func (m *memory) mappings() ([]extent, error) {
	b, err := os.ReadFile(m.maps)
	if err != nil {
		return nil, err
	}
	return parseMaps(b)
}

// gone reports whether err says that the process ended or left the address
// space.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// read reads as many pages of the batch, from its first page on, as it can,
// and returns their number. Zero without an error means that the first page
// cannot be read: unmapped meanwhile, or a guard page.
func (m *memory) read(b *batch) (pages uint64, err error) {
	var iov [maxExtents]unix.RemoteIovec
	for i, e := range b.extents {
		iov[i] = unix.RemoteIovec{Base: uintptr(e.start), Len: int(e.end - e.start)}
	}
	local := []unix.Iovec{{Base: &b.data[0]}}
	local[0].SetLen(int(b.pages() * PageSize))
	n, err := unix.ProcessVMReadv(m.pid, local, iov[:len(b.extents)], 0)
	if err == nil && uint64(n) >= PageSize {
		return uint64(n) / PageSize, nil
	}
	if err != nil && gone(err) {
		return 0, err
	}
	// Memory without PROT_READ can be read only here, and where the system
	// call is filtered or not built in everything is.
	e := b.extents[0]
	n, err = m.mem.ReadAt(b.data[:e.end-e.start], int64(e.start))
	if n == 0 && err != nil && gone(err) {
		return 0, err
	}
	return uint64(n) / PageSize, nil
}

// ReadPages fills buf with whole pages of a process that is frozen, from addr
// on. Memory without PROT_READ is read too. The error wraps [unix.ESRCH] if the
// process has ended.
func ReadPages(pid int, addr uint64, buf []byte) error {
	if len(buf) == 0 {
		return nil
	}
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(len(buf))
	n, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(addr), Len: len(buf)}}, 0)
	if err == nil && n == len(buf) {
		return nil
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if errors.Is(err, fs.ErrNotExist) {
		err = unix.ESRCH
	}
	if err == nil {
		defer mem.Close()
		_, err = mem.ReadAt(buf, int64(addr))
	}
	if err != nil {
		return fmt.Errorf("reading memory of process %d at %#x: %w", pid, addr, err)
	}
	return nil
}
