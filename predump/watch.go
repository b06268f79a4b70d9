package predump

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// watched is a task whose address space a userfaultfd of ours watches.
type watched struct {
	fd       int // -1 if nothing watches
	distrust bool
}

func (w *watched) close() error {
	fd := w.fd
	if w.fd = -1; fd < 0 {
		return nil
	}
	return unix.Close(fd)
}

// split registers mappings and parts those that are watched from those that
// cannot be: watched by the program itself (EBUSY), of a kind that has no
// protection, or gone. Neither is watched if the task has left the address space
// that w is of: m is the one that it has now.
func (w *watched) split(m *memory, mappings []extent) (ours, others []extent) {
	for _, e := range mappings {
		if w.fd >= 0 && register(w.fd, e) == nil {
			ours = append(ours, e)
			continue
		}
		others = append(others, e)
	}
	if len(ours) > 0 && !m.watched(ours[0]) {
		return nil, mappings
	}
	return ours, others
}

// watched reports whether a userfaultfd watches the first page of e.
func (m *memory) watched(e extent) bool {
	s := ioctlScanner{pagemap: m.pagemap, query: watchable}
	regions, _, err := s.call(extent{e.start, e.start + PageSize})
	return err == nil && len(regions) == 1
}

// sameMemory reports whether two processes have one address space, as after
// vfork(2) (kcmp(2), KCMP_VM).
func sameMemory(a, b int) bool {
	const kcmpVM = 1
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), kcmpVM, 0, 0, 0)
	return errno == 0 && r == 0
}

// foreign are files through which something writes to a process's memory behind
// the back of its page tables, whenever it likes: requests of io_uring and RDMA
// may be under way while every thread stands still. A program that has a
// userfaultfd of its own means to watch its memory itself.
var foreign = []string{"anon_inode:[io_uring]", "anon_inode:[userfaultfd]", "/dev/infiniband/", "/dev/vfio/"}

// trusted reports whether only the task itself writes to its memory. If that
// cannot be told it is not.
func trusted(pid int) bool {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil || bytes.Contains(maps, []byte("/[aio]")) || bytes.Contains(maps, []byte(foreign[0])) {
		return false
	}
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	files, err := os.ReadDir(dir)
	for _, f := range files {
		link, err := os.Readlink(dir + f.Name())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false
		}
		for _, prefix := range foreign {
			if strings.HasPrefix(link, prefix) {
				return false
			}
		}
	}
	return err == nil
}
